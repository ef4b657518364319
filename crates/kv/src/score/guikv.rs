//! Scores that know of stretches of the prompt which the request marked: GUI-KV (Huang et al., 2025), where earlier images
//! repeat the last one, and AudioKV (2026), whose scores are smoothed by their spectrum.

use super::attention::{average, looked_at, with_window};
use super::rows::{add, dot, norm};
use super::{Method, Scene};
use crate::observe::Wish;
use std::ops::Range;

/// SnapKV, but what earlier spans share with the last one goes first.
#[derive(Debug)]
pub(super) struct GuiKv {
    pub window: usize,
    pub kernel: usize,
    /// Keys of the last span that make up its subspace.
    pub rank: usize,
    /// The share of earlier spans that this leaves alone.
    pub keep: f64,
    /// What the tokens of the last span get beyond attention, all together, by the norms of their hidden states.
    pub alpha: f32,
    /// How evenly.
    pub temperature: f32,
}

impl Method for GuiKv {
    fn wish(&self) -> Wish {
        Wish { hidden: self.alpha > 0.0, ..Wish::rows(self.window) }
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let salient = self.salient(scene);
        with_window(scene, self.window, |head, past| {
            let mut scores = average(&looked_at(scene, head, self.window, past), self.kernel);
            for (position, more) in &salient {
                let slot = scene.lanes[head].slots_before(*position);
                if let Some(score) = scores.get_mut(slot).filter(|_| scene.position(head, slot) == *position) {
                    *score += more;
                }
            }
            for slot in self.repeated(scene, head) {
                if let Some(score) = scores.get_mut(slot) {
                    *score = 0.0;
                }
            }
            scores
        })
    }

    fn least(&self) -> usize {
        self.window
    }

    fn describe(&self) -> String {
        format!("attention of the last {} queries, without what earlier spans share with the last", self.window)
    }
}

impl GuiKv {
    /// What tokens of the last span get beyond attention, by position. Scores are means over the window, the paper's are sums.
    fn salient(&self, scene: &Scene<'_>) -> Vec<(usize, f32)> {
        let Some(norms) = scene.spans.last().and_then(|last| scene.hidden().get(last.clone())) else {
            return Vec::new();
        };
        let first = scene.spans.last().map_or(0, |last| last.start);
        let shares = softmax_of_standardised(norms, self.temperature);
        let scale = self.alpha / self.window as f32;
        shares.into_iter().enumerate().map(|(i, share)| (first + i, scale * share)).collect()
    }

    /// Slots of earlier spans whose keys lie the nearest to the subspace of the last one's first keys.
    fn repeated(&self, scene: &Scene<'_>, head: usize) -> Vec<usize> {
        let Some((last, earlier)) = scene.spans.split_last() else { return Vec::new() };
        let dim = scene.geometry.head_dim;
        let keys = scene.keys(head);
        let slots = |span: &Range<usize>| {
            let lane = &scene.lanes[head];
            lane.slots_before(span.start)..lane.slots_before(span.end)
        };
        let key = |slot: usize| &keys[slot * dim..][..dim];
        let basis = basis(slots(last).take(self.rank.min(dim)).map(key));
        let mut residuals: Vec<(f32, usize)> =
            earlier.iter().flat_map(slots).map(|slot| (residual(key(slot), &basis), slot)).collect();
        residuals.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        residuals.truncate(((1.0 - self.keep) * residuals.len() as f64) as usize);
        residuals.into_iter().map(|(_, slot)| slot).collect()
    }
}

