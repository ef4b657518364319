//! Codebooks in the layouts they are read in.

use super::super::super::math::kmeans;
use super::super::super::stage::{Args, StageError};
use cachalot_kernels::simd::LANES;
use half::f16;

/// Words as half floats, which is what is read; k-means places them no better than this, and they take half the room in
/// the processor's caches.
pub(in super::super) fn half_words(args: &Args, words: &[f32]) -> Result<Vec<u16>, StageError> {
    match words.iter().find(|x| x.is_nan() || x.abs() > f16::MAX.to_f32()) {
        Some(x) => Err(args.error(format!("a word of the profile holds {x}, which no half float can hold"))),
        None => Ok(words.iter().map(|&x| f16::from_f32(x).to_bits()).collect()),
    }
}

/// Half floats as they are computed with.
pub(super) fn widened(words: &[u16]) -> Vec<f32> {
    words.iter().map(|&x| f16::from_bits(x).to_f32()).collect()
}

/// Words of every sub-space, channel by channel and padded to vectors.
pub(super) fn by_channel(words: &[f32], dims: usize, each: usize) -> Vec<f32> {
    words.chunks_exact(dims * each).flat_map(|words| kmeans::channel_major(words, dims)).collect()
}

/// Words of every sub-space, `each` of them and zeros up to full vectors, a vector of words at a time channel by channel.
pub(super) fn in_vectors(words: &[u16], dims: usize, each: usize) -> Vec<u16> {
    let vectors = words.chunks_exact(dims * each).flat_map(|words| words.chunks(dims * LANES));
    let element = |words: &[u16], i: usize| words.get(i % LANES * dims + i / LANES).copied().unwrap_or(0);
    vectors.flat_map(|words| (0..dims * LANES).map(move |i| element(words, i))).collect()
}

/// `metric x`, in `f64`, of the columns of the metric.
pub(super) fn measured(columns: &[f32], x: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0f64; x.len()];
    for (column, &x) in columns.chunks_exact(x.len()).zip(x) {
        sums.iter_mut().zip(column).for_each(|(sum, &m)| *sum += f64::from(m) * f64::from(x));
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Adds words of `D` channels to the beginnings of rows of `width`.
pub(super) fn add_words<const D: usize>(words: &[u16], codes: &[u16], width: usize, tile: &mut [f32]) {
    let (words, _) = words.as_chunks::<D>();
    for (row, &code) in tile.chunks_mut(width).zip(codes) {
        if let Some(row) = row.first_chunk_mut::<D>() {
            let word = words[usize::from(code)];
            (0..D).for_each(|j| row[j] += f16::from_bits(word[j]).to_f32());
        }
    }
}
