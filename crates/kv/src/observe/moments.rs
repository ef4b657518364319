//! Mean and covariance of queries before rotary position, head by head.

use super::lock;
use crate::LayerGeometry;
use cachalot_kernels::Team;
use std::sync::Mutex;

/// First positions that are left out: attention sinks, whose queries are like no others. As in the reference.
const SKIPPED: usize = 4;

/// Sums over the rows of one layer. Rows are added one by one, so that steps of any size give the same bits.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    rows: usize,
    dim: usize,
    /// `[head][dim]`.
    sum: Vec<f64>,
    /// `[head][dim][dim]`, of which the part on and below the diagonal is filled.
    products: Vec<f64>,
}

impl Moments {
    pub fn bytes(g: &LayerGeometry) -> usize {
        8 * g.heads * g.head_dim * (g.head_dim + 1)
    }

    pub fn new(g: &LayerGeometry) -> Moments {
        let (heads, dim) = (g.heads, g.head_dim);
        Moments { rows: 0, dim, sum: vec![0.0; heads * dim], products: vec![0.0; heads * dim * dim] }
    }

    /// Takes in `q`, `[rows][heads * head_dim]`, from `position` on.
    pub fn push(&mut self, g: &LayerGeometry, q: &[f32], position: usize, team: &Team) {
        let (dim, wide) = (self.dim, g.heads * self.dim);
        let skipped = SKIPPED.saturating_sub(position).min(q.len() / wide);
        let q = &q[skipped * wide..];
        self.rows += q.len() / wide;
        let heads = self.sum.chunks_exact_mut(dim).zip(self.products.chunks_exact_mut(dim * dim));
        let heads: Vec<_> = heads.map(Mutex::new).collect();
        team.for_each(heads.len(), |head| {
            let mut sums = lock(&heads[head]);
            let (sum, products) = &mut *sums;
            let mut x = vec![0.0f64; dim];
            for row in q.chunks_exact(wide) {
                x.iter_mut().zip(&row[head * dim..]).for_each(|(to, &x)| *to = f64::from(x));
                sum.iter_mut().zip(&x).for_each(|(sum, x)| *sum += x);
                for (i, (products, a)) in products.chunks_exact_mut(dim).zip(&x).enumerate() {
                    products[..=i].iter_mut().zip(&x).for_each(|(to, b)| *to += a * b);
                }
            }
        });
    }

    /// Mean `[dim]` and covariance `[dim][dim]` of a query head, divided by the number of rows.
    pub fn of_head(&self, head: usize) -> (Vec<f64>, Vec<f64>) {
        let (dim, rows) = (self.dim, self.rows.max(1) as f64);
        let mean: Vec<f64> = self.sum[head * dim..][..dim].iter().map(|x| x / rows).collect();
        let products = &self.products[head * dim * dim..][..dim * dim];
        let at = |i: usize, j: usize| products[i.max(j) * dim + i.min(j)] / rows - mean[i] * mean[j];
        let covariance = (0..dim * dim).map(|at_| at(at_ / dim, at_ % dim)).collect();
        (mean, covariance)
    }
}
