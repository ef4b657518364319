//! Rows as sums of words that are made of two parameters each, `u_A + i u_B` (the residual words of CommVQ, Li et al., 2025).
//!
//! Channels are pairs half a row apart, `(x, y)`, and `i (x, y) = (-y, x)`. Parameters are integers of sixteen bits in units
//! that leave room for the sum over all stages, so nothing is rounded while they are added. Two channels lie in a lane of
//! 32 bits, the second one's carries running into nothing: a lane is `second 2¹⁶ + first`, and so are sums of lanes.

use crate::attention::PAGE_TOKENS;
use crate::dispatch;
use crate::simd::{LANES, Simd};

/// Channels of a vector.
const TWO: usize = 2 * LANES;

/// Parameters of all stages.
#[derive(Clone, Debug)]
pub struct Residual {
    stages: usize,
    /// Parameters of a stage.
    each: usize,
    channels: usize,
    /// What the integers count, a power of two.
    unit: f32,
    /// `[stages][each][first half, second half][vectors][LANES]`.
    words: Vec<i32>,
}

impl Residual {
    /// Of parameters `[stages][each][channels]`, rounded.
    ///
    /// # Panics
    /// If the channels are odd, or the parameters do not fill stages.
    pub fn new(parameters: &[f32], stages: usize, each: usize, channels: usize) -> Residual {
        assert!(channels.is_multiple_of(2) && parameters.len() == stages * each * channels);
        let mut residual = Residual { stages, each, channels, unit: 1.0, words: Vec::new() };
        let largest = |stage: &[f32]| stage.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        // A word has two parameters in every channel.
        let sum: f32 = parameters.chunks_exact((each * channels).max(1)).map(|stage| 2.0 * largest(stage)).sum();
        let room = f32::from(i16::MAX) - stages as f32;
        while sum > room * residual.unit {
            residual.unit *= 2.0;
        }
        while sum > 0.0 && sum <= room * residual.unit / 2.0 && residual.unit > f32::MIN_POSITIVE {
            residual.unit /= 2.0;
        }
        for parameter in parameters.chunks_exact(channels.max(1)) {
            for half in parameter.chunks_exact(channels / 2) {
                for vector in half.chunks(TWO) {
                    let whole = |i: usize| vector.get(i).map_or(0, |x| (x / residual.unit).round() as i32);
                    residual.words.extend((0..LANES).map(|i| (whole(LANES + i) << 16).wrapping_add(whole(i))));
                }
            }
        }
        residual
    }

    /// The parameters as they are added, `[stages][each][channels]`.
    pub fn parameters(&self) -> Vec<f32> {
        let of = |half: &[i32]| {
            let both = half.chunks_exact(LANES).flat_map(|lanes| {
                let first = lanes.iter().map(|&x| x << 16 >> 16);
                let second = lanes.iter().map(|&x| (x - (x << 16 >> 16)) >> 16);
                first.chain(second).collect::<Vec<_>>()
            });
            both.take(self.channels / 2).map(|x| x as f32 * self.unit).collect::<Vec<_>>()
        };
        self.words.chunks_exact(self.half()).flat_map(of).collect()
    }

    /// The unit in which they are rounded.
    pub fn unit(&self) -> f32 {
        self.unit
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * self.words.len()
    }

    /// Lanes of half a parameter.
    fn half(&self) -> usize {
        (self.channels / 2).div_ceil(TWO) * LANES
    }
}

dispatch! {
    /// Writes rows `[tokens][width]`, of which `channels` are set: the sums of the words of all stages, times the lengths of
    /// the rows. The numbers are `[stages][2][tokens]`, those of `u_A` and of `u_B`.
    ///
    /// # Panics
    /// If a number is beyond the parameters, a slice too short or the tokens more than a page's.
    pub fn sum_words(residual: &Residual, numbers: &[u16], lengths: &[f32], width: usize, rows: &mut [f32]) = sum_words_body
}

#[inline(always)]
unsafe fn sum_words_body<S: Simd>(
    residual: &Residual,
    numbers: &[u16],
    lengths: &[f32],
    width: usize,
    rows: &mut [f32],
) {
    let (tokens, half) = (lengths.len(), residual.channels / 2);
    assert!(tokens <= PAGE_TOKENS && residual.channels <= width && rows.len() >= tokens * width);
    assert!(numbers.len() == 2 * residual.stages * tokens);
    assert!(numbers.iter().all(|&number| usize::from(number) < residual.each));
    for (token, (&length, row)) in lengths.iter().zip(rows.chunks_exact_mut(width)).enumerate() {
        let length = length * residual.unit;
        let (low, high) = row[..residual.channels].split_at_mut(half);
        let vectors = low.chunks_mut(TWO).zip(high.chunks_mut(TWO)).enumerate();
        for (v, (low, high)) in vectors {
            // SAFETY: the numbers are those of parameters, as asserted above; halves have as many vectors.
            unsafe {
                let sums = sum_vector::<S>(residual, numbers, tokens, token, v);
                write::<S>(sums[0], length, low);
                write::<S>(sums[1], length, high);
            }
        }
    }
}

