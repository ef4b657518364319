//! A few outer products for a page: GEAR's low-rank residual (Kang et al., 2024).

use super::super::codec::{Hints, Item, Part, Queries, Shape, Side, Work};
use super::super::math::{Rng, dense};
use super::super::stage::{Args, Built, Context, StageEntry, StageError};
use super::fields::{put_halves, read_halves};
use super::lanes::{add_half_projections, add_projections};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::Arc;

/// Registry line.
pub(super) const STAGE: StageEntry = StageEntry {
    name: "lowrank",
    summary: "a few outer products by power iteration; lowrank(rank=4, loops=3)",
    build,
    calibrate: None,
};

/// `x ≈ B Aᵀ`: half floats `Aᵀ`, `[rank][channels]`, then `Bᵀ`, `[rank][tokens]`.
#[derive(Clone, Debug)]
struct LowRank {
    shape: Shape,
    rank: usize,
    loops: usize,
}

/// `B` has orthonormal columns; times eight, and `A` by eight, both fit half floats whatever the page holds.
const BALANCE: f64 = 8.0;

fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let most = context.channels.min(context.tokens);
    let rank = args.integer("rank", 4, 1..=most.min(32))?;
    let loops = args.integer("loops", 3, 1..=20)?;
    args.done()?;
    Ok(Built::Part(Arc::new(LowRank { shape: context.shape(), rank, loops })))
}

/// Rows up to which factors are widened for every row anew.
const FEW: usize = 4;

impl LowRank {
    /// `Aᵀ` and `Bᵀ` as the page has them, where few rows are to read them and they need no padding.
    fn halves<'a>(&self, page: &'a [u8], rows: usize) -> Option<(&'a [u8], &'a [u8])> {
        let Shape { tokens, channels, .. } = self.shape;
        let (a, b) = (2 * self.rank * channels, 2 * self.rank * tokens);
        let whole = channels == self.shape.width() && tokens == PAGE_TOKENS;
        (whole && rows <= FEW).then(|| (&page[..a], &page[a..a + b]))
    }

    /// `Aᵀ`, `[rank][width]`, and `Bᵀ`, `[rank][PAGE_TOKENS]`, padded with zeros.
    fn factors<'a>(&self, isa: Isa, page: &[u8], floats: &'a mut Vec<f32>) -> (&'a [f32], &'a [f32]) {
        let Shape { tokens, channels, .. } = self.shape;
        let width = self.shape.width();
        floats.clear();
        floats.resize(self.rank * (width + PAGE_TOKENS), 0.0);
        let (a, b) = floats.split_at_mut(self.rank * width);
        let (from_a, from_b) = page.split_at(2 * self.rank * channels);
        for (from, row) in from_a.chunks_exact(2 * channels).zip(a.chunks_exact_mut(width)) {
            read_halves(isa, from, &mut row[..channels]);
        }
        for (from, row) in from_b.chunks_exact(2 * tokens).zip(b.chunks_exact_mut(PAGE_TOKENS)) {
            read_halves(isa, from, &mut row[..tokens]);
        }
        (a, b)
    }
}

impl Part for LowRank {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn breakdown(&self) -> Vec<Item> {
        let bytes = 2 * self.rank * (self.shape.channels + self.shape.tokens);
        vec![Item::new("low-rank factors", bytes.next_multiple_of(4))]
    }

    fn describe(&self) -> String {
        format!("{} outer products in f16 ({} power iterations)", self.rank, self.loops)
    }

    fn encode(&self, x: &[f32], _hints: Hints<'_>, to: &mut [u8]) {
        let Shape { tokens, channels, .. } = self.shape;
        let e: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        let et = dense::transpose(&e, channels);
        let mut rng = Rng::new(0, 20);
        // Both factors as rows: `[rank][channels]` and `[rank][tokens]`.
        let mut a: Vec<f64> = (0..self.rank * channels).map(|_| rng.uniform()).collect();
        let mut b = Vec::new();
        for i in 0..self.loops {
            let last = i + 1 == self.loops;
            if last {
                dense::orthonormalise(&mut a, channels);
            }
            b = dense::multiply(&a, &et, channels, tokens);
            if last {
                dense::orthonormalise(&mut b, tokens);
            }
            a = dense::multiply(&b, &e, tokens, channels);
            if !last {
                // Only so that nothing overflows: the direction is what counts.
                let top = a.iter().fold(0.0f64, |top, x| top.max(x.abs()));
                a.iter_mut().for_each(|x| *x /= top.max(f64::MIN_POSITIVE));
            }
        }
        let a = a.iter().map(|x| (x / BALANCE) as f32);
        put_halves(to, a.chain(b.iter().map(|x| (x * BALANCE) as f32)));
    }

    fn decode(&self, page: &[u8], x: &mut [f32]) {
        let mut floats = Vec::new();
        let (a, b) = self.factors(Isa::Portable, page, &mut floats);
        let width = self.shape.width();
        for (token, row) in x.chunks_exact_mut(self.shape.channels).enumerate() {
            for (c, x) in row.iter_mut().enumerate() {
                *x += (0..self.rank).fold(0.0, |sum, r| sum + b[r * PAGE_TOKENS + token] * a[r * width + c]);
            }
        }
    }

    fn fused(&self) -> bool {
        true
    }

    fn score(&self, isa: Isa, page: &[u8], queries: Queries<'_>, work: &mut Work, scores: &mut [f32]) {
        debug_assert_eq!(self.shape.side, Side::Keys);
        let width = self.shape.width();
        if let Some((a, b)) = self.halves(page, queries.rows) {
            return add_half_projections(isa, queries.q, a, width, b, scores, PAGE_TOKENS);
        }
        let (a, b) = self.factors(isa, page, &mut work.floats);
        add_projections(isa, queries.q, a, width, b, scores, PAGE_TOKENS);
    }

    fn accumulate(&self, isa: Isa, page: &[u8], weights: &[f32], rows: usize, work: &mut Work, out: &mut [f32]) {
        let width = self.shape.width();
        if let Some((a, b)) = self.halves(page, rows) {
            return add_half_projections(isa, weights, b, PAGE_TOKENS, a, &mut out[..rows * width], width);
        }
        let (a, b) = self.factors(isa, page, &mut work.floats);
        add_projections(isa, weights, b, PAGE_TOKENS, a, &mut out[..rows * width], width);
    }
}
