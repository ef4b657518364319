//! Chelsea (Hu et al., 2025): within chunks of neighbours, every other token joins the most similar of the rest, again and
//! again until the budget is met.

use super::{Merge, Rows, nearest};
use crate::lane::keep::Merged;
use crate::score::Scene;

/// Chunks of `chunk` tokens; the first `sinks` and the last `window` stay as they are.
#[derive(Debug)]
pub(super) struct Chelsea {
    pub chunk: usize,
    pub sinks: usize,
    pub window: usize,
}

/// Tokens that became one.
struct Cluster {
    /// The slot that stays.
    slot: u32,
    /// The others.
    members: Vec<u32>,
}

impl Merge for Chelsea {
    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], _: &[Vec<f32>]) -> Vec<Vec<Merged>> {
        let lane = |(head, chosen): (usize, &mut Vec<u32>)| {
            let rows = Rows::of(scene, head);
            let (slots, budget) = (scene.slots(head), chosen.len());
            let sinks = self.sinks.min(budget);
            let window = self.window.min(budget - sinks);
            let single = |slot: usize| Cluster { slot: slot as u32, members: Vec::new() };
            let mut body: Vec<Cluster> = (sinks..slots - window).map(single).collect();
            let target = budget - sinks - window;
            while body.len() > target.max(1) {
                let before = body.len();
                body = self.round(scene, &rows, body, target);
                if body.len() == before {
                    break;
                }
            }
            if target == 0 {
                body.clear();
            }
            *chosen = (0..sinks as u32).collect();
            chosen.extend(body.iter().map(|cluster| cluster.slot));
            chosen.extend((slots - window) as u32..slots as u32);
            let merged = body.iter().filter(|cluster| !cluster.members.is_empty());
            merged.map(|cluster| rows.together(cluster.slot, &cluster.members)).collect()
        };
        chosen.iter_mut().enumerate().map(lane).collect()
    }

    fn describe(&self) -> String {
        format!("every other token of a chunk of {} joins the most similar of the rest, with exact weights", self.chunk)
    }
}

impl Chelsea {
    /// One round over all chunks: the most similar pairs of each, no more than bring it to its share of `target`.
    fn round(&self, scene: &Scene<'_>, rows: &Rows, body: Vec<Cluster>, target: usize) -> Vec<Cluster> {
        let all = body.len();
        let mut excess = all - target;
        let mut left = all;
        let mut next: Vec<Cluster> = Vec::with_capacity(all);
        let mut body = body.into_iter().peekable();
        while body.peek().is_some() {
            let mut chunk: Vec<Option<Cluster>> = body.by_ref().take(self.chunk).map(Some).collect();
            // Its share of what is still to go, so that all chunks together meet the target.
            let share = (excess * chunk.len()).div_ceil(left).min(chunk.len() / 2);
            left -= chunk.len();
            let center = |i: usize| -> Vec<f32> {
                let cluster = chunk[i].as_ref().map(|c| rows.together(c.slot, &c.members).k);
                let k = cluster.unwrap_or_default();
                let norm = k.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                k.into_iter().map(|x| x / norm).collect()
            };
            let centers = |odd: usize| (odd..chunk.len()).step_by(2).flat_map(center).collect::<Vec<f32>>();
            let near = nearest(scene.isa, &centers(0), &centers(1), rows.dim);
            let mut edges: Vec<(usize, usize, f32)> =
                near.iter().enumerate().map(|(i, &(to, similarity))| (2 * i, 2 * to + 1, similarity)).collect();
            edges.retain(|edge| edge.1 < chunk.len());
            edges.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
            for &(from, to, _) in edges.iter().take(share) {
                if let Some(gone) = chunk[from].take()
                    && let Some(into) = &mut chunk[to]
                {
                    into.members.push(gone.slot);
                    into.members.extend(gone.members);
                    excess -= 1;
                }
            }
            next.extend(chunk.into_iter().flatten());
        }
        next
    }
}
