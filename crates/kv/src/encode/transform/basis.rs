//! A linear change of basis with a mean: what principal components, whitening and dense rotations have in common.

// Plain loops: the dispatcher compiles them once for each instruction set, whose vectors the compiler then uses.
#![allow(clippy::extra_unused_type_parameters)]

use super::super::codec::Transform;
use super::widest;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::Simd;

/// `y = F (x - mean)`, `q' = Q q` and back `x = Qᵀ y + mean`, where `Qᵀ F` is the identity or a projection.
pub(super) struct Basis {
    what: String,
    inputs: usize,
    outputs: usize,
    /// `Fᵀ`, `[inputs][outputs]`: a product walks along its rows.
    forward: Vec<f32>,
    /// `Qᵀ`, `[inputs][outputs]`.
    query: Vec<f32>,
    /// `Q`, `[outputs][inputs]`.
    inverse: Vec<f32>,
    mean: Option<Vec<f32>>,
}

impl std::fmt::Debug for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Basis").field("what", &self.what).field("outputs", &self.outputs).finish_non_exhaustive()
    }
}

fn transpose(a: &[f32], columns: usize) -> Vec<f32> {
    let rows = a.len() / columns;
    (0..columns).flat_map(|j| (0..rows).map(move |i| a[i * columns + j])).collect()
}

impl Basis {
    /// `forward` and `query` are `F` and `Q`, `[outputs][inputs]`.
    pub(super) fn new(
        what: String,
        inputs: usize,
        forward: Vec<f32>,
        query: Vec<f32>,
        mean: Option<Vec<f32>>,
    ) -> Basis {
        let outputs = forward.len() / inputs;
        let forward = transpose(&forward, inputs);
        Basis { what, inputs, outputs, forward, query: transpose(&query, inputs), inverse: query, mean }
    }

    /// The rows of `matrix`, `[outputs][inputs]`, are orthonormal.
    pub(super) fn orthonormal(what: String, inputs: usize, matrix: Vec<f32>, mean: Option<Vec<f32>>) -> Basis {
        Basis::new(what, inputs, matrix.clone(), matrix, mean)
    }
}

impl Transform for Basis {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn outputs(&self) -> usize {
        self.outputs
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) {
        match &self.mean {
            None => apply(widest(), &self.forward, x, y),
            Some(mean) => {
                let centred: Vec<f32> = x.iter().zip(mean).map(|(x, mean)| x - mean).collect();
                apply(widest(), &self.forward, &centred, y);
            }
        }
    }

    fn query(&self, q: &[f32], y: &mut [f32]) -> f32 {
        apply(widest(), &self.query, q, y);
        let mean = self.mean.iter().flatten();
        q.iter().zip(mean).fold(0.0, |sum, (q, mean)| sum + q * mean)
    }

    fn inverse(&self, y: &[f32], x: &mut [f32]) {
        self.output(y, 1.0, x);
    }

    fn output(&self, y: &[f32], weight: f32, x: &mut [f32]) {
        apply(widest(), &self.inverse, y, x);
        x.iter_mut().zip(self.mean.iter().flatten()).for_each(|(x, mean)| *x += weight * mean);
    }

    fn inverse_tile(&self, from: &[f32], to: &mut [f32]) {
        apply_tile(widest(), &self.query, self.outputs, from, to);
        for (row, mean) in to.chunks_exact_mut(PAGE_TOKENS).zip(self.mean.iter().flatten()) {
            row.iter_mut().for_each(|x| *x += mean);
        }
    }

    fn describe(&self) -> String {
        format!("{}: {} of {} channels", self.what, self.outputs, self.inputs)
    }

    fn shared_bytes(&self) -> usize {
        4 * (self.forward.len() + self.query.len() + self.inverse.len() + self.mean.as_ref().map_or(0, Vec::len))
    }
}

dispatch! {
    /// `y = xᵀ m` for `m` of `[x.len()][y.len()]`, summed in the order of `x`.
    fn apply(m: &[f32], x: &[f32], y: &mut [f32]) = apply_body
}

#[inline(always)]
unsafe fn apply_body<S: Simd>(m: &[f32], x: &[f32], y: &mut [f32]) {
    /// Sums held in registers.
    const AT_ONCE: usize = 64;
    let columns = y.len();
    for (i, y) in y.chunks_mut(AT_ONCE).enumerate() {
        let first = i * AT_ONCE;
        let mut sums = [0.0f32; AT_ONCE];
        if let Ok(y) = <&mut [f32; AT_ONCE]>::try_from(&mut *y) {
            for (&x, m) in x.iter().zip(m.chunks_exact(columns)) {
                sums.iter_mut().zip(&m[first..first + AT_ONCE]).for_each(|(s, m)| *s += x * m);
            }
            *y = sums;
        } else {
            let n = y.len();
            for (&x, m) in x.iter().zip(m.chunks_exact(columns)) {
                sums.iter_mut().zip(&m[first..first + n]).for_each(|(s, m)| *s += x * m);
            }
            y.copy_from_slice(&sums[..n]);
        }
    }
}

dispatch! {
    /// `to[c][t] = Σ_r from[r][t] m[c][r]` over `reduce` rows, for a page of tokens.
    fn apply_tile(m: &[f32], reduce: usize, from: &[f32], to: &mut [f32]) = apply_tile_body
}

#[inline(always)]
unsafe fn apply_tile_body<S: Simd>(m: &[f32], reduce: usize, from: &[f32], to: &mut [f32]) {
    for (m, to) in m.chunks_exact(reduce).zip(to.chunks_exact_mut(PAGE_TOKENS)) {
        let mut sums = [0.0f32; PAGE_TOKENS];
        for (&m, from) in m.iter().zip(from.chunks_exact(PAGE_TOKENS)) {
            sums.iter_mut().zip(from).for_each(|(s, x)| *s += x * m);
        }
        to.copy_from_slice(&sums);
    }
}
