//! Facts of OCTOPUS.

use super::super::super::codec::Side;
use super::super::super::math::sample::{distortion, gaussian, part};
use super::through;

/// What random unit rows of 128 lose, with joint rounding, at three bits more than a third of the rate.
#[test]
fn random_rows_lose_what_the_rates_say() {
    for (bits, expected) in [(2, 0.0830), (3, 0.0243), (4, 0.00664)] {
        let part = part(&format!("octahedral(bits={bits})"), Side::Keys, 128);
        assert_eq!(part.bytes(), 43 * (3 * bits + 1) * 8 + 128);
        let lost = (0..6).map(|seed| {
            let x = gaussian(64 * 128, seed);
            distortion(&x, &through(&*part, &x))
        });
        let lost = lost.sum::<f64>() / 6.0;
        assert!((lost / expected - 1.0).abs() < 0.03, "{bits} bits: {lost}");
    }
}

#[test]
fn rows_of_zero_come_back_as_zero() {
    let part = part("octahedral", Side::Values, 80);
    let mut x = gaussian(64 * 80, 2);
    x[80..160].fill(0.0);
    assert!(through(&*part, &x)[80..160].iter().all(|&x| x == 0.0));
}
