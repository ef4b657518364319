//! What calibration measures of heads, for budgets that differ by head.

use super::calibrate::Beginning;
use crate::LayerGeometry;

/// A number for every KV head, larger where it needs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// On a text that repeats itself: attention to what followed the earlier copies of a token, and to the copies themselves
    /// (RazorAttention).
    Induction,
    /// How evenly attention is spread over the past: the area under its cumulative sum (kvpress's on-the-fly DuoAttention).
    Area,
    /// The share of a head's tokens among the best of all heads by the attention of the last queries (Tangram).
    Retention,
    /// Truncated matrix entropy of the queries (UNComp).
    Entropy,
}

/// Singular values that count for [`Measure::Entropy`].
const TRUNCATED: usize = 32;
/// Kept share at which retention is measured.
const RETAINED: f64 = 0.3;

impl Measure {
    /// As profiles name it.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Induction => "induction",
            Measure::Area => "area",
            Measure::Retention => "retention",
            Measure::Entropy => "entropy",
        }
    }

    /// Whether the text must repeat itself.
    pub fn repeats(self) -> bool {
        self == Measure::Induction
    }

    /// Numbers of one head: one, or for [`Measure::Retention`] one for every token. `period` is the distance of repetitions.
    pub(super) fn of_head(self, rows: &Beginning, g: &LayerGeometry, period: usize) -> Vec<f32> {
        match self {
            Measure::Induction => vec![induction(rows, g, period)],
            Measure::Area => vec![area(rows, g)],
            Measure::Retention => received(rows, g, 32),
            Measure::Entropy => vec![entropy(rows, g)],
        }
    }

    /// The table of all heads.
    pub(super) fn table(self, heads: &[Vec<f32>]) -> Vec<f32> {
        if self != Measure::Retention {
            return heads.iter().map(|head| head.first().copied().unwrap_or(0.0)).collect();
        }
        let mut all: Vec<f32> = heads.concat();
        all.sort_by(|a, b| b.total_cmp(a));
        let threshold = all.get((all.len() as f64 * RETAINED) as usize).copied().unwrap_or(0.0);
        let share = |head: &Vec<f32>| head.iter().filter(|&&x| x > threshold).count() as f32 / head.len().max(1) as f32;
        heads.iter().map(share).collect()
    }
}

/// Attention of a query, by the keys at positions up to its own.
fn attention(query: &[f32], position: usize, rows: &Beginning, g: &LayerGeometry) -> Vec<f32> {
    let seen = rows.positions.partition_point(|&p| p <= position);
    let dim = g.head_dim;
    let logit = |key: &[f32]| {
        let mut sums = [0.0f32; 8];
        for (a, b) in query.chunks(8).zip(key.chunks(8)) {
            sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
        }
        sums.iter().sum::<f32>() * g.scale
    };
    let mut row: Vec<f32> = rows.k.chunks_exact(dim).take(seen).map(logit).collect();
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = (*x - max).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
    row
}

/// Queries with their positions, by query head: `(position, [group][dim])`.
fn queries<'a>(rows: &'a Beginning, g: &'a LayerGeometry) -> impl Iterator<Item = (usize, &'a [f32])> {
    rows.query_positions.iter().copied().zip(rows.q.chunks_exact(g.group() * g.head_dim))
}

/// The larger of induction and a fraction of echo, as RazorAttention takes far more heads by the first; the most of a group.
fn induction(rows: &Beginning, g: &LayerGeometry, period: usize) -> f32 {
    let first = rows.positions.first().copied().unwrap_or(0);
    let mut sums = vec![[0.0f32; 2]; g.group()];
    let mut count = 0;
    for (position, group) in queries(rows, g).filter(|(position, _)| *position >= first + period) {
        count += 1;
        for (query, sums) in group.chunks_exact(g.head_dim).zip(&mut sums) {
            let row = attention(query, position, rows, g);
            let earlier = (1..).map(|n| position.checked_sub(n * period)).map_while(|p| p?.checked_sub(first));
            for at in earlier {
                sums[0] += row.get(at).copied().unwrap_or(0.0);
                sums[1] += row.get(at + 1).copied().unwrap_or(0.0);
            }
        }
    }
    const ECHO: f32 = 0.1;
    sums.iter().map(|[echo, induction]| induction.max(ECHO * echo) / count.max(1) as f32).fold(0.0, f32::max)
}

