//! The real Fourier basis.

use super::super::super::math::elementary::sin_cos;
use cachalot_kernels::simd::LANES;

/// Orthonormal real waves of `n` (even) samples, transposed and padded: the mean, then cosine and sine of every frequency,
/// then the alternating one.
pub(super) fn waves(n: usize) -> Vec<f32> {
    let padded = n.next_multiple_of(LANES);
    let mut waves = vec![0.0; n * padded];
    let unit = (2.0 / n as f64).sqrt();
    for c in 0..n {
        let row = &mut waves[c * padded..][..n];
        for (j, to) in row.iter_mut().enumerate() {
            let frequency = j.div_ceil(2);
            let (sin, cos) = sin_cos(std::f64::consts::TAU * (frequency * c % n) as f64 / n as f64);
            let wave = if j % 2 == 1 { cos } else { sin };
            *to = match j {
                0 => unit * 0.5f64.sqrt(),
                j if j == n - 1 => unit * 0.5f64.sqrt() * cos,
                _ => unit * wave,
            } as f32;
        }
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_are_orthonormal() {
        for n in [8, 40, 64] {
            let waves = waves(n);
            let padded = n.next_multiple_of(LANES);
            for i in 0..padded {
                for j in 0..=i {
                    let product: f32 = waves.chunks_exact(padded).map(|row| row[i] * row[j]).sum();
                    let expected = if i == j && i < n { 1.0 } else { 0.0 };
                    assert!((product - expected).abs() < 1e-5, "{n}: {i} {j}");
                }
            }
        }
    }
}
