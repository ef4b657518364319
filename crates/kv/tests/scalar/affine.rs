//! Evenly spaced levels: the numbers by which published methods can be told from their look-alikes.

use crate::support::{Random, build, decode, encode, part, round_trip};
use cachalot_kv::encode::codec::{Hints, Part, Shape, Side};
use cachalot_kv::encode::quantizer::{Group, GroupQuantizer, Rounding, Store, Uniform, Zero};

const GROUP: Group = Group { line: 0, block: 0 };

fn codes(quantizer: &dyn GroupQuantizer, x: &[f32]) -> (Vec<u8>, f32, f32) {
    let mut codes = vec![0; x.len()];
    let p = quantizer.quantize(GROUP, x, &mut codes);
    (codes, p.scale, p.offset)
}

#[test]
fn kivi_rounds_halves_to_even() {
    let x = [-1.0, -0.2, 0.5, 2.0];
    assert_eq!(codes(&Uniform::affine(2), &x), (vec![0, 1, 2, 3], 1.0, -1.0));
}

#[test]
fn kivi_costs_one_bit_more_than_its_codes() {
    for side in [Side::Keys, Side::Values] {
        for bits in [2, 4] {
            let part = part(&format!("uniform(bits={bits}, group=32)"), side, 64, 128);
            assert_eq!(part.bytes(), 64 * 128 * (bits + 1) / 8, "{side:?}");
        }
    }
}

#[test]
fn kivi_doubling_a_channel_of_the_keys_changes_only_its_parameters() {
    let part = part("uniform(bits=4)", Side::Keys, 64, 64);
    let mut x = Random::new(1).rows(64, 64);
    let before = encode(&*part, &x);
    x.iter_mut().skip(9).step_by(64).for_each(|x| *x *= 2.0);
    let after = encode(&*part, &x);
    let codes = 64 * 64 / 2;
    assert_eq!(before[..codes], after[..codes]);
    let changed: Vec<usize> =
        (codes..before.len()).step_by(2).filter(|&i| before[i..i + 2] != after[i..i + 2]).collect();
    let at = |parameter: usize, block: usize| codes + 2 * ((parameter * 2 + block) * 64 + 9);
    assert_eq!(changed, [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]);
}

#[test]
fn saw_int4_has_one_scale_and_zero_point_for_a_token_and_the_rotation_is_what_saves_it() {
    let saw =
        Uniform { levels: 16, zero: Zero::Point(Store::F32), clip: 1.0, scale: Store::F32, rounding: Rounding::Up };
    let mse = |x: &[f32; 8], y: &[f32; 8]| x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / 8.0;
    let quantized = |x: &[f32; 8]| {
        let (codes, scale, point) = codes(&saw, x);
        std::array::from_fn::<f32, 8, _>(|i| (f32::from(codes[i]) - point) * scale)
    };
    let hadamard = |x: &[f32; 8]| {
        let sign = |i: usize, j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        std::array::from_fn::<f32, 8, _>(|i| (0..8).map(|j| sign(i, j) * x[j]).sum::<f32>() / 8f32.sqrt())
    };
    let x = [10.0, -1.0, 1.0, 0.0, 0.5, -0.5, 0.25, -0.25];
    assert!((mse(&x, &quantized(&x)) - 0.0267).abs() < 5e-5);
    assert!((mse(&x, &hadamard(&quantized(&hadamard(&x)))) - 0.00102).abs() < 5e-6);
    let part =
        part("uniform(bits=4, axis=token, group=0, zero=float, offset=f32, scale=f32, round=up)", Side::Keys, 64, 128);
    assert_eq!(part.bytes(), 64 * 128 / 2 + 64 * 8, "4.5 bits");
}

#[test]
fn rotatekv_stores_a_whole_zero_point_that_may_lie_outside_of_the_codes() {
    let rotate = Uniform { levels: 4, zero: Zero::Point(Store::I16), ..Uniform::affine(2) };
    // 2.0 to 3.5 in steps of 0.5: the point is four steps below the first code.
    assert_eq!(codes(&rotate, &[2.0, 2.5, 3.0, 3.5]), (vec![0, 1, 2, 3], 0.5, -4.0));
    let clipped = Uniform { clip: 0.8, ..Uniform::affine(2) };
    assert_eq!(codes(&clipped, &[-3.0, 3.0, 0.7, -0.9]).0, [0, 3, 2, 1]);
}

