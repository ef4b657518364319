//! Concatenation, single rows, sizes.

use super::sample::{Rng, Sample, specs};
use super::{bits, forward, team};
use crate::Isa;
use crate::linear::{Linear, QuantSpec};
use half::{bf16, f16};
use proptest::prelude::*;

/// `[rows][a + b + ..]` from the parts' `[rows][a]`, `[rows][b]`, ..
fn side_by_side(parts: &[(Vec<f32>, usize)], rows: usize) -> Vec<f32> {
    (0..rows).flat_map(|row| parts.iter().flat_map(move |(y, out)| y[row * out..(row + 1) * out].to_vec())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Also where parts do not fill their panels, and where only one of them has scales beyond half floats.
    #[test]
    fn concatenated_equals_its_parts(
        spec in specs(), outs in prop::collection::vec((1usize..40, any::<bool>(), any::<bool>()), 1..4), seed: u64,
    ) {
        let mut rng = Rng(seed);
        let make = |rng: &mut Rng| -> Vec<Linear> {
            outs.iter().map(|(out, half, biased)| {
                let linear = Sample::new(rng, spec, *out, 96, *half).linear();
                if *biased { linear.with_bias(vec![0.25; *out]) } else { linear }
            }).collect()
        };
        let (parts, again) = (make(&mut Rng(seed)), make(&mut Rng(seed)));
        let x: Vec<f32> = (0..19 * 96).map(|_| rng.unit()).collect();
        let (isa, team) = (Isa::detect(), team(2));
        let apart: Vec<_> = parts.iter().map(|part| (forward(part, isa, &team, &x), part.out())).collect();
        let whole = Linear::concat(again).unwrap();
        prop_assert_eq!(whole.out(), outs.iter().map(|(out, ..)| out).sum::<usize>());
        // A zero bias turns -0 into 0, so numbers are compared here.
        prop_assert_eq!(forward(&whole, isa, &team, &x), side_by_side(&apart, 19));
    }

    #[test]
    fn a_row_is_the_decoded_weights(spec in specs(), out in 1usize..40, blocks in 1usize..5, half: bool, seed: u64) {
        let sample = Sample::new(&mut Rng(seed), spec, out, blocks * 32, half);
        let linear = sample.linear();
        let mut row = vec![f32::NAN; blocks * 32];
        for o in 0..out {
            linear.row(o, &mut row);
            let expected: Vec<f32> = (0..row.len()).map(|k| sample.weight(o, k)).collect();
            prop_assert_eq!(bits(&row), bits(&expected));
        }
    }
}

#[test]
fn dense_parts_and_rows() {
    let mut rng = Rng(9);
    let mut wide = |out: usize| -> Vec<f32> { (0..out * 7).map(|_| rng.unit()).collect() };
    let (a, b) = (wide(5), wide(30));
    let narrow = |w: &[f32]| w.iter().map(|w| bf16::from_f32(*w)).collect::<Vec<_>>();
    let half = |w: &[f32]| w.iter().map(|w| f16::from_f32(*w)).collect::<Vec<_>>();
    let x = wide(3);
    let kinds: [[Linear; 2]; 3] = [
        [Linear::dense_f32(5, 7, &a), Linear::dense_f32(30, 7, &b)],
        [Linear::dense_bf16(5, 7, &narrow(&a)), Linear::dense_bf16(30, 7, &narrow(&b))],
        [Linear::dense_f16(5, 7, &half(&a)), Linear::dense_f16(30, 7, &half(&b))],
    ];
    for (kind, parts) in kinds.into_iter().enumerate() {
        let (isa, team) = (Isa::detect(), team(1));
        let apart: Vec<_> = parts.iter().map(|part| (forward(part, isa, &team, &x), part.out())).collect();
        let whole = Linear::concat(parts.into()).unwrap();
        assert_eq!(bits(&forward(&whole, isa, &team, &x)), bits(&side_by_side(&apart, 3)));
        let mut row = [0.0; 7];
        whole.row(5 + 17, &mut row);
        let original = &b[17 * 7..18 * 7];
        let expected: Vec<f32> = match kind {
            0 => original.to_vec(),
            1 => original.iter().map(|w| bf16::from_f32(*w).to_f32()).collect(),
            _ => original.iter().map(|w| f16::from_f32(*w).to_f32()).collect(),
        };
        assert_eq!(bits(&row), bits(&expected));
    }
}

#[test]
fn parts_that_differ_come_back() {
    let spec = QuantSpec { bits: 4, group: 32, zero: 8, min: false };
    let quant = |spec, inp| Linear::quantized(spec, 3, inp, |_, _, _, _| ());
    for parts in [
        vec![],
        vec![Linear::dense_f32(1, 2, &[1.0; 2]), Linear::dense_f32(2, 1, &[1.0; 2])],
        vec![Linear::dense_f32(1, 1, &[1.0]), Linear::dense_f16(1, 1, &[f16::ONE])],
        vec![Linear::dense_f32(1, 32, &[1.0; 32]), quant(spec, 32)],
        vec![quant(spec, 32), quant(spec, 64)],
        vec![quant(spec, 32), quant(QuantSpec { zero: 0, ..spec }, 32)],
    ] {
        let (count, outs) = (parts.len(), parts.iter().map(Linear::out).collect::<Vec<_>>());
        let back = Linear::concat(parts).unwrap_err();
        assert_eq!((back.len(), back.iter().map(Linear::out).collect::<Vec<_>>()), (count, outs));
    }
}

#[test]
fn packed_weights_take_what_their_format_says() {
    // Four bits per code and two half floats per 32 of them: five bits per weight.
    let spec = QuantSpec { bits: 4, group: 32, zero: 0, min: true };
    let linear = Linear::quantized(spec, 64, 640, |_, _, d, m| {
        d.fill(0.5);
        m.fill(-0.25);
    });
    assert_eq!(linear.bytes(), 64 * 640 * 5 / 8);
    assert_eq!(linear.with_bias(vec![0.0; 64]).bytes(), 64 * 640 * 5 / 8 + 64 * 4);
    assert_eq!(Linear::dense_bf16(32, 64, &[bf16::ONE; 32 * 64]).bytes(), 32 * 64 * 2);
}
