//! **observe**: what attention leaves behind for those that score, and only where a recipe asks.
//!
//! So far the last query rows before a reduction, from which a scorer computes the attention it wants. A sequence whose recipe
//! asks for none keeps none.

use crate::pool::ledger::{Ledger, Purpose, Reservation};
use crate::{KvError, LayerGeometry};

/// The last query rows of one sequence, layer by layer, rotated and scaled.
#[derive(Debug)]
pub(crate) struct Observed {
    /// Rows to keep.
    rows: usize,
    /// `[layer]`, each `[row][kv_head][group][width]`, oldest first.
    layers: Vec<Vec<f32>>,
    held: Reservation,
}

impl Observed {
    /// Room for `rows` of every layer.
    pub fn new(rows: usize, layers: &[LayerGeometry], ledger: &Ledger) -> Result<Observed, KvError> {
        let bytes = layers.iter().map(|g| 4 * rows * g.heads * g.width()).sum::<usize>();
        let held = ledger.reserve(Purpose::Scratch, bytes as u64)?;
        Ok(Observed { rows, layers: vec![Vec::new(); layers.len()], held })
    }

    /// The same for a branch of the sequence.
    pub fn copy(&self, ledger: &Ledger) -> Result<Observed, KvError> {
        let held = ledger.reserve(Purpose::Scratch, self.held.bytes())?;
        Ok(Observed { rows: self.rows, layers: self.layers.clone(), held })
    }

    /// Takes in the queries of a step: `count` rows from `first` of `q`, `[kv_head][rows][group][width]`.
    pub fn push(&mut self, layer: usize, g: &LayerGeometry, q: &[f32], rows: usize, first: usize, count: usize) {
        let (len, each) = (g.heads * g.width(), g.group() * g.width());
        let kept = &mut self.layers[layer];
        let new = count.min(self.rows);
        let stale = (kept.len() / len + new).saturating_sub(self.rows);
        kept.drain(..stale * len);
        for row in first + count - new..first + count {
            for head in 0..g.kv_heads {
                kept.extend_from_slice(&q[(head * rows + row) * each..][..each]);
            }
        }
    }

    /// The rows of a layer that one KV head answers, `[row][group][width]`.
    pub fn of_head(&self, layer: usize, g: &LayerGeometry, head: usize) -> Vec<f32> {
        let (len, each) = (g.heads * g.width(), g.group() * g.width());
        self.layers[layer].chunks_exact(len).flat_map(|row| row[head * each..][..each].iter().copied()).collect()
    }
}
