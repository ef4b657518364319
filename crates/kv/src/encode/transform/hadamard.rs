//! The Walsh-Hadamard transform in blocks (QuaRot, Ashkboos et al., 2024; SAW-INT4; RotateKV, Su et al., 2025).

// Plain loops: the dispatcher compiles them once for each instruction set, whose vectors the compiler then uses.
#![allow(clippy::extra_unused_type_parameters)]

use super::super::codec::Transform;
use super::super::stage::{Args, Built, Context, StageError};
use super::widest;
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::{LANES, Simd};
use std::sync::Arc;

/// Blocks of a power of two channels, each multiplied with the normalised Walsh-Hadamard matrix, its own inverse.
#[derive(Clone, Debug)]
pub(super) struct Hadamard {
    channels: usize,
    block: usize,
}

impl Hadamard {
    pub(super) fn new(channels: usize, block: usize) -> Hadamard {
        Hadamard { channels, block }
    }
}

pub(super) fn build(args: &Args, context: &Context<'_>) -> Result<Built, StageError> {
    let channels = context.channels;
    let largest = 1 << channels.trailing_zeros();
    let block = match args.integer("block", 0, 0..=channels)? {
        0 => largest,
        block => block,
    };
    args.done()?;
    if !block.is_power_of_two() || !channels.is_multiple_of(block) {
        return Err(args.error(format!(
            "blocks of {block} do not fit {channels} channels; the block must be a power of two that divides them, \
             at most {largest}, or use rotate()"
        )));
    }
    Ok(Built::Transform(Arc::new(Hadamard::new(channels, block))))
}

impl Transform for Hadamard {
    fn inputs(&self) -> usize {
        self.channels
    }

    fn outputs(&self) -> usize {
        self.channels
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) {
        y.copy_from_slice(x);
        y.chunks_exact_mut(self.block).for_each(|block| transform(widest(), block));
    }

    fn query(&self, q: &[f32], y: &mut [f32]) -> f32 {
        self.forward(q, y);
        0.0
    }

    fn inverse(&self, y: &[f32], x: &mut [f32]) {
        self.forward(y, x);
    }

    fn output(&self, y: &[f32], _weight: f32, x: &mut [f32]) {
        self.forward(y, x);
    }

    fn inverse_in_place(&self, tile: &mut [f32]) -> bool {
        let blocks = tile[..self.channels * PAGE_TOKENS].chunks_exact_mut(self.block * PAGE_TOKENS);
        blocks.for_each(|block| transform_tile(widest(), block));
        true
    }

    fn is_hadamard(&self) -> bool {
        self.block == self.channels
    }

    fn describe(&self) -> String {
        format!("Walsh-Hadamard transform of {} blocks of {} channels", self.channels / self.block, self.block)
    }
}

dispatch! {
    /// The normalised transform of a power of two numbers, in place.
    pub(super) fn transform(x: &mut [f32]) = transform_body
}

dispatch! {
    /// The same of a page of keys, `[channels][PAGE_TOKENS]`.
    pub(super) fn transform_tile(x: &mut [f32]) = transform_tile_body
}

#[inline(always)]
unsafe fn transform_body<S: Simd>(x: &mut [f32]) {
    butterflies(x);
}

#[inline(always)]
unsafe fn transform_tile_body<S: Simd>(x: &mut [f32]) {
    let rows = x.len() / PAGE_TOKENS;
    let scale = 1.0 / (rows as f32).sqrt();
    let mut half = 1;
    // Three steps of sums and differences at once, on rows that stay in registers meanwhile.
    while half < rows {
        // SAFETY: the caller's promise.
        half *= unsafe {
            match rows / half {
                2 => pass::<S, 2>(x, half, scale),
                4 => pass::<S, 4>(x, half, scale),
                8 => pass::<S, 8>(x, half, scale),
                _ => pass::<S, 8>(x, half, 1.0),
            }
        };
    }
}

/// The steps `half, 2 half, …` that combine `R` rows; then everything times `scale`, in the order of [`butterflies`].
///
/// # Safety
/// `S`'s instructions are present.
#[inline(always)]
unsafe fn pass<S: Simd, const R: usize>(x: &mut [f32], half: usize, scale: f32) -> usize {
    for block in x.chunks_exact_mut(R * half * PAGE_TOKENS) {
        let block = block.as_mut_ptr();
        for first in (0..half * PAGE_TOKENS).step_by(LANES) {
            // SAFETY: the block has `R * half` rows of whole vectors.
            unsafe {
                let mut rows = [S::splat(0.0); R];
                for (r, row) in rows.iter_mut().enumerate() {
                    *row = S::load(block.add(first + r * half * PAGE_TOKENS));
                }
                let mut apart = 1;
                while apart < R {
                    for r in 0..R {
                        if r & apart == 0 {
                            let (a, b) = (rows[r], rows[r + apart]);
                            (rows[r], rows[r + apart]) = (S::add(a, b), S::sub(a, b));
                        }
                    }
                    apart *= 2;
                }
                for (r, &row) in rows.iter().enumerate() {
                    let row = if scale == 1.0 { row } else { S::mul(row, S::splat(scale)) };
                    S::store(block.add(first + r * half * PAGE_TOKENS), row);
                }
            }
        }
    }
    R
}

/// Sums and differences of numbers `1, 2, 4, …` apart.
#[inline(always)]
fn butterflies(x: &mut [f32]) {
    let mut half = 1;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (x.len() as f32).sqrt();
    x.iter_mut().for_each(|x| *x *= scale);
}
