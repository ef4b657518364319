//! Facts of the two polar formats.

use super::super::super::codec::Side;
use super::super::super::math::sample::{build_on, context, distortion, gaussian, part};
use super::super::super::stage::{Built, Context};
use super::through;
use crate::Rope;

/// Gaussian rows lose 0.0321 at 3.875 bits.
#[test]
fn recursive_angles_lose_what_their_densities_say() {
    for side in [Side::Keys, Side::Values] {
        let part = part("polar", side, 128);
        assert_eq!(8.0 * part.bytes() as f64 / (64.0 * 128.0), 3.875);
        let lost = (0..8).map(|seed| {
            let x = gaussian(64 * 128, seed);
            distortion(&x, &through(&*part, &x))
        });
        let lost = lost.sum::<f64>() / 8.0;
        assert!((lost / 0.0321 - 1.0).abs() < 0.02, "{lost}");
    }
}

#[test]
fn radii_are_the_lengths_of_their_blocks() {
    let part = part("polar", Side::Values, 64);
    let x = gaussian(64 * 64, 9);
    let length = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    for (x, back) in x.chunks_exact(16).zip(through(&*part, &x).chunks_exact(16)) {
        assert!((length(x) / length(back) - 1.0).abs() < 1e-3);
    }
}

/// Keys at the angles of one turning pair: radius and angle within half a step of the page's grid.
#[test]
fn pairs_are_within_half_a_step() {
    let d = 64;
    let part = part("keypolar", Side::Keys, d);
    assert_eq!(part.bytes(), 32 * (64 + 8));
    let x: Vec<f32> = gaussian(64 * d, 10).iter().map(|x| x + 1.0).collect();
    let back = through(&*part, &x);
    for p in 0..32 {
        let polar = |rows: &[f32]| {
            let pair = |row: &[f32]| (f64::from(row[p]), f64::from(row[p + 32]));
            rows.chunks_exact(d).map(pair).map(|(x, y)| (x.hypot(y), y.atan2(x))).collect::<Vec<_>>()
        };
        let (there, back) = (polar(&x), polar(&back));
        let top = there.iter().fold(0.0f64, |top, r| top.max(r.0));
        let least = there.iter().fold(f64::MAX, |least, r| least.min(r.0));
        for (a, b) in there.iter().zip(&back) {
            // Half floats of the grid's ends take up a little.
            assert!((a.0 - b.0).abs() <= 1.01 * (top - least) / 32.0 + 2e-3 * top, "{a:?} {b:?}");
            let off = (a.1 - b.1).rem_euclid(std::f64::consts::TAU);
            assert!(off.min(std::f64::consts::TAU - off) <= 1.01 * std::f64::consts::PI / 16.0);
        }
    }
}

/// A narrow cluster about the negative axis, where angles jump, is written as finely as one anywhere else.
#[test]
fn a_cluster_across_the_cut_is_not_a_full_turn() {
    let part = part("keypolar", Side::Keys, 64);
    for centre in [0.0f64, 1.0, std::f64::consts::PI, 4.0] {
        let noise = gaussian(64 * 32, 11);
        let mut x = vec![0.0; 64 * 64];
        for (i, n) in noise.iter().enumerate() {
            let angle = centre + 0.05 * f64::from(*n);
            x[i / 32 * 64 + i % 32] = (5.0 * angle.cos()) as f32;
            x[i / 32 * 64 + i % 32 + 32] = (5.0 * angle.sin()) as f32;
        }
        let lost = distortion(&x, &through(&*part, &x));
        assert!(lost < 1e-4, "{centre}: {lost}");
    }
}

#[test]
fn pairs_follow_the_rotary_half() {
    let rope = Rope::new(vec![1.0; 16], 1.0);
    let context = Context { rope: Some(&rope), ..context(Side::Keys, 64) };
    let Ok(Built::Part(part)) = build_on("keypolar", context, &[], &[]) else { panic!() };
    // Channels 0 and 16 turn together; as a circle they cost next to nothing.
    let mut x = vec![0.0; 64 * 64];
    for (t, row) in x.chunks_exact_mut(64).enumerate() {
        let angle = t as f32 * 0.02;
        (row[0], row[16]) = (100.0 * angle.cos(), 100.0 * angle.sin());
    }
    let back = through(&*part, &x);
    assert!(distortion(&x, &back) < 1e-3);
    assert!(back.iter().enumerate().all(|(i, &b)| i % 64 == 0 || i % 64 == 16 || b == 0.0));
}