#[test]
fn fireq_is_symmetric_to_seven_with_four_and_an_eighth_bits() {
    let (codes, scale, _) = codes(&Uniform { scale: Store::Bf16, ..Uniform::symmetric(4) }, &[7.0, -7.0, 0.4, -3.5]);
    assert_eq!((codes, scale), (vec![15, 1, 8, 4], 1.0));
    let part = part("uniform(bits=4, axis=token, group=0, symmetric=true, scale=bf16)", Side::Keys, 64, 128);
    assert_eq!(part.bytes() * 8, (4 * 64 * 128) + 64 * 16, "4.125 bits");
}

#[test]
fn zipcache_balances_the_channels_of_values() {
    let rows = [[10.0, 0.5, -0.3, 0.2], [11.0, -0.4, 0.6, 0.1], [9.5, 0.3, 0.2, -0.5]];
    let x: Vec<f32> = rows.iter().copied().chain([[0.0; 4]; 13]).flatten().collect();
    let mse = |text: &str| {
        let y = round_trip(&*part(text, Side::Values, 16, 4), &x);
        x.iter().zip(&y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / 12.0
    };
    let plain = "uniform(bits=2, axis=token, group=0, scale=f32, offset=f32)";
    assert!((mse(plain) - 0.2725).abs() < 5e-5, "{}", mse(plain));
    let balanced = "uniform(bits=2, axis=token, group=0, scale=f32, offset=f32, balance=true)";
    // The balance itself is stored in half floats.
    assert!((mse(balanced) - 0.0262).abs() < 2e-4, "{}", mse(balanced));
}

#[test]
fn progressive_residual_bounds_the_error_by_the_second_step() {
    // PRQ: four bits, then four bits of what is left: |x| / (2 * 7 * 14) at most.
    let shape = Shape { side: Side::Keys, tokens: 64, channels: 64 };
    let text = "uniform(bits=4, axis=channel, group=16, symmetric=true)";
    let (first, second) = (build(text, shape, None).unwrap(), build(text, shape, None).unwrap());
    let x = Random::new(2).rows(64, 64);
    let pipeline = cachalot_kv::encode::pipeline::Pipeline::new(shape, false, vec![], vec![first, second]);
    assert_eq!(pipeline.bits(), 10.0);
    let mut page = vec![0; pipeline.bytes()];
    pipeline.encode(&x, Hints::default(), &mut page);
    let mut y = vec![0.0; x.len()];
    pipeline.decode(&page, &mut y);
    for channel in 0..64 {
        for block in 0..4 {
            let members = || (0..16).map(|t| (block * 16 + t) * 64 + channel);
            let reach = members().fold(0f32, |reach, i| reach.max(x[i].abs()));
            let error = members().fold(0f32, |error, i| error.max((x[i] - y[i]).abs()));
            // Scales are half floats, so steps may be wider by one part in 2048, twice.
            assert!(error <= reach / (2.0 * 7.0 * 14.0) * 1.01, "{error} of {reach}");
        }
    }
}

#[test]
fn values_that_are_on_the_grid_survive() {
    let x: Vec<f32> = (0..64 * 64).map(|i| ((i * 7 + i / 64) % 16) as f32 * 0.25 - 1.75).collect();
    for side in [Side::Keys, Side::Values] {
        for text in ["uniform(bits=4, group=0)", "uniform(bits=4, axis=token, group=32)", "uniform(levels=16)"] {
            let part: std::sync::Arc<dyn Part> = part(text, side, 64, 64);
            assert_eq!(decode(&*part, &encode(&*part, &x)), x, "{text} {side:?}");
        }
    }
}

#[test]
fn groups_that_products_cannot_do_are_refused_by_name() {
    let error = |text: &str, side| build(text, Shape { side, tokens: 64, channels: 64 }, None).unwrap_err().to_string();
    let expected = "uniform(group=8): groups of 8 tokens of keys are not possible; take a multiple of 16, or 0";
    assert_eq!(error("uniform(group=8)", Side::Keys), expected);
    assert!(
        error("uniform(axis=token, group=6)", Side::Keys)
            .contains("6 channels of keys are not possible; take a multiple of 4")
    );
    assert!(error("uniform(axis=channel, balance=true)", Side::Values).contains("only with `axis=token`"));
    assert!(error("uniform(bit=4)", Side::Values).contains("has no argument `bit`, did you mean `bits`? (it knows "));
    assert!(error("uniform(levels=2, symmetric=true)", Side::Keys).contains("use `sign`"));
}
