//! Codebooks in the layouts they are read in.

use super::super::super::math::kmeans;

/// Words of every sub-space, channel by channel and padded to vectors.
pub(super) fn by_channel(words: &[f32], dims: usize, each: usize) -> Vec<f32> {
    words.chunks_exact(dims * each).flat_map(|words| kmeans::channel_major(words, dims)).collect()
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
pub(super) fn add_words<const D: usize>(words: &[f32], codes: &[u16], width: usize, tile: &mut [f32]) {
    let (words, _) = words.as_chunks::<D>();
    for (row, &code) in tile.chunks_mut(width).zip(codes) {
        if let Some(row) = row.first_chunk_mut::<D>() {
            let word = words[usize::from(code)];
            (0..D).for_each(|j| row[j] += word[j]);
        }
    }
}
