//! Channels in two sets, and chunks of which some are kept.

use super::super::super::codec::{Hints, Part, Side};
use super::super::super::math::sample::{distortion, gaussian, part, refused};
use super::everywhere::{fused, vectors};
use super::{decoded, encoded, through};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;

fn bits(part: &dyn Part) -> f64 {
    8.0 * part.bytes() as f64 / part.shape().elements() as f64
}

#[test]
fn two_sets_have_the_published_rates() {
    // 32 channels of 128 with a bit more than the others, and a norm for each set.
    assert_eq!(bits(&*part("split", Side::Keys, 128)), (32.0 * 3.0 + 96.0 * 2.0) / 128.0 + 0.25);
    assert_eq!(bits(&*part("split(high=4, low=3)", Side::Values, 128)), 3.5);
}

#[test]
fn two_sets_have_the_distortion_of_their_rates() {
    let x = gaussian(64 * 128, 5);
    let error = |text: &str| distortion(&x, &through(&*part(text, Side::Keys, 128), &x));
    // Optimal levels of two and three bits on normal coordinates: 0.1175 and 0.03455.
    let expected = 0.25 * 0.03455 + 0.75 * 0.1175;
    assert!((error("split") / expected - 1.0).abs() < 0.05, "{}", error("split"));
    assert!(error("lloyd(bits=3)") < error("split") && error("split") < error("lloyd(bits=2)"));
}

#[test]
fn two_sets_are_read_as_the_two_parts_they_are() {
    const ROWS: usize = 5;
    for side in [Side::Keys, Side::Values] {
        let whole = part("split(share=0.25, high=4, low=2)", side, 128);
        assert!(whole.fused());
        let sets = [(0..32, part("lloyd(bits=4)", side, 32)), (32..128, part("lloyd(bits=2)", side, 96))];
        let x = gaussian(64 * 128, 8);
        let vectors = vectors(&*whole, ROWS);
        let page = encoded(&*whole, &x);
        for isa in Isa::available() {
            let mut expected = vec![0.0; if side == Side::Keys { ROWS * PAGE_TOKENS } else { ROWS * 128 }];
            for (channels, part) in &sets {
                let cut =
                    |x: &[f32]| x.chunks_exact(128).flat_map(|row| row[channels.clone()].to_vec()).collect::<Vec<_>>();
                let page = encoded(&**part, &cut(&x));
                match side {
                    Side::Keys => {
                        let scores = fused(&**part, isa, &page, &cut(&vectors), ROWS);
                        expected.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
                    }
                    Side::Values => {
                        let out = fused(&**part, isa, &page, &vectors, ROWS);
                        for (row, own) in expected.chunks_exact_mut(128).zip(out.chunks_exact(channels.len())) {
                            row[channels.clone()].copy_from_slice(own);
                        }
                    }
                }
            }
            // The same sums in another order.
            let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (got, expected) in fused(&*whole, isa, &page, &vectors, ROWS).iter().zip(&expected) {
                assert!((got - expected).abs() <= 4.0 * f32::EPSILON * largest, "{side:?} {isa}: {got} {expected}");
            }
        }
    }
}

#[test]
fn heads_that_are_no_two_sets_are_refused() {
    assert!(refused("split", Side::Keys, 16).contains("16 channels are not two sets"));
    assert!(refused("split", Side::Keys, 72).contains("72 channels are not two sets"));
}

#[test]
fn the_important_chunks_are_kept_and_the_others_become_their_mean() {
    let x = gaussian(64 * 64, 6);
    let part = part("softprune(keep=1)", Side::Values, 64);
    let importance: Vec<f32> = (0..PAGE_TOKENS).map(|token| if token / 16 == 1 { 2.0 } else { 1.0 }).collect();
    let mut page = vec![0; part.bytes()];
    part.encode(&x, Hints { importance: &importance, start: 0 }, &mut page);
    let read = decoded(&*part, &page);
    for chunk in [0, 2, 3] {
        let rows = &read[chunk * 16 * 64..][..16 * 64];
        for c in 0..64 {
            let mean = (0..16).map(|t| x[(chunk * 16 + t) * 64 + c]).sum::<f32>() / 16.0;
            assert!((0..16).all(|t| (rows[t * 64 + c] - mean).abs() < 1e-3), "chunk {chunk}, channel {c}");
        }
    }
    // Symmetric levels of the kept chunk err by half a step at most.
    for c in 0..64 {
        let column = |x: &[f32]| (16..32).map(|t| x[t * 64 + c]).collect::<Vec<f32>>();
        let reach = column(&x).iter().fold(0.0f32, |reach, x| reach.max(x.abs()));
        let worst = column(&x).iter().zip(column(&read)).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst <= reach / 14.0 * 1.01, "channel {c}: {worst} of {reach}");
    }
}

#[test]
fn soft_pruning_of_equal_rows_loses_nothing_but_their_rounding() {
    let row = gaussian(64, 7);
    let x: Vec<f32> = (0..PAGE_TOKENS).flat_map(|_| row.clone()).collect();
    let read = through(&*part("softprune(keep=0)", Side::Keys, 64), &x);
    assert!(x.iter().zip(&read).all(|(a, b)| (a - b).abs() <= a.abs() / 1000.0));
    // Two chunks of four bits and two means: half of what four bits by sixteen tokens take, and one bit for the means.
    assert!((bits(&*part("softprune", Side::Keys, 128)) - 3.0).abs() < 0.01);
}
