//! **mend**: a context put together from stretches that were computed elsewhere, and the rows of it that are computed anew.
//!
//! Keys of a stretch that moves are turned to their new positions, which is exact ([`Rope::shift`](crate::Rope::shift)). What
//! they and the values say of the tokens that stood before them is not: it is what another context left there. Some rows are
//! therefore computed again, with the mask of their true positions, and written over what was moved: those that deviate most
//! where that can first be seen (CacheBlend, Yao et al., 2025; KVShare, Yang et al., 2025), or those that somebody named
//! beforehand (Cache-Craft, Agarwal et al., 2025). Tokens that nobody has computed lie among them.
//!
//! Nothing is encoded before that is done, so that rows read what they follow exactly, and rows can be written over.

mod assemble;
mod stale;

use crate::pool::ledger::{Purpose, Reservation};
use crate::{KvCache, KvError, SequenceKv};
pub use assemble::Piece;
pub use stale::Refresh;
pub(crate) use stale::Stale;
use std::ops::Range;

/// What tells that a row says something else here than where it was computed. All are sums of squared differences over the
/// heads and channels of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deviation {
    /// Of values (CacheBlend's code).
    #[default]
    Values,
    /// Of keys (CacheBlend in LMCache).
    Keys,
    /// Of both (KVShare).
    Both,
}

/// From the layer after `after` on, only some rows are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filter {
    /// The last layer that computes more rows; deviations are measured there.
    pub after: usize,
    /// The share of all moved rows that goes on.
    pub share: f64,
}

/// Which of the moved rows are computed again.
#[derive(Clone, Debug, PartialEq)]
pub enum Select {
    /// Those at these positions of the sequence, ascending, through all layers.
    Rows(Vec<u32>),
    /// All of them in the layers before the first filter ends them; then those that deviate most.
    Deviating {
        /// What is measured.
        of: Deviation,
        /// Ascending layers, descending shares.
        filters: Vec<Filter>,
        /// Rows that deviate by less than this are not computed again, whatever the share.
        least: f32,
    },
}

/// A mending under way.
#[derive(Debug)]
pub(crate) struct Mend {
    /// Positions that nobody has computed, ascending: they go through all layers.
    new: Vec<u32>,
    of: Deviation,
    least: f32,
    /// For every filter the layer, and how many moved rows go on.
    filters: Vec<(usize, usize)>,
    /// Which filter ends this pass; past the last where none does.
    stage: usize,
    /// Positions of the rows of this pass, ascending.
    rows: Vec<u32>,
    /// Those done.
    at: usize,
    /// Of the rows done, in the last layer of this pass.
    deviations: Vec<f32>,
    /// What goes into the first layer, `[rows][hidden]`; embeddings in the first pass.
    input: Vec<f32>,
    /// What has come out of the last layer so far.
    output: Vec<f32>,
    /// Whether rows that go no further are remembered, with their deviations.
    keeps_left: bool,
    left: Vec<(u32, f32)>,
    /// Pages that were opened for it.
    opened: Vec<usize>,
    _bytes: Reservation,
}

impl Mend {
    fn begin(cache: &KvCache, new: Vec<u32>, moved: &[Range<usize>], select: &Select) -> Result<Option<Mend>, KvError> {
        let layers = &cache.config().layers;
        let positions = |ranges: &[Range<usize>]| -> Vec<u32> {
            ranges.iter().flat_map(|range| range.clone().map(|position| position as u32)).collect()
        };
        let (mut of, mut least, mut filters) = (Deviation::default(), 0.0, Vec::new());
        let mut rows = match select {
            Select::Rows(chosen) => {
                let is_moved = |row: &&u32| moved.iter().any(|range| range.contains(&(**row as usize)));
                chosen.iter().filter(is_moved).copied().collect()
            }
            Select::Deviating { of: what, filters: wanted, least: bound } => {
                let all: usize = moved.iter().map(Range::len).sum();
                (of, least) = (*what, *bound);
                for filter in wanted.iter().filter(|filter| filter.after + 1 < layers.len()) {
                    filters.push((filter.after, ((all as f64 * filter.share).ceil() as usize).min(all)));
                }
                positions(moved)
            }
        };
        rows.extend_from_slice(&new);
        rows.sort_unstable();
        rows.dedup();
        if rows.is_empty() {
            return Ok(None);
        }
        // Input and output of a pass; the model's width is that of its attention, as far as the cache can know.
        let hidden = layers.iter().map(|g| g.heads * g.head_dim).max().unwrap_or(0);
        let bytes = if filters.is_empty() { 0 } else { 2 * 4 * rows.len() * hidden };
        let _bytes = cache.ledger().reserve(Purpose::Scratch, bytes as u64)?;
        Ok(Some(Mend { of, least, filters, ..Mend::of(new, rows, _bytes) }))
    }

    /// These rows through all layers.
    fn of(new: Vec<u32>, rows: Vec<u32>, _bytes: Reservation) -> Mend {
        Mend {
            new,
            of: Deviation::default(),
            least: 0.0,
            filters: Vec::new(),
            stage: 0,
            rows,
            at: 0,
            deviations: Vec::new(),
            input: Vec::new(),
            output: Vec::new(),
            keeps_left: false,
            left: Vec::new(),
            opened: Vec::new(),
            _bytes,
        }
    }

