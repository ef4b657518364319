//! What anchors say of a message in their place.

use super::formula::weights;
use super::{Anchor, Stretch};
use crate::mend::Piece;
use crate::{CachePlan, KvCache, SequenceKv};
use half::f16;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How near a message is to the bases of some anchors, over their first tokens.
pub struct Likeness {
    /// Of keys and of values the mean difference of every token, `[anchors][tokens]`.
    by_token: [Vec<Vec<f32>>; 2],
    /// Of values the distance over all.
    by_values: Vec<f32>,
}

impl Likeness {
    /// Of values the distance from each anchor's base over all layers, heads, tokens and channels.
    pub fn distances(&self) -> &[f32] {
        &self.by_values
    }
}

/// Sums over the lanes that one thread looked at.
type Sums = ([Vec<Vec<f64>>; 2], Vec<f64>);

impl KvCache {
    /// Compares a message with the bases of anchors, none of which is shorter. `None` where its pages are not there.
    pub fn likeness(&self, plan: &CachePlan, message: &Piece<'_>, anchors: &[&Anchor]) -> Option<Likeness> {
        let tokens = message.len();
        if anchors.iter().any(|anchor| anchor.tokens < tokens) {
            return None;
        }
        let zero = || vec![vec![0.0f64; tokens]; anchors.len()];
        let parts: Vec<Mutex<Option<Sums>>> = self.contextual().map(|_| Mutex::default()).collect();
        let first = self.contextual().start;
        self.team().for_each(parts.len(), |i| {
            let Some(rows) = self.rows_of(plan, first + i, message) else { return };
            let dim = rows[0].len() / tokens.max(1);
            let (mut by_token, mut squares) = ([zero(), zero()], vec![0.0f64; anchors.len()]);
            for (a, anchor) in anchors.iter().enumerate() {
                for side in 0..2 {
                    let other = anchor.base.lanes[i][side].chunks_exact(dim);
                    for ((t, row), other) in rows[side].chunks_exact(dim).enumerate().zip(other) {
                        let differences = row.iter().zip(other).map(|(x, y)| f64::from(x - y.to_f32()));
                        by_token[side][a][t] += differences.clone().map(f64::abs).sum::<f64>();
                        squares[a] += if side == 1 { differences.map(|d| d * d).sum() } else { 0.0 };
                    }
                }
            }
            *parts[i].lock().unwrap_or_else(PoisonError::into_inner) = Some((by_token, squares));
        });
        let (mut by_token, mut squares) = ([zero(), zero()], vec![0.0f64; anchors.len()]);
        for part in parts {
            // In the order of lanes, whichever thread was first.
            let (tokens, more) = part.into_inner().unwrap_or_else(PoisonError::into_inner)?;
            for (sum, part) in by_token.iter_mut().flatten().flatten().zip(tokens.iter().flatten().flatten()) {
                *sum += part;
            }
            squares.iter_mut().zip(more).for_each(|(sum, part)| *sum += part);
        }
        let count = (self.channels() / 2).max(1) as f64;
        let mean = |sums: Vec<Vec<f64>>| -> Vec<Vec<f32>> {
            sums.into_iter().map(|row| row.into_iter().map(|sum| (sum / count) as f32).collect()).collect()
        };
        let by_values = squares.into_iter().map(|sum| sum.sqrt() as f32).collect();
        Some(Likeness { by_token: by_token.map(mean), by_values })
    }

    /// Adds to a message that was put in place, whose tokens `part` lie in the slots from `slot` on, what anchors say: for every
    /// token the sum of theirs, weighed by how near their token is; keys and values by themselves.
    pub fn correct(&self, seq: &SequenceKv, slot: usize, part: Range<usize>, anchors: &[&Anchor], like: &Likeness) {
        let weigh = |side: usize| -> Vec<Vec<f32>> {
            let of = |t: usize| weights(&like.by_token[side].iter().map(|row| row[t]).collect::<Vec<f32>>());
            part.clone().map(of).collect()
        };
        let by_token = [weigh(0), weigh(1)];
        self.add(seq, slot, part.clone(), anchors.iter().map(|anchor| Some(&anchor.delta)), |side, a, t, row, to| {
            let weight = by_token[side][t][a];
            to.iter_mut().zip(row).for_each(|(to, x)| *to += weight * x.to_f32());
        });
    }

