//! The numbers by which published methods can be told from their look-alikes.

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
    assert!(error("uniform(bit=4)", Side::Values).contains("has no argument `bit`; it knows "));
    assert!(error("uniform(levels=2, symmetric=true)", Side::Keys).contains("use `sign`"));
}

#[test]
fn a_block_of_mxfp4_saturates_above_six() {
    let part = part("mxfp4", Side::Values, 16, 32);
    assert_eq!(part.bytes() * 8, 16 * 32 * 4 + 16 * 8, "4.25 bits");
    let mut x = vec![0.0; 16 * 32];
    x[..8].copy_from_slice(&[7.0, -7.0, 2.5, 0.25, 0.75, -5.0, 3.4, -0.2]);
    assert_eq!(round_trip(&*part, &x)[..8], [6.0, -6.0, 2.0, 0.0, 1.0, -4.0, 3.0, 0.0]);
}

#[test]
fn mxfp4_is_as_near_as_that_of_ggml() {
    let float = |b: &[u8; 4]| f32::from_le_bytes(*b);
    let rows = include_bytes!("../../../../fixtures/formats/ggml-rows.f32");
    let rows: Vec<f32> = rows.as_chunks().0.iter().map(float).collect();
    let blocks = include_bytes!("../../../../fixtures/formats/ggml-mxfp4.bin");
    let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let ours = round_trip(&*part("mxfp4", Side::Keys, 64, 128), &rows);
    for (i, (block, x)) in blocks.as_chunks::<17>().0.iter().zip(rows.chunks_exact(32)).enumerate() {
        let scale = 2f64.powi(i32::from(block[0]) - 127);
        for (j, &x) in x.iter().enumerate() {
            let nibble = block[1 + j % 16] >> (j / 16 * 4) & 15;
            let sign = if nibble < 8 { 1.0 } else { -1.0 };
            let theirs = sign * magnitudes[usize::from(nibble % 8)] * scale;
            let error = |y: f64| (f64::from(x) - y).abs();
            // They may take the other of two equally near.
            assert_eq!(error(f64::from(ours[i * 32 + j])), error(theirs), "block {i}: {x}");
        }
    }
}

#[test]
fn nvfp4_scales_blocks_of_sixteen_finely() {
    let part = part("nvfp4(max=2688)", Side::Keys, 16, 32);
    assert_eq!(part.bytes() * 8, 16 * 32 * 4 + 16 * 2 * 8, "4.5 bits");
    // The scale of a block is an E4M3 float: 6 * 1.125 is on the grid, 6 * 1.0625 is half way and goes to even.
    let mut x = vec![0.0; 16 * 32];
    (x[0], x[1], x[16]) = (6.75, 1.2, 6.375);
    let y = round_trip(&*part, &x);
    assert_eq!((y[0], y[1], y[16]), (6.75, 1.125, 6.0));
    x[0] = 60000.0;
    assert_eq!(round_trip(&*part, &x)[0], 2688.0);
}

#[test]
fn block_floating_point_loses_the_neighbours_of_an_outlier() {
    for (group, bits) in [(32, 4.25), (64, 4.125)] {
        let part = part(&format!("bfp(bits=4, group={group})"), Side::Keys, 64, 64);
        assert_eq!(8.0 * part.bytes() as f64 / (64.0 * 64.0), bits);
    }
    let bfp = part("bfp(bits=4, group=16)", Side::Values, 16, 32);
    let mut x = vec![0.0; 16 * 32];
    x[..4].copy_from_slice(&[7.0, 0.4, 0.3, 0.2]);
    x[16..20].copy_from_slice(&[0.4, 0.3, 0.2, 0.1]);
    let y = round_trip(&*bfp, &x);
    assert_eq!(y[..4], [7.0, 0.0, 0.0, 0.0]);
    assert_eq!(y[16..20], [0.375, 0.3125, 0.1875, 0.125]);
}

#[test]
fn block_floating_point_of_a_whole_head_does_not_see_the_order_of_channels() {
    let x = Random::new(11).rows(64, 64);
    let sorted = |x: &[f32]| {
        let order = |i: usize| i * 37 % 64;
        x.chunks_exact(64).flat_map(|row| (0..64).map(move |i| row[order(i)])).collect::<Vec<f32>>()
    };
    let whole = part("bfp(group=0)", Side::Keys, 64, 64);
    assert_eq!(round_trip(&*whole, &sorted(&x)), sorted(&round_trip(&*whole, &x)));
    let blocks = part("bfp(group=32)", Side::Keys, 64, 64);
    assert_ne!(round_trip(&*blocks, &sorted(&x)), sorted(&round_trip(&*blocks, &x)));
}

#[test]
fn hqq_trades_small_errors_for_the_absolute_error() {
    let x = Random::new(12).rows(64, 128);
    let error = |text: &str| {
        let y = round_trip(&*part(text, Side::Values, 64, 128), &x);
        x.iter().zip(&y).map(|(x, y)| f64::from((x - y).abs())).sum::<f64>()
    };
    assert!(error("hqq(bits=2)") < 0.99 * error("hqq(bits=2, refine=false)"));
    let plain = part("hqq(bits=4)", Side::Values, 64, 128);
    assert_eq!(plain.bytes() * 8, 64 * 128 * 4 + 64 * 2 * 32, "4.5 bits");
    // A group far from zero stays where it is.
    let y = round_trip(&*plain, &vec![1000.5; 64 * 128]);
    assert!(y.iter().all(|y| (y - 1000.5).abs() < 0.5), "{}", y[0]);
}

