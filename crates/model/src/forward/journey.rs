//! Which rows of a step go through which layers. All through all, but where a recipe reads a context in stages: then some end
//! below the last layer, and what came out of it is where others begin (FastKV, Jo et al., 2025).

use std::ops::Range;

use cachalot_kv::{KvError, Segment};

/// The layers of every segment of a step.
pub(super) struct Journey {
    layers: Vec<Range<usize>>,
    /// Rows of the step.
    rows: Vec<Range<usize>>,
}

impl Journey {
    /// Of a step.
    pub fn new(segments: &[Segment<'_>]) -> Journey {
        let mut end = 0;
        let rows = segments.iter().map(|segment| {
            end += segment.rows;
            end - segment.rows..end
        });
        let rows = rows.collect();
        Journey { layers: segments.iter().map(|segment| segment.seq.layers()).collect(), rows }
    }

    fn has(&self, segment: usize, layer: usize) -> bool {
        self.layers[segment].contains(&layer) && !self.rows[segment].is_empty()
    }

    /// Whether a layer is the first, or has other segments than the one below it.
    pub fn changes(&self, layer: usize) -> bool {
        layer == 0 || (0..self.layers.len()).any(|segment| self.has(segment, layer) != self.has(segment, layer - 1))
    }

    /// The segments of a layer.
    pub fn of_layer<'a>(&self, segments: &'a mut [Segment<'_>], layer: usize) -> Vec<Segment<'a>> {
        let own = segments.iter_mut().enumerate().filter(|(segment, _)| self.layers[*segment].contains(&layer));
        own.map(|(_, segment)| Segment { seq: &mut *segment.seq, rows: segment.rows }).collect()
    }

    /// Where a row of the step lies among those of a layer, if it is there.
    pub fn row(&self, row: usize, layer: usize) -> Option<usize> {
        let mut before = 0;
        for (_, rows) in self.rows.iter().enumerate().filter(|(segment, _)| self.has(*segment, layer)) {
            if rows.contains(&row) {
                return Some(before + row - rows.start);
            }
            before += rows.len();
        }
        None
    }

    /// The residual stream of a layer's rows, from that of the layer below: rows that go no further are given to their
    /// sequences, those that begin here come from them, or from `embed`.
    pub fn pass(
        &self,
        layer: usize,
        hidden: usize,
        segments: &mut [Segment<'_>],
        x: &mut Vec<f32>,
        mut embed: impl FnMut(Range<usize>, &mut [f32]),
    ) -> Result<(), KvError> {
        let (mut next, mut at) = (Vec::new(), 0);
        let all: usize = (0..segments.len()).filter(|&s| self.has(s, layer)).map(|s| self.rows[s].len()).sum();
        next.reserve(all * hidden);
        for (i, segment) in segments.iter_mut().enumerate() {
            let (was, is, len) = (layer > 0 && self.has(i, layer - 1), self.has(i, layer), segment.rows * hidden);
            let below = at..at + if was { len } else { 0 };
            at = below.end;
            match (was, is) {
                (true, true) => next.extend_from_slice(&x[below]),
                (true, false) => segment.seq.carry(&x[below]),
                (false, true) if layer == 0 => {
                    let from = next.len();
                    next.resize(from + len, 0.0);
                    embed(self.rows[i].clone(), &mut next[from..]);
                }
                (false, true) => match segment.seq.carried(segment.rows, hidden) {
                    Some(rows) => next.extend_from_slice(rows),
                    None => return Err(KvError::Misuse(format!("nothing to begin with at layer {layer}"))),
                },
                (false, false) => {}
            }
        }
        *x = next;
        Ok(())
    }
}
