//! Which blocks of a prompt are read from below, and how far is computed meanwhile.

use std::ops::Range;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{CachePlan, KvCache};
use cachalot_store::cost::{Demand, Source, decide};
use cachalot_store::tier::Level;

use super::below::{Parts, There};
use super::fetch::Wanted;
use super::{Reuse, Thread};
use crate::observe;

/// Of so many fetches in a row that were not begun, one is, beside computing: a tier that was slow once may be fast again.
const TRY: u64 = 16;

impl Reuse {
    /// What to read of what is there for a prompt of which the pool has `first` blocks, and what to compute meanwhile. `None`
    /// where computing all of it is fastest.
    pub(super) fn weigh(
        &mut self,
        wanted: &Wanted<'_>,
        thread: &Thread,
        there: &There,
        first: usize,
        from: usize,
    ) -> Option<Choice> {
        let Wanted { cache, plan, tokens, .. } = wanted;
        let near = near_blocks(cache, plan);
        let end = from + choose(&there.parts, near).len();
        if end <= first {
            return None;
        }
        let cost = &self.lower.cost;
        let level = |block: usize| there.levels.get(block - from).copied().unwrap_or(Level::Remote);
        let bytes = cache.bytes_with(plan, PAGE_TOKENS);
        let tier = |block| Source::Tier {
            name: level(block).name().to_owned(),
            bytes,
            codec: "none".to_owned(),
            pages: bytes,
        };
        let blocks = (0..end).map(|block| vec![if block < first { Source::Pool } else { tier(block) }]).collect();
        let queues = self.lower.fetching.values().filter(|fetch| fetch.left > 0);
        let demand = Demand {
            tokens: tokens.len(),
            block: PAGE_TOKENS,
            blocks,
            compute_queue: cost.prefill(wanted.queued, 0),
            tier_queues: queues.map(|fetch| (fetch.level.name().to_owned(), fetch.bytes)).collect(),
            pipelined: true,
            layers: 0,
        };
        let decided = decide(cost, &demand);
        let (mut meet, mut to) = (decided.front.end, decided.tail.start / PAGE_TOKENS);
        let reading = |blocks: Range<usize>| -> f64 {
            let slowest = blocks.clone().map(level).max().map_or(0.0, |level| cost.latency(level.name()));
            slowest + blocks.map(|block| cost.transfer(level(block).name(), bytes)).sum::<f64>()
        };
        if !thread.may_begin_twice(plan) {
            // All that is there, or nothing.
            (meet, to) = (first, end);
            if reading(first..end) > cost.prefill((end - first) * PAGE_TOKENS, first * PAGE_TOKENS) {
                to = first;
            }
        }
        if to <= meet {
            self.lower.refused += 1;
            observe::fetch("refused");
            if self.lower.refused < TRY || end < first + 2 || !thread.may_begin_twice(plan) {
                return None;
            }
            (meet, to) = (end - 1, end);
        }
        self.lower.refused = 0;
        // A query that goes on from there reads what is close before it in another form.
        let parts = choose(&there.parts[..to - from], near);
        // Where computing meets it, the last block that has left the window is not encoded yet.
        let before = if near > 0 { near + 1 } else { 0 };
        let (begin, to) =
            (if meet == first { from } else { meet.saturating_sub(before).max(from) }, from + parts.len());
        let parts = parts[(begin - from).min(parts.len())..].to_vec();
        let slowest = (begin..to).map(level).max()?;
        let seconds = reading(begin..to);
        (to > meet && parts.iter().any(|parts| parts.any())).then_some(Choice {
            meet,
            from: begin,
            parts,
            level: slowest,
            seconds,
        })
    }
}

/// Blocks to read, from `from` on, and how far to compute meanwhile.
pub(super) struct Choice {
    pub meet: usize,
    pub from: usize,
    pub parts: Vec<Parts>,
    pub level: Level,
    pub seconds: f64,
}

/// Blocks before a position that a query there reads in another form than queries far behind: none where all is plain.
pub(super) fn near_blocks(cache: &KvCache, plan: &CachePlan) -> usize {
    let layers = cache.config().layers.iter().zip(&plan.lanes);
    let near = layers.map(|(g, lanes)| {
        let encoded = lanes.iter().filter(|lane| lane.body.is_some() && !plan.holds()).map(|lane| lane.window);
        // Positions to go on from are whole blocks.
        let window = encoded.map(|window| window.div_ceil(PAGE_TOKENS)).max().unwrap_or(0);
        window.max(g.window.map_or(0, |window| (window - 1).div_ceil(PAGE_TOKENS)))
    });
    near.max().unwrap_or(0)
}

/// Of what is there, the blocks up to the last from which a query can go on: it needs the second part of the `near` before it.
fn choose(parts: &[Parts], near: usize) -> Vec<Parts> {
    if near == 0 {
        let kept = parts.iter().take_while(|parts| parts.kept).count();
        return parts[..kept].iter().map(|parts| Parts { near: false, ..*parts }).collect();
    }
    let ends = |&end: &usize| {
        let (far, close) = parts[..end].split_at(end.saturating_sub(near));
        far.iter().all(|parts| parts.kept) && close.iter().all(|parts| parts.near)
    };
    let end = (1..=parts.len()).rev().find(ends).unwrap_or(0);
    let begin = end.saturating_sub(near);
    parts[..end].iter().enumerate().map(|(i, parts)| Parts { near: parts.near && i >= begin, ..*parts }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_fetched_up_to_where_a_query_can_go_on() {
        let parts = |text: &str| -> Vec<Parts> {
            let part = |c| Parts { kept: c != 'n', near: c != 'k' };
            text.chars().map(part).collect()
        };
        // k: kept alone, n: near alone, b: both.
        assert_eq!(choose(&parts("kkkk"), 0).len(), 4);
        assert_eq!(choose(&parts("kknk"), 0).len(), 2);
        assert_eq!(choose(&parts("kkkk"), 2).len(), 0);
        assert_eq!(choose(&parts("kkbbkk"), 2), parts("kkbb"));
        assert_eq!(choose(&parts("bkkknn"), 2), parts("kkkknn"));
        assert_eq!(choose(&parts("b"), 2), parts("b"));
        assert_eq!(choose(&parts("bnnbb"), 2), parts("knn"));
    }
}
