//! A linear change of basis with a mean: what principal components, whitening and dense rotations have in common.

use super::super::codec::Transform;
use super::widest;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::{LANES, Simd};

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
    /// `y = xᵀ m` for `m` of `[x.len()][y.len()]`: chains of fused multiply-adds in the order of `x`, from zero.
    fn apply(m: &[f32], x: &[f32], y: &mut [f32]) = apply_body
}

#[inline(always)]
unsafe fn apply_body<S: Simd>(m: &[f32], x: &[f32], y: &mut [f32]) {
    let columns = y.len();
    assert!(m.len() >= x.len() * columns);
    let mut c = 0;
    // SAFETY: the columns that are taken are there, in all rows.
    unsafe {
        while columns - c >= 4 * LANES {
            apply_vectors::<S, 4>(m.as_ptr().add(c), columns, x, y.as_mut_ptr().add(c));
            c += 4 * LANES;
        }
        while columns - c >= LANES {
            apply_vectors::<S, 1>(m.as_ptr().add(c), columns, x, y.as_mut_ptr().add(c));
            c += LANES;
        }
    }
    for (i, y) in y[c..].iter_mut().enumerate() {
        let column = m.iter().skip(c + i).step_by(columns);
        *y = x.iter().zip(column).fold(0.0, |sum, (x, m)| m.mul_add(*x, sum));
    }
}

/// `N` vectors of columns.
#[inline(always)]
unsafe fn apply_vectors<S: Simd, const N: usize>(m: *const f32, columns: usize, x: &[f32], y: *mut f32) {
    // SAFETY: by the contract.
    unsafe {
        let mut sums = [S::splat(0.0); N];
        for (r, &x) in x.iter().enumerate() {
            let (m, x) = (m.add(r * columns), S::splat(x));
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = S::fma(x, S::load(m.add(n * LANES)), *sum);
            }
        }
        for (n, &sum) in sums.iter().enumerate() {
            S::store(y.add(n * LANES), sum);
        }
    }
}

/// Vectors of a page's tokens.
const VECTORS: usize = PAGE_TOKENS / LANES;

dispatch! {
    /// `to[c][t] = Σ_r from[r][t] m[c][r]` over `reduce` rows, for a page of tokens: the chains of [`apply`].
    fn apply_tile(m: &[f32], reduce: usize, from: &[f32], to: &mut [f32]) = apply_tile_body
}

#[inline(always)]
unsafe fn apply_tile_body<S: Simd>(m: &[f32], reduce: usize, from: &[f32], to: &mut [f32]) {
    let channels = to.len() / PAGE_TOKENS;
    assert!(m.len() >= channels * reduce && from.len() >= reduce * PAGE_TOKENS);
    let mut c = 0;
    // SAFETY: as many channels are left as are taken. Where registers allow it, several at once read the tile once.
    unsafe {
        while S::REGISTERS >= 32 && channels - c >= 4 {
            tile_channels::<S, 4>(m.as_ptr().add(c * reduce), reduce, from, to.as_mut_ptr().add(c * PAGE_TOKENS));
            c += 4;
        }
        while c < channels {
            tile_channels::<S, 1>(m.as_ptr().add(c * reduce), reduce, from, to.as_mut_ptr().add(c * PAGE_TOKENS));
            c += 1;
        }
    }
}

/// `C` channels of a tile.
#[inline(always)]
unsafe fn tile_channels<S: Simd, const C: usize>(m: *const f32, reduce: usize, from: &[f32], to: *mut f32) {
    // SAFETY: by the contract.
    unsafe {
        let mut sums = [[S::splat(0.0); VECTORS]; C];
        for r in 0..reduce {
            let from = from.as_ptr().add(r * PAGE_TOKENS);
            for v in 0..VECTORS {
                let x = S::load(from.add(v * LANES));
                for (c, sums) in sums.iter_mut().enumerate() {
                    sums[v] = S::fma(x, S::splat(*m.add(c * reduce + r)), sums[v]);
                }
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                S::store(to.add(c * PAGE_TOKENS + v * LANES), sum);
            }
        }
    }
}
