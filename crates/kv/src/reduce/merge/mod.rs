//! Tokens that go leave something with those that stay. One file a method; [`registry`] names them.
//!
//! A slot that stands for `n` tokens of one key weighs like `n` of them if `ln n` is added to its scores: then, and only then,
//! nothing is lost where their keys are equal. Papers have rules of their own; `weight=exact` takes this one instead.

mod cam;
mod chelsea;
mod compensation;
mod d2o;
mod elastic;
mod ems;
mod kvmerger;
mod merging;
pub mod registry;

use crate::lane::keep::Merged;
use crate::observe::Wish;
use crate::products::products;
use crate::score::Scene;
use cachalot_kernels::Isa;
use std::collections::BTreeMap;

/// What becomes of tokens that do not stay.
pub trait Merge: std::fmt::Debug + Send + Sync {
    /// What it wants to see.
    fn wish(&self) -> Wish {
        Wish::default()
    }

    /// Whether it keeps a slot of its own in every lane.
    fn takes_a_slot(&self) -> bool {
        false
    }

    /// What becomes of the slots that are not among `chosen`, `[head]`, and of those that take them in, ascending. It may
    /// choose others, but not more.
    fn merge(&self, scene: &Scene<'_>, chosen: &mut [Vec<u32>], scores: &[Vec<f32>]) -> Vec<Vec<Merged>>;

    /// One line for people.
    fn describe(&self) -> String;
}

/// How much a slot weighs that stands for several tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Weight {
    /// As the paper has it.
    #[default]
    Paper,
    /// As the tokens together: means by number, and its logarithm added to scores.
    Exact,
}

/// Keys and values of a lane.
struct Rows {
    dim: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Tokens that each slot stands for.
    counts: Vec<f32>,
}

impl Rows {
    fn of(scene: &Scene<'_>, head: usize) -> Rows {
        let counts = (0..scene.slots(head)).map(|slot| scene.extra(head, slot).exp()).collect();
        Rows { dim: scene.geometry.head_dim, k: scene.keys(head), v: scene.values(head), counts }
    }

    fn key(&self, slot: u32) -> &[f32] {
        &self.k[slot as usize * self.dim..][..self.dim]
    }

    fn value(&self, slot: u32) -> &[f32] {
        &self.v[slot as usize * self.dim..][..self.dim]
    }

    /// Keys of unit length, zeros where there is none: `[slots][dim]`.
    fn unit(&self, slots: &[u32]) -> Vec<f32> {
        let mut rows = Vec::with_capacity(slots.len() * self.dim);
        for &slot in slots {
            let key = self.key(slot);
            let norm = key.iter().map(|x| x * x).sum::<f32>().sqrt();
            let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
            rows.extend(key.iter().map(|x| x * scale));
        }
        rows
    }

    /// `into` with its members, as the tokens together.
    fn together(&self, into: u32, members: &[u32]) -> Merged {
        let all = || std::iter::once(into).chain(members.iter().copied());
        let count: f32 = all().map(|slot| self.counts[slot as usize]).sum();
        let mean = |row: &dyn Fn(u32) -> Vec<f32>| {
            let mut mean = vec![0.0; self.dim];
            for slot in all() {
                let share = self.counts[slot as usize] / count;
                mean.iter_mut().zip(row(slot)).for_each(|(mean, x)| *mean += share * x);
            }
            mean
        };
        let k = mean(&|slot| self.key(slot).to_vec());
        let v = mean(&|slot| self.value(slot).to_vec());
        Merged { slot: into, k, v, extra: count.ln() }
    }
}

/// Slots of so many that are not among `kept`, which is ascending.
fn others(kept: &[u32], slots: usize) -> Vec<u32> {
    let mut kept = kept.iter().copied().peekable();
    (0..slots as u32).filter(|&slot| kept.next_if_eq(&slot).is_none()).collect()
}

/// For each row of `from`, the row of `to` with the largest product, and that product; the earlier of equals. Rows have
/// `dim` channels.
fn nearest(isa: Isa, from: &[f32], to: &[f32], dim: usize) -> Vec<(usize, f32)> {
    let mut best = vec![(0, f32::NEG_INFINITY); from.len() / dim];
    products(isa, from, to, dim, |row, first, products| {
        for (i, &product) in products.iter().enumerate() {
            if product > best[row].1 {
                best[row] = (first + i, product);
            }
        }
    });
    best
}

/// Members by the slot that takes them in.
fn by_center(pairs: impl Iterator<Item = (u32, u32)>) -> BTreeMap<u32, Vec<u32>> {
    let mut groups: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    pairs.for_each(|(center, member)| groups.entry(center).or_default().push(member));
    groups
}
