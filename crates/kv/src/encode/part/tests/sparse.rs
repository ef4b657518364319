//! Facts of Mustafar.

use super::super::super::codec::Side;
use super::super::super::math::sample::{gaussian, part};
use super::{encoded, through};
use half::f16;

fn halved(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| f16::from_f32(x).to_f32()).collect()
}

#[test]
fn the_kept_are_the_largest_of_each_token() {
    for side in [Side::Keys, Side::Values] {
        let x = gaussian(64 * 128, 12);
        for (text, keep) in [("bitmap(sparsity=0.7)", 40), ("bitmap(sparsity=0.5)", 65), ("bitmap(sparsity=0)", 128)] {
            let back = through(&*part(text, side, 128), &x);
            for (x, back) in halved(&x).chunks_exact(128).zip(back.chunks_exact(128)) {
                assert_eq!(back.iter().filter(|&&b| b != 0.0).count(), keep, "{text}");
                assert!(x.iter().zip(back).all(|(x, b)| *b == 0.0 || x == b));
                let least = back.iter().filter(|&&b| b != 0.0).fold(f32::MAX, |least, b| least.min(b.abs()));
                assert!(x.iter().zip(back).all(|(x, b)| *b != 0.0 || x.abs() <= least));
            }
        }
    }
}

/// The published rule on [3, -5, 1, 4] at one half: k = 2, so three stay.
#[test]
fn the_rule_of_the_code() {
    let part = part("bitmap(sparsity=0.5)", Side::Values, 4);
    let x = [3.0, -5.0, 1.0, 4.0].repeat(64);
    assert_eq!(through(&*part, &x), [3.0, -5.0, 0.0, 4.0].repeat(64));
    // Ties: the first stay, and no more than that.
    assert_eq!(through(&*part, &[2.0; 256]), [2.0, 2.0, 2.0, 0.0].repeat(64));
}

/// A channel that all tokens keep is a full row of bits of the keys, and one column of the values.
#[test]
fn bits_lie_along_tokens_for_keys_and_along_channels_for_values() {
    let x: Vec<f32> = (0..64 * 64).map(|i| if i % 64 == 5 { 2.0 } else { 0.0 }).collect();
    let bits = |side| {
        let part = part("bitmap(sparsity=0.99)", side, 64);
        let page = encoded(&*part, &x);
        page[page.len() - 64 * 8..].to_vec()
    };
    let (keys, values) = (bits(Side::Keys), bits(Side::Values));
    assert!(keys[5 * 8..6 * 8].iter().all(|&byte| byte == 0xff));
    assert!(values.chunks_exact(8).all(|row| row[0] & 0x20 != 0));
}

#[test]
fn six_bits_an_element_at_seventy_percent() {
    for side in [Side::Keys, Side::Values] {
        let bits = |text| 8.0 * part(text, side, 128).bytes() as f64 / (64.0 * 128.0);
        assert_eq!(bits("bitmap"), 1.0 + 16.0 * 40.0 / 128.0);
        assert_eq!(bits("bitmap(sparsity=0.5)"), 1.0 + 16.0 * 65.0 / 128.0);
    }
}
