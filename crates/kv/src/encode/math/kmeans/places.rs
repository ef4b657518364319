//! Where words lie, and which of them can be the nearest.

use super::channel_major;
use cachalot_kernels::Isa;
use cachalot_kernels::nearest::{Codebook, nearest};
use cachalot_kernels::simd::LANES;
use std::ops::Range;

/// An order of points in which neighbours in space stand near each other: in strips of so many along the channel that varies
/// most, each strip along the channel that varies most but for that. Gives these two as well.
pub(super) fn in_strips(points: &[&[f32]], strip: usize) -> (Vec<usize>, [usize; 2]) {
    let dims = points.first().map_or(0, |point| point.len());
    let variance = |channel: usize| {
        let (mut sum, mut squares) = (0.0, 0.0);
        points.iter().map(|point| f64::from(point[channel])).for_each(|x| (sum, squares) = (sum + x, squares + x * x));
        squares - sum * sum / points.len() as f64
    };
    let mut channels: Vec<(f64, usize)> = (0..dims).map(|channel| (variance(channel), channel)).collect();
    channels.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let axes = [0, 1].map(|i: usize| channels.get(i.min(dims.saturating_sub(1))).map_or(0, |&(_, channel)| channel));
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| points[a][axes[0]].total_cmp(&points[b][axes[0]]));
    for strip in order.chunks_mut(strip.max(1)) {
        strip.sort_by(|&a, &b| points[a][axes[1]].total_cmp(&points[b][axes[1]]));
    }
    (order, axes)
}

/// How far `x` is from what lies between two bounds.
pub(super) fn gap([least, largest]: [f32; 2], x: f32) -> f32 {
    (least - x).max(x - largest).max(0.0)
}

/// Words where they can be found by where they lie: only those are looked at that can be nearer than what is known. What is
/// left out is further away in one channel alone, rounding included, so the nearest is found for certain.
pub(super) struct Places<'a> {
    dims: usize,
    stride: usize,
    axes: [usize; 2],
    /// In strips: which word it is, and its second axis.
    order: Vec<usize>,
    second: Vec<f32>,
    /// Least and largest first axis of each strip, and the strip's words.
    strips: Vec<([f32; 2], Range<usize>)>,
    /// `[dims][stride]` in that order, with room behind it.
    by_channel: Vec<f32>,
    words: &'a [f32],
}

impl<'a> Places<'a> {
    pub(super) fn new(words: &'a [f32], dims: usize) -> Places<'a> {
        let points: Vec<&[f32]> = words.chunks_exact(dims).collect();
        let strip = (LANES * points.len()).isqrt().next_multiple_of(LANES);
        let (order, axes) = in_strips(&points, strip);
        let ordered: Vec<f32> = order.iter().flat_map(|&i| points[i].iter().copied()).collect();
        let mut by_channel = channel_major(&ordered, dims);
        let stride = by_channel.len() / dims;
        by_channel.resize((dims + 1) * stride, 0.0);
        let strips = (0..points.len()).step_by(strip).map(|first| {
            let range = first..points.len().min(first + strip);
            let along = order[range.clone()].iter().map(|&i| points[i][axes[0]]);
            let reach = along.fold([f32::INFINITY, f32::NEG_INFINITY], |[a, b], x| [a.min(x), b.max(x)]);
            (reach, range)
        });
        let second = order.iter().map(|&i| points[i][axes[1]]).collect();
        Places { dims, stride, axes, strips: strips.collect(), second, by_channel, words, order }
    }

    /// The word nearest to `x` and its squared distance; `guess` is one that may be near.
    pub(super) fn nearest(&self, isa: Isa, x: &[f32], guess: usize) -> (usize, f32) {
        let known = self.words[guess * self.dims..][..self.dims].iter().zip(x);
        let mut best = (guess, known.fold(0.0f32, |sum, (w, x)| (x - w).mul_add(x - w, sum)));
        if best.1.is_nan() {
            best.1 = f32::INFINITY;
        }
        let (along, across) = (x[self.axes[0]], x[self.axes[1]]);
        for (reach, strip) in &self.strips {
            let gap = gap(*reach, along);
            if gap * gap > best.1 {
                continue;
            }
            let second = &self.second[strip.clone()];
            let from = second.partition_point(|&at| at < across && (across - at) * (across - at) > best.1);
            let to = second.partition_point(|&at| at <= across || (at - across) * (at - across) <= best.1);
            if from >= to {
                continue;
            }
            let first = strip.start + from;
            let words = &self.by_channel[first..];
            let book = Codebook { words, dims: self.dims, stride: self.stride, count: to - from };
            let (at, distance) = nearest(isa, x, book);
            let word = self.order[first + at];
            if distance < best.1 || (distance == best.1 && word < best.0) {
                best = (word, distance);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Rng;
    use super::*;

    /// What is left out is never the nearest, wherever the guess is.
    #[test]
    fn the_nearest_is_found_among_all() {
        for (dims, count) in [(1usize, 1usize), (1, 37), (2, 256), (3, 40), (4, 1000), (64, 130)] {
            let mut rng = Rng::new(6, dims as u64);
            let mut draw = |n: usize| -> Vec<f32> { (0..n * dims).map(|_| rng.normal() as f32).collect() };
            let (words, rows) = (draw(count), draw(200));
            let places = Places::new(&words, dims);
            for (i, row) in rows.chunks_exact(dims).enumerate() {
                let far = |w: &[f32]| row.iter().zip(w).fold(0.0f32, |sum, (x, w)| (x - w).mul_add(x - w, sum));
                let least = words.chunks_exact(dims).map(far).fold(f32::INFINITY, f32::min);
                let (word, distance) = places.nearest(Isa::detect(), row, i * 7 % count);
                assert_eq!((distance, far(&words[word * dims..][..dims])), (least, least), "{dims} {count}");
            }
            let odd = places.nearest(Isa::detect(), &vec![f32::NAN; dims], 0);
            assert!(odd.0 < count);
        }
    }
}
