//! What stretches of a context attend to: how much of their attention goes to each stretch before them, and how much stays
//! within, for those who decide later how far a stretch depends on where it was computed (Cache-Craft, Agarwal et al., 2025).
//!
//! Shares of attention are rounded to multiples of 2^-32, so that their sums are exact and depend neither on steps nor on
//! threads. Layers with a sliding window are left out.

use crate::pool::ledger::{Ledger, Purpose, Reservation};
use crate::{KvCache, KvError, LayerGeometry, SequenceKv};
use std::ops::Range;

/// What one stretch of a context attends to, means over the query heads of all layers that see the whole context.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChunkMass {
    /// Its positions.
    pub span: Range<usize>,
    /// Attention of all its tokens together to each stretch before it, in order.
    pub inter: Vec<f64>,
    /// To itself.
    pub intra: f64,
    /// Of each of its tokens, to all stretches before it.
    pub outside: Vec<f64>,
}

/// What is gathered of the stretches of one sequence.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// Ascending and apart; sums, not yet means.
    masses: Vec<ChunkMass>,
    /// Which of them are looked at.
    wanted: Vec<bool>,
    /// Rows that were seen of each, added up over layers.
    rows: Vec<usize>,
    /// Layers that are looked at, and their query heads together.
    layers: usize,
    heads: usize,
    _held: Reservation,
}

/// Some rows of one stretch.
pub(crate) struct Part {
    /// Which one.
    pub chunk: usize,
    /// Attention of the rows together to each stretch before it, and at the end to itself.
    pub to: Vec<f64>,
    /// Of each row, to all stretches before it.
    pub outside: Vec<f64>,
    /// Positions of the rows.
    pub positions: Vec<usize>,
}

impl Chunks {
    fn new(
        spans: &[Range<usize>],
        wanted: Vec<bool>,
        layers: &[LayerGeometry],
        ledger: &Ledger,
    ) -> Result<Option<Chunks>, KvError> {
        let seen = layers.iter().filter(|g| g.window.is_none());
        let (count, heads) = (seen.clone().count(), seen.map(|g| g.heads).sum());
        if count == 0 || !wanted.contains(&true) {
            return Ok(None);
        }
        let size = |i: usize, span: &Range<usize>| if wanted[i] { i + span.len() } else { 0 };
        let numbers: usize = spans.iter().enumerate().map(|(i, span)| size(i, span)).sum();
        let held = ledger.reserve(Purpose::Scratch, 8 * numbers as u64)?;
        let masses = spans.iter().enumerate().map(|(i, span)| ChunkMass {
            span: span.clone(),
            inter: vec![0.0; if wanted[i] { i } else { 0 }],
            intra: 0.0,
            outside: vec![0.0; if wanted[i] { span.len() } else { 0 }],
        });
        let (masses, rows) = (masses.collect(), vec![0; spans.len()]);
        Ok(Some(Chunks { masses, wanted, rows, layers: count, heads, _held: held }))
    }

    /// Stretches.
    pub fn spans(&self) -> impl Iterator<Item = &Range<usize>> + Clone {
        self.masses.iter().map(|mass| &mass.span)
    }

    /// Those that are looked at.
    pub fn wanted(&self) -> impl Iterator<Item = (usize, &Range<usize>)> {
        self.spans().enumerate().filter(|(i, _)| self.wanted[*i])
    }

    /// Counts rows that one layer has seen.
    pub fn count(&mut self, chunk: usize, rows: usize) {
        self.rows[chunk] += rows;
    }

    /// Takes in what some rows of one KV head of a layer attend to.
    pub fn add(&mut self, part: &Part) {
        let mass = &mut self.masses[part.chunk];
        mass.inter.iter_mut().zip(&part.to).for_each(|(to, share)| *to += share);
        mass.intra += part.to[part.chunk];
        for (position, share) in part.positions.iter().zip(&part.outside) {
            mass.outside[position - mass.span.start] += share;
        }
    }

    /// Means, of those stretches of which every row was seen by every layer.
    fn finish(self) -> Vec<ChunkMass> {
        let Chunks { masses, rows, layers, heads, .. } = self;
        let whole = masses.into_iter().zip(rows).filter(|(mass, rows)| *rows == mass.span.len() * layers);
        let mean = |x: f64| x / heads as f64;
        let means = whole.map(|(mass, _)| ChunkMass {
            inter: mass.inter.into_iter().map(mean).collect(),
            intra: mean(mass.intra),
            outside: mass.outside.into_iter().map(mean).collect(),
            span: mass.span,
        });
        means.collect()
    }
}

impl KvCache {
    /// From now on looks at what those of a context's stretches, ascending and apart, attend to that are `wanted`. It costs a
    /// second look at the keys of the stretches before them.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] where there is no room for the sums; nothing is looked at then.
    pub fn watch_chunks(
        &self,
        seq: &mut SequenceKv,
        spans: &[Range<usize>],
        wanted: impl Fn(&Range<usize>) -> bool,
    ) -> Result<(), KvError> {
        let wanted = spans.iter().map(wanted).collect();
        seq.chunks = Chunks::new(spans, wanted, &self.config().layers, self.ledger())?;
        Ok(())
    }
}

impl SequenceKv {
    /// What the stretches attend to that were looked at from their first row to their last. Ends the looking.
    pub fn take_chunk_masses(&mut self) -> Vec<ChunkMass> {
        self.chunks.take().map(Chunks::finish).unwrap_or_default()
    }
}