/// The `v`-th vectors of both halves of a token's row.
///
/// # Safety
/// They are there, and the numbers of the token are those of parameters.
#[inline(always)]
unsafe fn sum_vector<S: Simd>(
    residual: &Residual,
    numbers: &[u16],
    tokens: usize,
    token: usize,
    v: usize,
) -> [S::I; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let half = residual.half();
        let mut sums = [S::isplat(0); 2];
        let mut words = residual.words.as_ptr().add(v * LANES);
        let mut number = numbers.as_ptr().add(token);
        for _ in 0..residual.stages {
            let (a, b) = (usize::from(*number), usize::from(*number.add(tokens)));
            let (a, b) = (words.add(2 * half * a), words.add(2 * half * b));
            let first = S::isub(S::iload(a), S::iload(b.add(half)));
            let second = S::iadd(S::iload(a.add(half)), S::iload(b));
            sums = [S::iadd(sums[0], first), S::iadd(sums[1], second)];
            words = words.add(2 * half * residual.each);
            number = number.add(2 * tokens);
        }
        sums
    }
}

/// Both channels of every lane times `length`, as many as there is room for.
#[inline(always)]
unsafe fn write<S: Simd>(sum: S::I, length: f32, to: &mut [f32]) {
    // SAFETY: what is written has room.
    unsafe {
        let length = S::splat(length);
        let first = S::sar8(S::sar8(S::shl8(S::shl8(sum))));
        let second = S::sar8(S::sar8(S::isub(sum, first)));
        let (first, second) = (S::mul(S::to_f32(first), length), S::mul(S::to_f32(second), length));
        if to.len() == TWO {
            S::store(to.as_mut_ptr(), first);
            S::store(to.as_mut_ptr().add(LANES), second);
        } else {
            let mut both = [0.0; TWO];
            S::store(both.as_mut_ptr(), first);
            S::store(both.as_mut_ptr().add(LANES), second);
            to.copy_from_slice(&both[..to.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::lookup::tests::sample;

    /// Parameters are off by half a unit at most, and sums of them by nothing, the largest ones too.
    #[test]
    fn sums_are_those_of_the_parameters() {
        for (stages, each, d, scale) in
            [(11usize, 64usize, 64usize, 0.3f32), (3, 5, 80, 1e9), (1, 64, 10, 1e-9), (2, 3, 256, 0.0)]
        {
            let mut parameters = sample(stages * each * d, 3);
            parameters.iter_mut().for_each(|x| *x *= scale);
            // One word of the largest parameters, one of the least.
            for stage in parameters.chunks_exact_mut(each * d) {
                stage[..d].fill(scale);
                stage[d..2 * d].fill(-scale);
            }
            let residual = Residual::new(&parameters, stages, each, d);
            let rounded = residual.parameters();
            assert!(parameters.iter().zip(&rounded).all(|(a, b)| (a - b).abs() <= residual.unit() * 0.5001), "{d}");
            let tokens = 64;
            // The first tokens have the words that are farthest from zero.
            let number = |which: usize, t: usize| match t % tokens {
                t @ (0 | 1) => t,
                2 => which % 2,
                3 => (which + 1) % 2,
                t => (which * 31 + t * t * 7) % each,
            };
            let numbers: Vec<u16> = (0..2 * stages * tokens).map(|i| number(i / tokens, i) as u16).collect();
            let lengths: Vec<f32> = (0..tokens).map(|t| if t % 9 == 0 { 0.0 } else { 0.25 * t as f32 }).collect();
            let width = d + 3;
            for isa in Isa::available() {
                let mut rows = vec![f32::NAN; tokens * width];
                sum_words(isa, &residual, &numbers, &lengths, width, &mut rows);
                for (t, row) in rows.chunks_exact(width).enumerate() {
                    for (c, x) in row[..d].iter().enumerate() {
                        let part = |s: usize, which: usize, c: usize| {
                            let number = usize::from(numbers[(2 * s + which) * tokens + t]);
                            f64::from(rounded[(s * each + number) * d + c])
                        };
                        let turned = |s| if c < d / 2 { -part(s, 1, c + d / 2) } else { part(s, 1, c - d / 2) };
                        let sum: f64 = (0..stages).map(|s| part(s, 0, c) + turned(s)).sum();
                        assert_eq!(*x, (sum * f64::from(lengths[t])) as f32, "{isa} {d} {t} {c}");
                    }
                    assert!(row[d..].iter().all(|x| x.is_nan()));
                }
            }
        }
    }
}