    /// Layers of this pass, of so many.
    fn layers(&self, layers: usize) -> Range<usize> {
        let first = self.stage.checked_sub(1).map_or(0, |before| self.filters[before].0 + 1);
        first..self.filters.get(self.stage).map_or(layers, |filter| filter.0 + 1)
    }

    /// Goes on to the next pass, at the end of one. False where there is none.
    fn next(&mut self) -> bool {
        let Some(&(_, count)) = self.filters.get(self.stage) else { return false };
        let is_new: Vec<bool> = self.rows.iter().map(|row| self.new.binary_search(row).is_ok()).collect();
        let deviation = |i: usize| self.deviations.get(i).copied().unwrap_or(0.0);
        let mut moved: Vec<usize> =
            (0..self.rows.len()).filter(|&i| !is_new[i] && deviation(i) >= self.least).collect();
        // Of rows that deviate alike the first ones.
        moved.sort_by(|&a, &b| deviation(b).total_cmp(&deviation(a)).then(a.cmp(&b)));
        if self.keeps_left {
            let left = moved.iter().skip(count).map(|&i| (self.rows[i], deviation(i)));
            self.left.extend(left);
        }
        moved.truncate(count);
        moved.extend((0..self.rows.len()).filter(|&i| is_new[i]));
        moved.sort_unstable();
        let hidden = self.output.len() / self.rows.len().max(1);
        self.input = moved.iter().flat_map(|&i| self.output[i * hidden..(i + 1) * hidden].iter().copied()).collect();
        self.rows = moved.iter().map(|&i| self.rows[i]).collect();
        (self.output, self.deviations, self.at) = (Vec::new(), Vec::new(), 0);
        self.stage += 1;
        !self.rows.is_empty()
    }
}

impl SequenceKv {
    /// Tokens that were moved here from elsewhere, whether their rows were computed again or not: more than none, and what the
    /// sequence holds is not what its tokens alone would give.
    pub fn moved(&self) -> usize {
        self.moved
    }

    /// Positions of the rows that are to be computed next over what is there, where any are.
    pub(crate) fn mended(&self) -> Option<&[u32]> {
        self.mend.as_ref().map(|mend| &mend.rows[mend.at..])
    }

    /// Layers that the next rows go through, where the sequence is being mended.
    pub(crate) fn mended_layers(&self) -> Option<Range<usize>> {
        self.mend.as_ref().map(|mend| mend.layers(self.plan.lanes.len()))
    }

    /// See [`SequenceKv::carried`].
    pub(crate) fn mended_input(&self, rows: usize, hidden: usize) -> Option<&[f32]> {
        let mend = self.mend.as_ref().filter(|mend| mend.stage > 0)?;
        mend.input.get(mend.at * hidden..(mend.at + rows) * hidden)
    }

    /// See [`SequenceKv::carry`].
    pub(crate) fn mended_output(&mut self, rows: &[f32]) {
        if let Some(mend) = &mut self.mend {
            mend.output.extend_from_slice(rows);
        }
    }

    /// What is compared in a layer, if anything is.
    pub(crate) fn compares(&self, layer: usize) -> Option<Deviation> {
        let mend = self.mend.as_ref()?;
        mend.filters.get(mend.stage).filter(|filter| filter.0 == layer).map(|_| mend.of)
    }

    /// Deviations of the next rows.
    pub(crate) fn deviate(&mut self, deviations: &[f32]) {
        if let Some(mend) = &mut self.mend {
            mend.deviations.extend_from_slice(deviations);
        }
    }

    /// Takes in that so many rows are computed.
    pub(crate) fn advance(&mut self, rows: usize) {
        match &mut self.mend {
            Some(mend) => mend.at += rows,
            None => self.len += rows,
        }
    }
}

impl KvCache {
    /// Keys that one lane holds as attention reads them, `[slots][head_dim]`, for tests.
    #[doc(hidden)]
    pub fn keys(&self, seq: &SequenceKv, layer: usize, head: usize) -> Vec<f32> {
        let lane = seq.lane(layer, head);
        lane.keys(lane.slots(seq.len), self.config().layers[layer].rope.as_deref())
    }

    /// Between steps: what is mended next, where rows are done.
    pub(crate) fn go_on_mending(&self, seq: &mut SequenceKv) {
        let Some(mend) = &mut seq.mend else { return };
        if mend.at < mend.rows.len() {
            return;
        }
        // A last pass through all layers there are: those that computed every row only to compare are none.
        let done = if mend.stage == mend.filters.len() { mend.moved_rows() } else { 0 };
        if mend.next() {
            return;
        }
        if let Some(mend) = seq.mend.take() {
            mend.end(seq, done);
        }
        self.release(seq);
    }

    /// From now on pages are encoded as they leave the window, unless a reduction is to come.
    pub(crate) fn release(&self, seq: &mut SequenceKv) {
        if !seq.pending.as_ref().is_some_and(|pending| pending.holds()) {
            seq.lanes.iter_mut().for_each(crate::lane::Lane::release);
        }
    }
}