/// The mean query looks at the mean key, repeated at all positions.
fn area(rows: &Beginning, g: &LayerGeometry) -> f32 {
    const LENGTH: usize = 500;
    let dim = g.head_dim;
    let unrotated = |x: &[f32], position: usize| {
        let mut x = x.to_vec();
        if let Some(rope) = &g.rope {
            rope.unrotate(&rope.table(position + 1), position, &mut x);
        }
        x
    };
    let mean = |rows: &mut dyn Iterator<Item = Vec<f32>>| {
        let (mut sum, mut count) = (vec![0.0f32; dim], 0.0f32);
        rows.for_each(|row| {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            count += 1.0;
        });
        sum.iter_mut().for_each(|x| *x /= count.max(1.0));
        sum
    };
    let at = rows.positions.iter();
    let key = mean(&mut rows.k.chunks_exact(dim).zip(at).map(|(row, &position)| unrotated(row, position)));
    let turned = |x: &[f32], position: usize| {
        let mut x = x.to_vec();
        if let Some(rope) = &g.rope {
            rope.turn(position, &mut x);
        }
        x
    };
    let keys = Beginning {
        positions: (0..LENGTH).collect(),
        k: (0..LENGTH).flat_map(|position| turned(&key, position)).collect(),
        v: Vec::new(),
        query_positions: Vec::new(),
        q: Vec::new(),
    };
    let of = |head: usize| {
        let own = |(position, group): (usize, &[f32])| unrotated(&group[head * dim..][..dim], position);
        let query = turned(&mean(&mut queries(rows, g).map(own)), LENGTH - 1);
        let mut sum = 0.0;
        let cumulative = attention(&query, LENGTH - 1, &keys, g).into_iter().map(|x| {
            sum += x;
            sum
        });
        cumulative.sum::<f32>() / LENGTH as f32
    };
    (0..g.group()).map(of).sum::<f32>() / g.group() as f32
}

/// Attention of the last queries, mean over them and the group, smoothed over five neighbours.
fn received(rows: &Beginning, g: &LayerGeometry, last: usize) -> Vec<f32> {
    let tokens = rows.positions.len();
    let mut mean = vec![0.0f32; tokens];
    let all: Vec<(usize, &[f32])> = queries(rows, g).collect();
    let last = &all[all.len().saturating_sub(last)..];
    for (position, group) in last {
        for query in group.chunks_exact(g.head_dim) {
            let row = attention(query, *position, rows, g);
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / (last.len() * g.group()) as f32);
        }
    }
    (0..tokens).map(|i| mean[i.saturating_sub(2)..(i + 3).min(tokens)].iter().sum::<f32>() / 5.0).collect()
}

/// Mean over the group.
fn entropy(rows: &Beginning, g: &LayerGeometry) -> f32 {
    let dim = g.head_dim;
    let of = |head: usize| {
        let own: Vec<f32> = queries(rows, g).flat_map(|(_, group)| group[head * dim..][..dim].to_vec()).collect();
        matrix_entropy(&own, dim, TRUNCATED.min(dim))
    };
    ((0..g.group()).map(of).sum::<f64>() / g.group() as f64) as f32
}

/// Of rows without their mean, brought to unit length: the entropy of the largest `truncated` shares of their energy, over
/// the logarithm of `dim`.
fn matrix_entropy(rows: &[f32], dim: usize, truncated: usize) -> f64 {
    let count = (rows.len() / dim).max(1) as f64;
    let mut mean = vec![0.0f64; dim];
    rows.chunks_exact(dim).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x) / count));
    let mut square = vec![0.0f64; dim * dim];
    for row in rows.chunks_exact(dim) {
        let centered: Vec<f64> = row.iter().zip(&mean).map(|(&x, m)| f64::from(x) - m).collect();
        let norm = centered.iter().map(|x| x * x).sum::<f64>().max(1e-30);
        for (i, to) in square.chunks_exact_mut(dim).enumerate() {
            to.iter_mut().zip(&centered).for_each(|(to, x)| *to += centered[i] * x / (norm * count));
        }
    }
    let (values, _) = crate::encode::math::dense::eigen(square, dim);
    let total: f64 = values.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let shares = values.iter().take(truncated).map(|x| (x / total).max(1e-10));
    -shares.map(|x| x * x.ln()).sum::<f64>() / (dim as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_one_for_all_directions_alike_and_nothing_for_one() {
        let dim = 8;
        let mut axes = Vec::new();
        for i in 0..dim {
            for sign in [1.0f32, -1.0] {
                axes.extend((0..dim).map(|j| if i == j { sign } else { 0.0 }));
            }
        }
        assert!((matrix_entropy(&axes, dim, dim) - 1.0).abs() < 1e-6);
        let line: Vec<f32> = (0..20).flat_map(|i| (0..dim).map(move |j| (i as f32 - 10.0) * j as f32)).collect();
        assert!(matrix_entropy(&line, dim, dim) < 1e-6);
    }

    #[test]
    fn a_perfect_induction_head_has_induction_one() {
        // Keys are one-hot of the token before, queries of their own token: they find what followed it before.
        let (period, dim) = (8usize, 8);
        let g = LayerGeometry {
            heads: 1,
            kv_heads: 1,
            head_dim: dim,
            scale: 100.0,
            softcap: None,
            window: None,
            rope: None,
            output: None,
        };
        let hot = |token: usize| (0..dim).map(move |c| if c == token { 1.0 } else { 0.0 });
        let rows = Beginning {
            positions: (0..4 * period).collect(),
            // Nothing came before the first.
            k: (0..4 * period).flat_map(|p| hot(if p == 0 { dim } else { (p - 1) % period })).collect(),
            v: Vec::new(),
            query_positions: (0..4 * period).collect(),
            q: (0..4 * period).flat_map(|p| hot(p % period)).collect(),
        };
        assert!((induction(&rows, &g, period) - 1.0).abs() < 1e-3);
        // One that looks at the copies themselves has a tenth.
        let echo = Beginning { k: (0..4 * period).flat_map(|p| hot(p % period)).collect(), ..rows };
        assert!(induction(&echo, &g, period) < 0.11);
    }
}