    /// Adds to the text that follows a message, whose tokens `part` lie in the slots from `slot` on, what anchors say: for every
    /// channel the sum of theirs, weighed by how near the last tokens of their message are to those of this one in that channel.
    /// Anchors that know of no such text say nothing.
    pub fn correct_after(
        &self,
        seq: &SequenceKv,
        slot: usize,
        part: Range<usize>,
        message: &Piece<'_>,
        anchors: &[&Anchor],
    ) {
        let (first, tokens) = (self.contextual().start, message.len());
        let of_lane = |i: usize| -> Option<[Vec<Vec<f32>>; 2]> {
            let rows = self.rows_of(&seq.plan, first + i, message)?;
            let dim = rows[0].len() / tokens.max(1);
            let side = |side: usize| {
                let mut squares = vec![vec![0.0f32; anchors.len()]; dim];
                for (a, anchor) in anchors.iter().enumerate() {
                    let other = anchor.base.lanes[i][side].chunks_exact(dim).skip(anchor.tokens - tokens);
                    for (row, other) in rows[side].chunks_exact(dim).zip(other) {
                        for (c, (x, y)) in row.iter().zip(other).enumerate() {
                            squares[c][a] += (x - y.to_f32()) * (x - y.to_f32());
                        }
                    }
                }
                let weigh = |squares: Vec<f32>| weights(&squares.iter().map(|s| s.sqrt()).collect::<Vec<f32>>());
                squares.into_iter().map(weigh).collect()
            };
            Some([side(0), side(1)])
        };
        let by_channel: Vec<Mutex<_>> = self.contextual().map(|_| Mutex::new(None)).collect();
        self.team().for_each(by_channel.len(), |i| {
            *by_channel[i].lock().unwrap_or_else(PoisonError::into_inner) = of_lane(i);
        });
        let by_channel: Option<Vec<_>> =
            by_channel.into_iter().map(|lane| lane.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
        let Some(by_channel) = by_channel else { return };
        let deltas = anchors.iter().map(|anchor| anchor.after.as_ref());
        self.add_by_lane(seq, slot, part, deltas, |lane, side, a, _, row, to| {
            for ((to, x), weights) in to.iter_mut().zip(row).zip(&by_channel[lane][side]) {
                *to += weights[a] * x.to_f32();
            }
        });
    }

    fn add<'a>(
        &self,
        seq: &SequenceKv,
        slot: usize,
        part: Range<usize>,
        deltas: impl Iterator<Item = Option<&'a Stretch>>,
        each: impl Fn(usize, usize, usize, &[f16], &mut [f32]) + Sync,
    ) {
        self.add_by_lane(seq, slot, part, deltas, |_, side, a, t, row, to| each(side, a, t, row, to));
    }

    /// Adds to rows of all lanes but the first layer's what `each` makes of differences: lane, side, anchor, token, its row, and
    /// where to add it. Keys are turned to their slots.
    fn add_by_lane<'a>(
        &self,
        seq: &SequenceKv,
        slot: usize,
        part: Range<usize>,
        deltas: impl Iterator<Item = Option<&'a Stretch>>,
        each: impl Fn(usize, usize, usize, usize, &[f16], &mut [f32]) + Sync,
    ) {
        let deltas: Vec<Option<&Stretch>> = deltas.collect();
        let first = self.contextual().start;
        self.team().for_each(self.contextual().len(), |i| {
            let lane = &seq.lanes[first + i];
            let Some(dim) = deltas.iter().flatten().next().map(|_| lane.dim()) else { return };
            let mut sums = [(); 2].map(|()| vec![0.0f32; part.len() * dim]);
            for (a, delta) in deltas.iter().enumerate() {
                let Some(delta) = delta else { continue };
                for (side, sums) in sums.iter_mut().enumerate() {
                    let rows = delta.lanes[i][side].chunks_exact(dim).skip(part.start);
                    for ((t, to), row) in sums.chunks_exact_mut(dim).enumerate().zip(rows) {
                        each(i, side, a, t, row, to);
                    }
                }
            }
            // From where the stretch begins at position zero.
            let shift = self.rope_of(first + i).and_then(|rope| rope.shift(slot as i64 - part.start as i64));
            if let Some(shift) = shift {
                sums[0].chunks_exact_mut(dim).for_each(|row| shift.apply(row));
            }
            lane.add_rows(slot, &sums);
        });
    }
}
