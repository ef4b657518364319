//! One answer on its way through the exact cache.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cachalot_kernels::divergence::{NonFinite, Row};
use cachalot_kv::{KvCache, KvFormat, SequenceKv};
use cachalot_store::tier::Tenant;

use super::{Divergence, KvReport, Recorded, Skipped};
use crate::EngineError;

/// For whom an answer is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The client, who waits.
    Report,
    /// The metrics.
    Shadow,
}

impl Kind {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Report => "report",
            Kind::Shadow => "shadow",
        }
    }
}

/// A choice and what was kept of it.
#[derive(Debug)]
pub(crate) struct Script {
    pub choice: usize,
    /// The prompt, then what was generated.
    pub tokens: Vec<u32>,
    /// By step.
    pub rows: VecDeque<Recorded>,
}

/// Rows that are next, of the tokens of the choice in work.
#[derive(Debug, PartialEq)]
pub(crate) struct Chunk {
    pub tokens: Range<usize>,
    /// Those of them, counted from the first, whose logits are wanted.
    pub wanted: Vec<usize>,
}

/// The choices of one request, one after the other. They share the prompt's part of the cache.
#[derive(Debug)]
pub(crate) struct Replay {
    pub request: u64,
    pub kind: Kind,
    pub tenant: Tenant,
    /// The recipe as metrics may name it.
    pub label: Arc<str>,
    /// Tokens of the prompt, at least one.
    pub prompt: usize,
    pub share: f64,
    pub exact: KvFormat,
    /// The first is in work. All have rows.
    pub scripts: VecDeque<Script>,
    /// Absent before the first step, and while a batch has it.
    pub kv: Option<SequenceKv>,
    /// When the answer was complete.
    pub asked: Duration,
    pub deadline: Duration,
    /// Tokens computed for the choice in work.
    pub computed: usize,
    /// Engine time that it took.
    pub spent: Duration,
    pub tally: Divergence,
}

impl Replay {
    /// Tokens that the exact cache must see for the choice in work: up to the last row that was kept.
    pub fn end(&self) -> usize {
        let last = self.scripts.front().and_then(|script| script.rows.back());
        last.map_or(0, |row| self.prompt + row.step)
    }

    /// The longest of all choices.
    pub fn longest(&self) -> usize {
        let last = self.scripts.iter().filter_map(|script| script.rows.back()).map(|row| row.step).max();
        last.map_or(0, |step| self.prompt + step)
    }

    /// At most `rows` rows, of which at most `most` want logits.
    pub fn chunk(&self, rows: usize, most: usize) -> Chunk {
        let from = self.kv.as_ref().map_or(0, SequenceKv::len);
        let until = self.end().min(from + rows);
        let kept = self.scripts.front().into_iter().flat_map(|script| &script.rows);
        // Logits after a position say what comes at the next.
        let places = kept.map(|row| self.prompt - 1 + row.step).skip_while(|&place| place < from);
        let wanted: Vec<usize> = places.take_while(|&place| place < until).take(most.max(1)).collect();
        let until = if wanted.len() == most.max(1) { wanted.last().map_or(until, |last| last + 1) } else { until };
        Chunk { tokens: from..until, wanted: wanted.into_iter().map(|place| place - from).collect() }
    }

    /// Compares a row of the exact cache with the one that was kept of the same step. Returns its divergence and whether
    /// both find the same token most likely.
    pub fn compare(&mut self, exact: &[f32]) -> Result<(f64, bool), Skipped> {
        let not_a_number = |e: NonFinite| {
            Skipped::Failed(EngineError::NonFiniteLogits { token: e.token as u32, value: e.value.to_string() })
        };
        let lost = || Skipped::Failed(EngineError::Model("it returned logits that nobody had asked for".into()));
        let script = self.scripts.front_mut().ok_or_else(lost)?;
        let lossy = script.rows.pop_front().ok_or_else(lost)?;
        let chosen = script.tokens.get(self.prompt + lossy.step).copied().ok_or_else(lost)?;
        let (exact, row) = (Row::new(exact).map_err(not_a_number)?, Row::new(&lossy.logits).map_err(not_a_number)?);
        let measure = row.against(&exact, chosen);
        self.tally.add(lossy.step, &measure, exact.first() == Some(chosen));
        Ok((measure.kl, measure.same_top1))
    }

