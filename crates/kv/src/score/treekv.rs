//! TreeKV (He et al., 2025): one comparison of neighbours for every token too many, by a cursor that goes round, so that old
//! stretches become ever sparser.

use super::{Method, Scene};
use crate::allot::Budget;
use crate::observe::{Gather, Last, Wish};
use crate::reduce::When;

/// The mean attention a token has received decides between two neighbours.
#[derive(Debug)]
pub(super) struct TreeKv {
    /// First tokens that the cursor leaves alone.
    pub sinks: usize,
}

impl Method for TreeKv {
    fn wish(&self) -> Wish {
        Wish::columns(Gather::Sum, Last::All)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let mean = |head: usize, slot: usize, received: f64| received / scene.observers(head, slot).max(1) as f64;
        let lane = |head: usize| {
            let received = scene.received(head).into_iter().enumerate();
            received.map(|(slot, received)| mean(head, slot, received) as f32).collect()
        };
        scene.heads().map(lane).collect()
    }

    fn choose(&self, scene: &Scene<'_>, scores: &[Vec<f32>], kept: &[usize], _: Budget) -> Vec<Vec<u32>> {
        let lane = |(head, (scores, &kept)): (usize, (&Vec<f32>, &usize))| {
            let sinks = self.sinks.min(kept);
            let chosen = sweep(&scores[sinks..], kept - sinks, scene.lanes[head].dropped());
            (0..sinks as u32).chain(chosen.into_iter().map(|slot| slot + sinks as u32)).collect()
        };
        scores.iter().zip(kept).enumerate().map(lane).collect()
    }

    fn least(&self) -> usize {
        self.sinks
    }

    fn when(&self) -> When {
        When::Both
    }

    fn describe(&self) -> String {
        "mean attention received, compared between neighbours by a cursor that goes round".to_owned()
    }
}

/// What is left of so many tokens that come one by one to a cache of `size`, of which `dropped` are gone already. The older
/// of equal ones goes.
fn sweep(scores: &[f32], size: usize, dropped: usize) -> Vec<u32> {
    if size == 0 {
        return Vec::new();
    }
    let mut held: Vec<u32> = (0..size.min(scores.len()) as u32).collect();
    let mut cursor = dropped % size;
    for new in size as u32..scores.len() as u32 {
        held.push(new);
        let [a, b] = [held[cursor], held[cursor + 1]].map(|slot| scores[slot as usize]);
        held.remove(if a <= b { cursor } else { cursor + 1 });
        cursor = (cursor + 1) % size;
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_leave_ever_wider_gaps_towards_the_beginning() {
        // The dossier's.
        for (size, tokens, left) in [
            (4, 8, vec![1, 3, 5, 7]),
            (4, 12, vec![3, 7, 9, 11]),
            (4, 20, vec![11, 15, 17, 19]),
            (8, 64, vec![39, 47, 51, 55, 57, 59, 61, 63]),
        ] {
            assert_eq!(sweep(&vec![0.5; tokens], size, 0), left);
        }
    }

    #[test]
    fn going_on_is_going_through() {
        let scores: Vec<f32> = (0..100u32).map(|i| (i * 37 % 101) as f32).collect();
        let mut held: Vec<u32> = (0..16).collect();
        let mut dropped = 0;
        for new in (16..100u32).step_by(7) {
            held.extend(new..(new + 7).min(100));
            let of: Vec<f32> = held.iter().map(|&slot| scores[slot as usize]).collect();
            let left = sweep(&of, 16, dropped);
            dropped += held.len() - left.len();
            held = left.into_iter().map(|i| held[i as usize]).collect();
        }
        assert_eq!(held, sweep(&scores, 16, 0));
    }
}
