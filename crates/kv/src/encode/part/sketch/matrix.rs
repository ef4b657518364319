//! The projections of a sketch: random, orthogonal within blocks, the same for every lane of one size and seed.

use super::super::super::math::{Rng, dense, elementary};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// `S`, `[m][d]`: blocks of `d` rows are orthogonal, every row is `√d` long and points anywhere with equal chance.
#[derive(Debug)]
pub(super) struct Matrix {
    d: usize,
    pub(super) m: usize,
    seed: u64,
    rows: Vec<f32>,
    columns: Vec<f32>,
}

impl Matrix {
    /// The matrix of this size and seed, one for all that want it.
    pub(super) fn shared(d: usize, m: usize, seed: u64) -> Arc<Matrix> {
        static KNOWN: Mutex<Vec<Weak<Matrix>>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|matrix| matrix.strong_count() > 0);
        let same = |matrix: &Arc<Matrix>| (matrix.d, matrix.m, matrix.seed) == (d, m, seed);
        if let Some(matrix) = known.iter().filter_map(Weak::upgrade).find(same) {
            return matrix;
        }
        let matrix = Arc::new(Matrix::new(d, m, seed));
        known.push(Arc::downgrade(&matrix));
        matrix
    }

    fn new(d: usize, m: usize, seed: u64) -> Matrix {
        let mut rng = Rng::new(seed, 40);
        let mut rows = Vec::with_capacity(m * d);
        while rows.len() < m * d {
            let block = dense::random_rotation(d, &mut rng);
            let left = m * d - rows.len();
            rows.extend(block.iter().take(left).map(|x| (x * (d as f64).sqrt()) as f32));
        }
        let columns = (0..d).flat_map(|c| rows.iter().skip(c).step_by(d).copied().collect::<Vec<_>>()).collect();
        Matrix { d, m, seed, rows, columns }
    }

    /// What the sum over `m` signs is multiplied with, beside the length of the key, to be right on average.
    ///
    /// For Gaussian rows that is `√(π/2) / m`; rows of one length project a little longer, by `√d / E χ_d`.
    pub(super) fn constant(&self, m: usize) -> f32 {
        let longer = (self.d as f64).sqrt() / elementary::mean_chi(self.d);
        (std::f64::consts::FRAC_PI_2.sqrt() / (m as f64 * longer)) as f32
    }

    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.d..][..self.d]
    }

    pub(super) fn column(&self, c: usize) -> &[f32] {
        &self.columns[c * self.m..][..self.m]
    }

    /// All columns, `[d][m]`.
    pub(super) fn columns(&self) -> &[f32] {
        &self.columns
    }

    /// Whether `S x` is positive, row by row.
    pub(super) fn signs(&self, x: &[f32]) -> Vec<bool> {
        let mut sums = vec![0.0f64; self.m];
        for (c, &x) in x.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            let x = f64::from(x);
            sums.iter_mut().zip(self.column(c)).for_each(|(sum, &s)| *sum += x * f64::from(s));
        }
        sums.into_iter().map(|sum| sum > 0.0).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        4 * (self.rows.len() + self.columns.len())
    }
}