/// Softmax of numbers with mean zero and variance one, divided by a temperature.
fn softmax_of_standardised(x: &[f32], temperature: f32) -> Vec<f32> {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / (n - 1.0).max(1.0);
    let scaled: Vec<f32> = x.iter().map(|x| (x - mean) / (variance.sqrt() + 1e-8) / temperature).collect();
    let most = scaled.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scaled.iter().map(|x| (x - most).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Orthonormal rows that span the same (Gram and Schmidt, twice, for the digits).
fn basis<'a>(rows: impl Iterator<Item = &'a [f32]>) -> Vec<Vec<f32>> {
    let mut basis: Vec<Vec<f32>> = Vec::new();
    for row in rows {
        let mut rest = row.to_vec();
        for _ in 0..2 {
            for b in &basis {
                let along = dot(&rest, b);
                add(&mut rest, -along, b);
            }
        }
        let length = norm(&rest);
        if length > 1e-4 * norm(row) {
            rest.iter_mut().for_each(|x| *x /= length);
            basis.push(rest);
        }
    }
    basis
}

/// Length of what the basis does not reach.
fn residual(row: &[f32], basis: &[Vec<f32>]) -> f32 {
    let mut rest = row.to_vec();
    for b in basis {
        let along = dot(&rest, b);
        add(&mut rest, -along, b);
    }
    norm(&rest)
}

/// SnapKV without neighbours, smoothed over each span (all of the prompt where none is marked) by dropping the upper part of
/// its spectrum.
#[derive(Debug)]
pub(super) struct AudioKv {
    pub window: usize,
    /// What stays of the score as it is.
    pub alpha: f32,
    /// The share of the spectrum that stays.
    pub gamma: f64,
}

impl Method for AudioKv {
    fn wish(&self) -> Wish {
        Wish::rows(self.window)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        with_window(scene, self.window, |head, past| {
            let mut scores = looked_at(scene, head, self.window, past);
            let lane = &scene.lanes[head];
            let whole = 0..past;
            let spans: Vec<Range<usize>> = match scene.spans {
                [] => vec![whole],
                spans => spans
                    .iter()
                    .map(|s| lane.slots_before(s.start).min(past)..lane.slots_before(s.end).min(past))
                    .collect(),
            };
            for span in spans.into_iter().filter(|span| span.len() > 2) {
                let part = &mut scores[span];
                let low = low_pass(part, self.gamma);
                part.iter_mut().zip(low).for_each(|(x, low)| *x = self.alpha * *x + (1.0 - self.alpha) * low);
            }
            scores
        })
    }

    fn least(&self) -> usize {
        self.window
    }

    fn describe(&self) -> String {
        format!("attention of the last {} queries, smoothed over spans by their spectrum", self.window)
    }
}

/// The signal without the upper part of its spectrum: of a cosine transform, which mirrors the ends instead of joining them.
fn low_pass(x: &[f32], share: f64) -> Vec<f32> {
    let n = x.len();
    let bins = ((n as f64 * share).ceil() as usize).clamp(1, n);
    if bins == n {
        return x.to_vec();
    }
    let angle = |k: usize, i: usize| std::f64::consts::PI / n as f64 * (((2 * i + 1) * k) % (4 * n)) as f64 / 2.0;
    let mut low = vec![0.0f64; n];
    for k in 0..bins {
        let weight = if k == 0 { 1.0 } else { 2.0 } / n as f64;
        let c: f64 = x.iter().enumerate().map(|(i, &x)| f64::from(x) * angle(k, i).cos()).sum::<f64>() * weight;
        low.iter_mut().enumerate().for_each(|(i, low)| *low += c * angle(k, i).cos());
    }
    low.into_iter().map(|x| x as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn salience_adds_up_and_follows_the_norms() {
        let shares = softmax_of_standardised(&[3.0, 1.0, 2.0, 6.0], 3.5);
        assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(shares[3] > shares[0] && shares[0] > shares[2] && shares[2] > shares[1]);
        // Standardised, so neither their mean nor their spread matters.
        let moved = softmax_of_standardised(&[130.0, 110.0, 120.0, 160.0], 3.5);
        assert!(shares.iter().zip(&moved).all(|(a, b)| (a - b).abs() < 1e-5));
        // The ratio of two is that of their distance in deviations, over the temperature.
        let deviation = (14.0f32 / 3.0).sqrt();
        assert!((shares[3] / shares[0] - (3.0 / deviation / 3.5).exp()).abs() < 1e-5);
        // Equal norms tell nothing.
        assert_eq!(softmax_of_standardised(&[2.0; 4], 3.5), [0.25; 4]);
    }

    #[test]
    fn a_repeated_image_has_no_residual() {
        let keys = [[1.0, 2.0, 0.5, 0.0], [0.0, 1.0, -1.0, 0.0]];
        let basis = basis(keys.iter().map(|k| &k[..]));
        assert!(keys.iter().all(|k| residual(k, &basis) < 1e-6));
        let other = [0.3, 0.1, 0.2, 2.0];
        assert!(residual(&other, &basis) > 1.9 && residual(&other, &basis) <= norm(&other));
    }

    #[test]
    fn the_spectrum_is_cut_from_above() {
        let x: Vec<f32> = (0..50).map(|i| ((i * 7919) % 101) as f32 / 101.0).collect();
        assert_eq!(low_pass(&x, 1.0), x);
        let mean = x.iter().sum::<f32>() / 50.0;
        assert!(low_pass(&x, 1e-6).iter().all(|low| (low - mean).abs() < 1e-6));
        assert!(low_pass(&[0.3; 20], 0.2).iter().all(|low| (low - 0.3).abs() < 1e-6));
        let energy = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
        assert!(energy(&low_pass(&x, 0.4)) <= energy(&x));
    }
}