    /// Whether the choice in work has no rows left.
    pub fn choice_done(&self) -> bool {
        self.scripts.front().is_some_and(|script| script.rows.is_empty())
    }

    /// The report of the choice in work, which ends with it, and its number. The next one begins behind the prompt.
    pub fn close(&mut self, outcome: Result<(), Skipped>, cache: &KvCache, now: Duration) -> Option<(usize, KvReport)> {
        let script = self.scripts.pop_front()?;
        let report = KvReport {
            outcome: outcome.map(|()| self.tally),
            of: script.tokens.len() - self.prompt,
            share: self.share,
            exact: self.exact,
            exact_tokens: self.computed,
            seconds: now.saturating_sub(self.asked).as_secs_f64(),
        };
        (self.tally, self.computed) = (Divergence::default(), 0);
        // The prompt's last token is computed again, for its logits. Where a window forgot what that needs, all of it is.
        if let Some(kv) = &mut self.kv
            && cache.truncate(kv, (self.prompt - 1).min(kv.len())).is_err()
        {
            self.kv = None;
        }
        Some((script.choice, report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Record;
    use cachalot_kv::Ledger;

    fn script(choice: usize, tokens: usize, steps: std::ops::Range<usize>) -> Script {
        let mut record = Record::new(1.0, 64, 0, choice, &Ledger::new(1 << 20));
        steps.for_each(|step| record.see(step, &[0.0, 1.0]));
        Script { choice, tokens: vec![1; tokens], rows: record.into_rows() }
    }

    fn replay(prompt: usize, scripts: Vec<Script>) -> Replay {
        Replay {
            request: 1,
            kind: Kind::Report,
            tenant: Tenant::named(""),
            label: "x".into(),
            prompt,
            share: 1.0,
            exact: KvFormat::default(),
            scripts: scripts.into(),
            kv: None,
            asked: Duration::ZERO,
            deadline: Duration::MAX,
            computed: 0,
            spent: Duration::ZERO,
            tally: Divergence::default(),
        }
    }

    #[test]
    fn chunks_end_where_enough_rows_are_wanted() {
        // The first row comes from the last token of the prompt, the last of seven from that before the last token.
        let one = replay(5, vec![script(0, 12, 0..7), script(1, 9, 0..4)]);
        assert_eq!((one.end(), one.longest()), (11, 11));
        assert_eq!(one.chunk(100, 100), Chunk { tokens: 0..11, wanted: vec![4, 5, 6, 7, 8, 9, 10] });
        assert_eq!(one.chunk(100, 3), Chunk { tokens: 0..7, wanted: vec![4, 5, 6] });
        assert_eq!(one.chunk(4, 3), Chunk { tokens: 0..4, wanted: vec![] });
        assert_eq!(replay(1, vec![script(0, 2, 0..1)]).chunk(9, 9), Chunk { tokens: 0..1, wanted: vec![0] });
    }

    #[test]
    fn rows_that_are_not_numbers_are_said_to_be_none() {
        let mut one = replay(5, vec![script(0, 8, 0..3)]);
        assert_eq!(one.compare(&[0.0, 1.0]), Ok((0.0, true)));
        assert!(matches!(
            one.compare(&[0.0, f32::NAN]),
            Err(Skipped::Failed(EngineError::NonFiniteLogits { token: 1, .. }))
        ));
        assert!(!one.choice_done());
        assert!(one.compare(&[1.0, 1.0]).is_ok_and(|(kl, _)| kl > 0.0) && one.choice_done());
        assert!(matches!(one.compare(&[1.0, 1.0]), Err(Skipped::Failed(_))), "one row too many");
    }
}
