//! Moved rows that were not computed again, while an answer is generated over them: what attention they receive, and what is
//! computed again then (the decode stage of KVShare, Yang et al., 2025; its formulas are a reconstruction).

use super::Mend;
use crate::pool::ledger::{Purpose, Reservation};
use crate::{KvCache, KvError, SequenceKv};
use cachalot_kernels::attention::PAGE_TOKENS;

/// Rows that are computed again while an answer is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Tokens of the answer between one time and the next.
    pub every: usize,
    /// Rows each time.
    pub rows: usize,
}

/// The rows of one sequence that still say what they said elsewhere.
#[derive(Debug)]
pub(crate) struct Stale {
    refresh: Refresh,
    /// Their positions, ascending; empty until the sequence is mended.
    positions: Vec<u32>,
    /// How far each was off where that was last measured.
    deviations: Vec<f32>,
    /// Attention that each has received since then, summed over rows, heads and layers.
    received: Vec<f64>,
    /// Tokens of the sequence when rows were last computed again, or when the answer began.
    since: Option<usize>,
    _held: Reservation,
}

impl Stale {
    /// Positions of the rows, ascending.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Takes in what rows have received, from the row `first` on.
    pub fn receive(&mut self, first: usize, shares: &[f64]) {
        self.received[first..].iter_mut().zip(shares).for_each(|(to, share)| *to += share);
    }

    /// Rows that a mending has left as they were, with their deviations.
    pub(super) fn fill(&mut self, mut left: Vec<(u32, f32)>) {
        left.sort_unstable_by_key(|(position, _)| *position);
        (self.positions, self.deviations) = left.into_iter().unzip();
        self.received = vec![0.0; self.positions.len()];
    }

    /// Takes out the rows whose attention times deviation is largest, of those that `may` be written; ascending.
    fn take(&mut self, may: impl Fn(u32) -> bool) -> Vec<u32> {
        let product = |i: usize| self.received[i] * f64::from(self.deviations[i]);
        let mut order: Vec<usize> = (0..self.positions.len()).filter(|&i| product(i) > 0.0).collect();
        order.sort_by(|&a, &b| product(b).total_cmp(&product(a)).then(a.cmp(&b)));
        let mut chosen: Vec<usize> =
            order.into_iter().filter(|&i| may(self.positions[i])).take(self.refresh.rows).collect();
        chosen.sort_unstable();
        let rows = chosen.iter().map(|&i| self.positions[i]).collect();
        for i in chosen.into_iter().rev() {
            self.positions.remove(i);
            self.deviations.remove(i);
            self.received.remove(i);
        }
        rows
    }
}

impl Mend {
    /// Moved rows once more, whose pages were opened for that; nothing where there are none.
    pub(super) fn again(cache: &KvCache, rows: Vec<u32>) -> Option<Mend> {
        let nothing = cache.ledger().reserve(Purpose::Scratch, 0).ok().filter(|_| !rows.is_empty())?;
        let mut opened: Vec<usize> = rows.iter().map(|&row| row as usize / PAGE_TOKENS).collect();
        opened.dedup();
        Some(Mend { opened, ..Mend::of(Vec::new(), rows, nothing) })
    }

    /// Moved rows among those of this pass.
    pub(super) fn moved_rows(&self) -> usize {
        self.rows.iter().filter(|row| self.new.binary_search(row).is_err()).count()
    }

    /// What it leaves: `done` moved rows of it went through the last layer.
    pub(super) fn end(self, seq: &mut SequenceKv, done: usize) {
        seq.recomputed += done;
        let (len, first) = (seq.len, self.opened.is_empty());
        for page in self.opened.into_iter().filter(|page| (page + 1) * PAGE_TOKENS <= len) {
            seq.lanes.iter_mut().for_each(|lane| lane.close(page));
        }
        if let (true, Some(stale)) = (first, &mut seq.stale) {
            stale.fill(self.left);
        }
    }
}

impl KvCache {
    /// From the end of the mending that was announced on, sees what the moved rows receive that are left as they were, for
    /// [`KvCache::refresh`]. Sequences whose lanes are encoded, reduced or cut to a window are left alone: their rows cannot be
    /// written over.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] where there is no room for the sums.
    pub fn watch_stale(&self, seq: &mut SequenceKv, refresh: Refresh) -> Result<(), KvError> {
        let plain = seq.lanes.iter().all(|lane| lane.body_kind().is_none());
        let whole = self.config().layers.iter().all(|g| g.window.is_none());
        let Some(mend) = seq.mend.as_mut() else { return Ok(()) };
        if !plain || !whole || seq.pending.is_some() || mend.filters.is_empty() || refresh.rows == 0 {
            return Ok(());
        }
        let bytes = size_of::<u32>() + size_of::<f32>() + size_of::<f64>();
        let held = self.ledger().reserve(Purpose::Scratch, (mend.rows.len() * bytes) as u64)?;
        mend.keeps_left = true;
        let (positions, deviations, received) = (Vec::new(), Vec::new(), Vec::new());
        seq.stale = Some(Box::new(Stale { refresh, positions, deviations, received, since: None, _held: held }));
        Ok(())
    }

    /// Between steps, before the next token of an answer is computed: every so many tokens announces the rows that have received
    /// most of what is wrong, to be computed again over the cache as it is ([`SequenceKv::pass_tokens`]). Whether any are.
    pub fn refresh(&self, seq: &mut SequenceKv) -> bool {
        let Some(mut stale) = seq.stale.take() else { return false };
        let len = seq.len;
        let since = *stale.since.get_or_insert(len);
        let due = len >= since + stale.refresh.every.max(1) && seq.mend.is_none();
        if due {
            stale.since = Some(len);
            // Pages that others have are theirs.
            let rows = stale.take(|row| {
                (row as usize) < len && seq.lanes.iter().all(|lane| lane.reopens(row as usize / PAGE_TOKENS))
            });
            for &row in &rows {
                seq.lanes.iter_mut().for_each(|lane| lane.reopen(row as usize / PAGE_TOKENS));
            }
            seq.mend = Mend::again(self, rows);
        }
        seq.stale = Some(stale);
        due && seq.mend.is_some()
    }
}

impl SequenceKv {
    /// Rows that were moved here and computed again since, through the last layers or all of them.
    pub fn recomputed(&self) -> usize {
        self.recomputed
    }

    /// The moved rows whose attention is looked at, where any are.
    pub(crate) fn stale_rows(&self) -> Option<&[u32]> {
        let stale = self.stale.as_ref().filter(|_| self.mend.is_none())?;
        Some(stale.positions()).filter(|rows| !rows.is_empty())
    }
}
