//! Logarithm, sine and arc tangent from the four operations and the square root alone, so that they round the same
//! everywhere. Absolute errors are a few units of 1e-16 over the ranges used here.

use std::f64::consts::{FRAC_PI_2, LN_2, PI, SQRT_2};

/// `Σ first * x^(2i) * ratio(1) … ratio(i)`: odd and even power series differ only in where they start.
fn series(first: f64, square: f64, terms: usize, ratio: impl Fn(f64) -> f64) -> f64 {
    let (mut sum, mut power) = (0.0, first);
    for i in 0..terms {
        sum += power;
        power *= square * ratio(i as f64 + 1.0);
    }
    sum
}

/// Natural logarithm of a positive normal number; minus infinity for zero and below.
pub fn ln(x: f64) -> f64 {
    if x < f64::MIN_POSITIVE {
        return f64::NEG_INFINITY;
    }
    let bits = x.to_bits();
    let (mut exponent, mut m) =
        ((bits >> 52) as i64 - 1023, f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000));
    if m > SQRT_2 {
        m /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m-1)/(m+1))
    let t = (m - 1.0) / (m + 1.0);
    let square = t * t;
    2.0 * series(t, square, 14, |i| (2.0 * i - 1.0) / (2.0 * i + 1.0)) + exponent as f64 * LN_2
}

/// Sine and cosine of an angle of a few turns.
pub fn sin_cos(x: f64) -> (f64, f64) {
    let quarter = (x / FRAC_PI_2).round();
    // pi/2 in two parts, so that the difference keeps its low bits.
    let r = (x - quarter * FRAC_PI_2) - quarter * 6.123_233_995_736_766e-17;
    let square = -r * r;
    let sin = series(r, square, 10, |i| 1.0 / (2.0 * i * (2.0 * i + 1.0)));
    let cos = series(1.0, square, 10, |i| 1.0 / (2.0 * i * (2.0 * i - 1.0)));
    match (quarter as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Angle of the point `(x, y)` in `-π..=π`; zero at the origin.
pub fn atan2(y: f64, x: f64) -> f64 {
    let (a, b) = (x.abs(), y.abs());
    if a + b == 0.0 {
        return 0.0;
    }
    // An angle of at most π/4, halved twice so that the series converges fast.
    let mut t = if a > b { b / a } else { a / b };
    for _ in 0..2 {
        t /= 1.0 + (1.0 + t * t).sqrt();
    }
    let angle = 4.0 * series(t, -t * t, 12, |i| (2.0 * i - 1.0) / (2.0 * i + 1.0));
    let angle = if a > b { angle } else { FRAC_PI_2 - angle };
    let angle = if x < 0.0 { PI - angle } else { angle };
    if y < 0.0 { -angle } else { angle }
}

/// Mean length of a vector of `n` standard normal numbers.
pub fn mean_chi(n: usize) -> f64 {
    // E χ₁ = √(2/π) and E χ_n E χ_{n+1} = n.
    (1..n).fold((2.0 / PI).sqrt(), |mean, n| n as f64 / mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_library() {
        for i in 1..2000 {
            let x = i as f64 * 0.0137;
            assert!((ln(x) - x.ln()).abs() < 1e-14, "ln {x}");
            assert!((ln(x * 1e-200) - (x * 1e-200).ln()).abs() < 1e-12);
            let angle = x - 13.0;
            let (sin, cos) = sin_cos(angle);
            assert!((sin - angle.sin()).abs() < 1e-14 && (cos - angle.cos()).abs() < 1e-14, "sin {angle}");
            let (y, z) = (2.0 * angle.sin(), (3.1 * angle).cos());
            assert!((atan2(y, z) - y.atan2(z)).abs() < 1e-14, "atan2 {y} {z}");
        }
        assert_eq!(atan2(0.0, 0.0), 0.0);
        assert_eq!((atan2(1.0, 0.0), atan2(0.0, -1.0)), (FRAC_PI_2, PI));
    }

    #[test]
    fn the_mean_length_of_gaussian_vectors() {
        assert!((mean_chi(2) - (PI / 2.0).sqrt()).abs() < 1e-15);
        assert!((mean_chi(3) - 2.0 * (2.0 / PI).sqrt()).abs() < 1e-15);
        // √n (1 - 1/(4n) + 1/(32 n²) + …)
        assert!((mean_chi(128) / 128f64.sqrt() - (1.0 - 1.0 / 512.0 + 1.0 / 524_288.0)).abs() < 1e-7);
    }
}