/// Rows of independent normal numbers, of any length.
fn normal(tokens: usize, channels: usize) -> Vec<f32> {
    let mut random = Random::new(13);
    let mut pair = || {
        let (radius, angle) = ((-2.0 * random.uniform().ln()).sqrt(), std::f32::consts::TAU * random.uniform());
        [radius * angle.cos(), radius * angle.sin()]
    };
    (0..tokens * channels / 2).flat_map(|_| pair()).collect()
}

fn dot(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}

#[test]
fn turboquant_has_the_distortion_of_its_density() {
    let expected = [0.36089, 0.11600, 0.03397, 0.00932];
    for (bits, expected) in (1..).zip(expected) {
        let part = part(&format!("lloyd(bits={bits}, density=beta)"), Side::Keys, 64, 128);
        assert_eq!(part.bytes() * 8, 64 * 128 * bits + 64 * 16, "{bits} bits and a norm");
        let (mut distortion, mut rows) = (0.0, 0.0);
        for page in normal(64 * 16, 128).chunks_exact(64 * 128) {
            let decoded = round_trip(&*part, page);
            for (x, y) in page.chunks_exact(128).zip(decoded.chunks_exact(128)) {
                distortion += (dot(x, x) - 2.0 * dot(x, y) + dot(y, y)) / dot(x, x);
                rows += 1.0;
            }
        }
        let ratio = distortion / rows / expected;
        assert!((ratio - 1.0).abs() < 0.02, "{bits} bits: {ratio} of what is expected");
    }
}

#[test]
fn the_stored_norm_makes_up_for_what_it_says() {
    let pages = normal(64 * 16, 128);
    let all = |norm: &str, check: &dyn Fn(&[f32], &[f32])| {
        let part = part(&format!("lloyd(bits=2, norm={norm})"), Side::Values, 64, 128);
        let decoded: Vec<f32> = pages.chunks_exact(64 * 128).flat_map(|x| round_trip(&*part, x)).collect();
        let rows = || pages.chunks_exact(128).zip(decoded.chunks_exact(128));
        rows().for_each(|(x, y)| check(x, y));
        rows().map(|(x, y)| dot(x, y) / dot(x, x)).sum::<f64>() / rows().count() as f64
    };
    // A half float is off by one part in 2048 at most.
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1.0 / 2000.0, "{a} {b}");
    let plain = all("plain", &|_, _| {});
    assert!((plain - 0.883).abs() < 0.005, "levels are conditional means: {plain}");
    all("preserve", &|x, y| near(dot(x, x).sqrt(), dot(y, y).sqrt()));
    all("unbiased", &|x, y| near(dot(x, x), dot(x, y)));
    // Where the error is least, it is orthogonal to what is decoded.
    all("mse", &|x, y| near(dot(x, y), dot(y, y)));
}

#[test]
fn ternary_levels_are_the_mean_magnitude() {
    let mut x = vec![0.0; 16 * 32];
    for channel in 0..32 {
        (0..16).for_each(|token| x[token * 32 + channel] = [1.0, 1.0, -1.0, 0.1][token % 4]);
    }
    let mean = half::f16::from_f32(0.775).to_f32();
    for (pack, bits) in [("planes", 2.0), ("base3", 1.6)] {
        let ternary = part(&format!("ternary(pack={pack})"), Side::Values, 16, 32);
        assert_eq!(
            round_trip(&*ternary, &x)[..4 * 32].chunks(32).map(|row| row[9]).collect::<Vec<_>>(),
            [mean, mean, -mean, 0.0]
        );
        let page = part(&format!("ternary(pack={pack})"), Side::Keys, 64, 128);
        let codes = 8.0 * page.breakdown()[0].bytes as f64 / (64.0 * 128.0);
        assert!((codes - bits).abs() < 0.001, "{codes}");
        assert_eq!(page.breakdown()[1].bytes, 2 * 128 * 2, "half a bit of scales");
    }
}

#[test]
fn signs_of_one_magnitude_are_exact() {
    let x: Vec<f32> = (0..64 * 64).map(|i| if i * i % 7 < 3 { 0.375 } else { -0.375 }).collect();
    let sign = part("sign", Side::Values, 64, 64);
    assert_eq!(round_trip(&*sign, &x), x);
    assert_eq!(sign.bytes() * 8, 64 * 64 + 2 * 64 * 16, "1.5 bits");
}

#[test]
fn eight_bit_floats_saturate_and_scale() {
    let x: Vec<f32> = (0..64 * 64).map(|i| [448.0, -1e4, 0.0625, 1.0625, -0.0, 17.0][i % 6]).collect();
    let y = round_trip(&*part("fp8", Side::Keys, 64, 64), &x);
    assert_eq!(y[..6], [448.0, -448.0, 0.0625, 1.0, 0.0, 16.0]);
    let y = round_trip(&*part("fp8(scale=32, type=e4m3)", Side::Values, 64, 64), &x);
    assert_eq!(y[..2], [448.0, -10240.0], "in steps of 1024");
    let mx = part("mxfp8", Side::Keys, 64, 64);
    assert_eq!(mx.bytes() * 8, 64 * 64 * 8 + 64 * 2 * 8, "8.25 bits");
}
