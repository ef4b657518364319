//! Reading pages of chunks: scores, outputs and tiles of what is kept and of means.

use super::super::lanes::dot_body;
use super::{CHUNK, CHUNKS, Place};
use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::dispatch;
use cachalot_kernels::simd::{LANES, Simd};

dispatch! {
    /// Adds the scores of kept chunks, and those with the means, `[means][width]`, for all tokens of theirs. Rows of
    /// [`PAGE_TOKENS`] scores.
    pub(super) fn add_scores(places: [Place; CHUNKS], q: &[f32], means: &[f32], chunks: &[f32], scores: &mut [f32]) =
        add_scores_body
}

#[inline(always)]
unsafe fn add_scores_body<S: Simd>(
    places: [Place; CHUNKS],
    q: &[f32],
    means: &[f32],
    chunks: &[f32],
    scores: &mut [f32],
) {
    let rows = scores.as_chunks_mut::<PAGE_TOKENS>().0;
    let width = q.len() / rows.len().max(1);
    for ((q, chunks), scores) in q.chunks_exact(width).zip(chunks.as_chunks::<PAGE_TOKENS>().0).zip(rows) {
        for (place, to) in places.iter().zip(scores.as_chunks_mut::<CHUNK>().0) {
            // SAFETY: chunks have sixteen elements; the features are the dispatcher's business.
            unsafe {
                let more = match *place {
                    Place::Kept(i) => S::load(chunks[i * CHUNK..][..CHUNK].as_ptr()),
                    Place::Mean(i) => S::splat(dot_body::<S>(q, &means[i * width..][..width])),
                    Place::Nowhere => continue,
                };
                S::store(to.as_mut_ptr(), S::add(S::load(to.as_ptr()), more));
            }
        }
    }
}

dispatch! {
    /// Brings the weights of kept chunks together, and adds the means, `[means][width]`, times the weights of theirs. Rows of
    /// [`PAGE_TOKENS`] weights.
    pub(super) fn add_outputs(places: [Place; CHUNKS], weights: &[f32], means: &[f32], chunks: &mut [f32], out: &mut [f32]) =
        add_outputs_body
}

#[inline(always)]
unsafe fn add_outputs_body<S: Simd>(
    places: [Place; CHUNKS],
    weights: &[f32],
    means: &[f32],
    chunks: &mut [f32],
    out: &mut [f32],
) {
    let rows = weights.as_chunks::<PAGE_TOKENS>().0;
    let width = out.len() / rows.len().max(1);
    let to = chunks.as_chunks_mut::<PAGE_TOKENS>().0.iter_mut().zip(out.chunks_exact_mut(width));
    for (weights, (chunks, out)) in rows.iter().zip(to) {
        for (place, weights) in places.iter().zip(weights.as_chunks::<CHUNK>().0) {
            match *place {
                Place::Kept(i) => chunks[i * CHUNK..][..CHUNK].copy_from_slice(weights),
                Place::Mean(i) => {
                    let mean = means[i * width..][..width].as_chunks::<LANES>().0;
                    // SAFETY: chunks have sixteen elements; the features are the dispatcher's business.
                    unsafe {
                        let weight = S::splat(S::reduce_add(S::load(weights.as_ptr())));
                        for (out, mean) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(mean) {
                            S::store(out.as_mut_ptr(), S::fma(weight, S::load(mean.as_ptr()), S::load(out.as_ptr())));
                        }
                    }
                }
                Place::Nowhere => {}
            }
        }
    }
}

dispatch! {
    /// Adds keys, `[width][PAGE_TOKENS]`: of kept chunks, and of means, `[means][width]`.
    pub(super) fn add_columns(places: [Place; CHUNKS], means: &[f32], chunks: &[f32], tile: &mut [f32]) = add_columns_body
}

#[inline(always)]
unsafe fn add_columns_body<S: Simd>(places: [Place; CHUNKS], means: &[f32], chunks: &[f32], tile: &mut [f32]) {
    let lines = tile.as_chunks_mut::<PAGE_TOKENS>().0;
    let width = lines.len();
    for (channel, line) in lines.iter_mut().enumerate() {
        for (place, to) in places.iter().zip(line.as_chunks_mut::<CHUNK>().0) {
            // SAFETY: chunks have sixteen elements; the features are the dispatcher's business.
            unsafe {
                let more = match *place {
                    Place::Kept(i) => S::load(chunks[channel * PAGE_TOKENS + i * CHUNK..][..CHUNK].as_ptr()),
                    Place::Mean(i) => S::splat(means[i * width + channel]),
                    Place::Nowhere => continue,
                };
                S::store(to.as_mut_ptr(), S::add(S::load(to.as_ptr()), more));
            }
        }
    }
}

dispatch! {
    /// Adds values, `[PAGE_TOKENS][width]`: of kept chunks, and of means, `[means][width]`.
    pub(super) fn add_rows(places: [Place; CHUNKS], means: &[f32], width: usize, chunks: &[f32], tile: &mut [f32]) = add_rows_body
}

#[inline(always)]
unsafe fn add_rows_body<S: Simd>(
    places: [Place; CHUNKS],
    means: &[f32],
    width: usize,
    chunks: &[f32],
    tile: &mut [f32],
) {
    for (place, rows) in places.iter().zip(tile.chunks_exact_mut(CHUNK * width)) {
        for (token, row) in rows.chunks_exact_mut(width).enumerate() {
            let from = match *place {
                Place::Kept(i) => &chunks[(i * CHUNK + token) * width..][..width],
                Place::Mean(i) => &means[i * width..][..width],
                Place::Nowhere => continue,
            };
            for (to, from) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(from.as_chunks::<LANES>().0) {
                // SAFETY: chunks have sixteen elements; the features are the dispatcher's business.
                unsafe { S::store(to.as_mut_ptr(), S::add(S::load(to.as_ptr()), S::load(from.as_ptr()))) };
            }
        }
    }
}
