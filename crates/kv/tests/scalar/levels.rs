//! Tables of levels, shared exponents and normalized rows: the numbers their papers and specifications give.

use crate::support::{Random, part, round_trip};
use cachalot_kv::encode::codec::Side;

#[test]
fn a_block_of_mxfp4_saturates_above_six() {
    let part = part("mxfp4", Side::Values, 16, 32);
    assert_eq!(part.bytes() * 8, 16 * 32 * 4 + 16 * 8, "4.25 bits");
    let mut x = vec![0.0; 16 * 32];
    x[..8].copy_from_slice(&[7.0, -7.0, 2.5, 0.25, 0.75, -5.0, 3.4, -0.2]);
    assert_eq!(round_trip(&*part, &x)[..8], [6.0, -6.0, 2.0, 0.0, 1.0, -4.0, 3.0, 0.0]);
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
