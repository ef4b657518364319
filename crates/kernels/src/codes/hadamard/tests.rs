//! The transform of levels against that of the numbers they stand for.

use super::*;
use crate::Isa;
use crate::attention::score_turned;

#[test]
fn the_transform_of_levels_is_that_of_the_matrix_on_every_isa() {
    for rows in [64, 128, 256] {
        let count = rows * PAGE_TOKENS;
        // The extremes, also in the signs of some rows of the transform.
        let level = |r: usize, t: usize| match t {
            0 => 0,
            1 => 15,
            2..=20 => 15 * (((r & (t * 7 % rows)).count_ones() & 1) as u8),
            _ => ((r * 31 + t * 17 + r * t / 3) % 16) as u8,
        };
        let mut levels = vec![0; count];
        for i in 0..count {
            let (r, t) = (i / PAGE_TOKENS, i % PAGE_TOKENS);
            levels[(r / 4 * PAGE_TOKENS + t) * 4 + r % 4] = level(r, t);
        }
        let number = |i: usize| (i as f32 * 0.37).sin();
        let (scales, offsets): (Vec<_>, Vec<_>) = (0..PAGE_TOKENS).map(|i| (number(i), number(i + 99))).unzip();
        for (zero, with_offset) in [(0, true), (8, false), (3, true)] {
            let grid = Grid {
                reduce: rows,
                lanes: PAGE_TOKENS,
                zero,
                reduce_groups: &[rows],
                lane_groups: &[PAGE_TOKENS],
                fold_scale: &[],
                fold_offset: &[],
                lane_scale: &scales,
                lane_offset: if with_offset { &offsets } else { &[] },
            };
            let mut first = vec![f32::NAN; count];
            assert!(decode_hadamard(Isa::Portable, &grid, &levels, &mut first));
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; count];
                decode_hadamard(isa, &grid, &levels, &mut out);
                assert_eq!(out, first, "{isa} {rows}");
            }
            let (q, angles): (Vec<_>, Vec<_>) = ((0..4 * rows).map(number).collect(), (0..count).map(number).collect());
            let mut expected = vec![0.0; 4 * PAGE_TOKENS];
            score_turned(Isa::Portable, &q, rows, rows / 2, &mut first.clone(), Some(&angles), &mut expected);
            for isa in Isa::available() {
                for few in 1..=4 {
                    let mut scores = vec![f32::NAN; few * PAGE_TOKENS];
                    let done = score_hadamard(isa, &grid, &levels, &q[..few * rows], &angles, &mut scores);
                    assert_eq!(done, rows <= 128);
                    assert!(!done || scores == expected[..few * PAGE_TOKENS], "{isa} {rows}: {few} rows");
                }
            }
            for r in 0..rows {
                for t in 0..PAGE_TOKENS {
                    let entry = |i: usize| {
                        let sign = if (i & r).count_ones() & 1 == 0 { 1.0 } else { -1.0 };
                        let offset = if with_offset { f64::from(offsets[t]) } else { 0.0 };
                        sign * (f64::from(scales[t]) * (f64::from(level(i, t)) - f64::from(zero)) + offset)
                    };
                    let expected = (0..rows).map(entry).sum::<f64>() / (rows as f64).sqrt();
                    let got = f64::from(first[r * PAGE_TOKENS + t]);
                    assert!((got - expected).abs() < 2e-5, "{rows} rows, zero {zero}: {r} {t}: {got} {expected}");
                }
            }
        }
    }
}
