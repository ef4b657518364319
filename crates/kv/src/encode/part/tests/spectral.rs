//! Facts of VidKV's keys.

use super::super::super::codec::Side;
use super::super::super::math::sample::{distortion, gaussian, part};
use super::{encoded, through};

/// Half of 128 channels are wide; two bits and one bit, halves for steps, minima and magnitudes of 32 tokens, a bit a
/// channel for which are wide.
#[test]
fn bits_at_one_and_a_half() {
    let part = part("spectral", Side::Keys, 128);
    let codes = 64 * (2 * 64 + 64) / 8;
    assert_eq!(part.bytes(), 16 + codes + 2 * 2 * (2 * 64 + 64));
    let x: Vec<f32> =
        gaussian(64 * 128, 1).iter().enumerate().map(|(i, x)| if i % 2 == 1 { 9.0 * x } else { *x }).collect();
    let page = encoded(&*part, &x);
    assert!(page[..16].iter().all(|&byte| byte == 0xaa), "the odd channels are the wide ones");
}

/// One bit of a spectrum is exact where every wave keeps its magnitude over the tokens.
#[test]
fn a_steady_spectrum_is_exact() {
    let part = part("spectral", Side::Keys, 64);
    // Odd channels wide (and steps of an exact grid), even ones one wave of changing sign.
    let mut x = vec![0.0; 64 * 64];
    for (token, row) in x.chunks_exact_mut(64).enumerate() {
        let sign = if token * 7 % 3 == 0 { 1.0 } else { -1.0 };
        for (c, x) in row.iter_mut().enumerate() {
            let angle = std::f32::consts::TAU * 3.0 * (c / 2) as f32 / 32.0;
            *x = if c % 2 == 1 { [0.0, 30.0, 60.0, 90.0][(token + c) % 4] } else { sign * angle.cos() };
        }
    }
    assert!(distortion(&x, &through(&*part, &x)) < 1e-7);
}

/// Every sign costs 1 - 2/π of a Gaussian's power, whatever the basis: the waves are orthonormal.
#[test]
fn waves_keep_power() {
    let part = part("spectral(bits=1.05)", Side::Keys, 128);
    let x = gaussian(64 * 128, 4);
    let lost = distortion(&x, &through(&*part, &x));
    let signs = 1.0 - std::f64::consts::FRAC_2_PI;
    assert!(lost < signs && lost > 0.85 * signs, "{lost}");
}
