//! Thresholds and levels from samples.

use super::Options;
use crate::encode::stage::{Args, Context, NamedTensor, Samples, StageError};

/// Iterations of k-means at most.
const ITERATIONS: usize = 50;

pub(super) fn calibrate(
    args: &Args,
    context: &Context<'_>,
    samples: &Samples<'_>,
) -> Result<Vec<NamedTensor>, StageError> {
    let options = Options::of(args, context.side)?;
    let channels = context.channels;
    if samples.rows.len() < channels {
        return Err(args.error("has no samples to learn from"));
    }
    let tensor = |what, data: Vec<f32>| NamedTensor { name: context.tensor_name(what), shape: vec![data.len()], data };
    let mut normalized = Vec::new();
    let mut tensors = Vec::new();
    if options.by_channel {
        let mut middles = Vec::new();
        let mut halves = Vec::new();
        for channel in 0..channels {
            let column: Vec<f32> = samples.rows.iter().skip(channel).step_by(channels).copied().collect();
            let (low, high) = thresholds(&column, options.share);
            let (middle, half) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
            normalized.extend(column.iter().filter(|_| half > 0.0).map(|x| (x - middle) / half));
            middles.push(middle);
            halves.push(half);
        }
        tensors.extend([tensor("middle", middles), tensor("half", halves)]);
    } else {
        for row in samples.rows.chunks_exact(channels) {
            let (low, high) = thresholds(row, options.share);
            let inside: Vec<f32> = row.iter().copied().filter(|&x| low <= x && x <= high).collect();
            let (low, high) = super::range(&inside);
            let (middle, half) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
            normalized.extend(inside.iter().filter(|_| half > 0.0).map(|x| (x - middle) / half));
        }
    }
    normalized.retain(|u| (-1.0..=1.0).contains(u));
    normalized.sort_by(f32::total_cmp);
    let levels = means(&normalized, options.levels);
    if options.qnorm {
        tensors.push(tensor("decoded", matched(&normalized, &levels)));
    }
    tensors.push(tensor("levels", levels));
    Ok(tensors)
}

/// The quantiles that leave half of `share` on either side, interpolated linearly.
fn thresholds(x: &[f32], share: f32) -> (f32, f32) {
    let mut sorted = x.to_vec();
    sorted.sort_by(f32::total_cmp);
    let quantile = |at: f32| {
        let place = at * (sorted.len() - 1) as f32;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    (quantile(share / 2.0), quantile(1.0 - share / 2.0))
}

/// k-means of sorted numbers, from equally filled clusters: ascending centres.
pub(super) fn means(sorted: &[f32], count: usize) -> Vec<f32> {
    if sorted.is_empty() {
        // Nothing varies; any levels do.
        return (0..count).map(|i| (2 * i + 1) as f32 / count as f32 - 1.0).collect();
    }
    let mut sums = vec![0.0];
    sums.extend(sorted.iter().scan(0.0, |sum, &x| {
        *sum += f64::from(x);
        Some(*sum)
    }));
    let mean = |from: usize, to: usize| ((sums[to] - sums[from]) / (to - from) as f64) as f32;
    let place = |i: usize| i * sorted.len() / count;
    let first = |i: usize| sorted[(place(i) + place(i + 1)) / 2];
    let mut centres: Vec<f32> = (0..count).map(first).collect();
    for _ in 0..ITERATIONS {
        let edges = centres.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        let cuts = edges.map(|edge| sorted.partition_point(|&x| x <= edge));
        let cuts: Vec<usize> = [0].into_iter().chain(cuts).chain([sorted.len()]).collect();
        let next = centres.iter().zip(cuts.windows(2));
        let next = next.map(|(&old, cut)| if cut[0] < cut[1] { mean(cut[0], cut[1]) } else { old }).collect();
        if centres == next {
            break;
        }
        centres = next;
    }
    centres
}

/// Levels moved and stretched so that what is decoded has the mean and deviation of what was encoded.
pub(super) fn matched(x: &[f32], levels: &[f32]) -> Vec<f32> {
    let nearest = |x: f32| levels[levels.windows(2).filter(|pair| (pair[0] + pair[1]) / 2.0 < x).count()];
    let decoded: Vec<f32> = x.iter().map(|&x| nearest(x)).collect();
    let ((mean, deviation), (decoded_mean, decoded_deviation)) = (spread(x), spread(&decoded));
    let ratio = if decoded_deviation > 0.0 { deviation / decoded_deviation } else { 1.0 };
    levels.iter().map(|&level| ((f64::from(level) - decoded_mean) * ratio + mean) as f32).collect()
}

/// Mean and standard deviation.
fn spread(x: &[f32]) -> (f64, f64) {
    let count = x.len().max(1) as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    (mean, (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_found_and_equal_ones_stay() {
        let mut x: Vec<f32> = (0..400).map(|i| [-0.9, -0.1, 0.2, 0.8][i % 4] + (i / 4) as f32 * 1e-4).collect();
        x.sort_by(f32::total_cmp);
        let found = means(&x, 4);
        for (found, expected) in found.iter().zip([-0.9, -0.1, 0.2, 0.8]) {
            assert!((found - expected - 0.00495).abs() < 1e-5, "{found}");
        }
        assert_eq!(means(&[0.5; 9], 4), [0.5; 4]);
        assert_eq!(means(&[], 2), [-0.5, 0.5]);
    }

    #[test]
    fn matched_levels_keep_mean_and_deviation() {
        let x: Vec<f32> = (0..1001).map(|i| ((i as f32 - 500.0) / 500.0).powi(3)).collect();
        let levels = means(&x, 4);
        let decoded = matched(&x, &levels);
        let nearest = |x: f32| levels.windows(2).filter(|pair| (pair[0] + pair[1]) / 2.0 < x).count();
        let y: Vec<f32> = x.iter().map(|&x| decoded[nearest(x)]).collect();
        let plain: Vec<f32> = x.iter().map(|&x| levels[nearest(x)]).collect();
        assert!((spread(&x).0 - spread(&y).0).abs() < 1e-6 && (spread(&x).1 - spread(&y).1).abs() < 1e-6);
        assert!(spread(&plain).1 < 0.99 * spread(&x).1, "centres alone are too narrow");
    }

    #[test]
    fn thresholds_are_interpolated_quantiles() {
        let x: Vec<f32> = (0..201).map(|i| i as f32).collect();
        assert_eq!(thresholds(&x, 0.0), (0.0, 200.0));
        let (low, high) = thresholds(&x, 0.01);
        assert!((low - 1.0).abs() < 1e-4 && (high - 199.0).abs() < 1e-4);
    }
}
