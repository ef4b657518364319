//! What holds for every scalar format, on both sides and at every width.

use crate::support::{Random, build, calibrated, decode, encode, fused, part, tile};
use cachalot_kernels::Isa;
use cachalot_kv::encode::codec::{Part, Shape, Side};
use cachalot_kv::encode::{part as parts, quantizer};
use proptest::prelude::*;
use std::sync::Arc;

/// As written in recipes; every argument that changes arithmetic at least once.
pub const STAGES: &[&str] = &[
    "uniform(bits=1)",
    "uniform(bits=2)",
    "uniform(bits=3, group=16)",
    "uniform(bits=4)",
    "uniform(bits=5, group=0)",
    "uniform(bits=6, axis=token)",
    "uniform(bits=7, axis=token, group=0)",
    "uniform(bits=8, axis=channel, group=64)",
    "uniform(levels=11, axis=token, group=48)",
    "uniform(bits=2, axis=token, group=0, clip=0.8, zero=integer)",
    "uniform(bits=4, axis=channel, group=16, symmetric=true)",
    "uniform(bits=4, axis=token, group=0, symmetric=true, scale=bf16)",
    "uniform(bits=4, axis=token, group=0, zero=float, offset=f32, scale=f32, round=up)",
    "uniform(bits=4, axis=token, zero=float)",
    "uniform(bits=4, axis=token, group=0, balance=true)",
    "uniform(bits=4, axis=channel, scale=e8m0)",
    "uniform(bits=4, axis=token, scale=e4m3, unit=0.125, symmetric=true)",
    "q8_0",
    "q5_1",
    "q5_0",
    "q4_1",
    "q4_0",
    "iq4_nl",
    "mxfp4",
    "nvfp4",
    "nvfp4(max=16)",
    "nvfp4(calibrated=true)",
    "bfp(bits=4, group=32)",
    "bfp(bits=8, group=0)",
    "hqq(bits=4)",
    "hqq(bits=1, refine=false)",
    "hqq(bits=8, group=0)",
    "lloyd(bits=1)",
    "lloyd(bits=2, density=beta, norm=unbiased)",
    "lloyd(bits=3, density=beta, group=16, norm=preserve)",
    "lloyd(levels=11, norm=mse)",
    "lloyd(bits=4, density=beta)",
    "nuq(bits=2, qnorm=true)",
    "nuq(bits=3)",
    "nuq(bits=4, axis=token)",
    "nuq(bits=4, axis=channel)",
    "ternary",
    "ternary(pack=base3, axis=token, group=0)",
    "sign",
    "sign(axis=token, group=16)",
    "olive",
    "olive(group=16, search=false)",
    "fp8",
    "fp8(type=e5m2, scale=0.5)",
    "mxfp8",
    "mxfp8(type=e5m2)",
    "outliers | uniform(bits=2)",
    "outliers(share=0.02, by=channel) | uniform(bits=4, group=0)",
    "outliers(by=token) | nuq(bits=3, axis=token)",
    "outliers(share=0.01, by=error) | nuq(bits=3, axis=channel)",
    "outliers(share=0) | mxfp8",
    "classes",
    "classes(important=32, high=8, low=3, axis=token, group=32, balance=true)",
    "classes(important=48, high=3, low=1, axis=channel, group=16)",
];

const WIDTHS: [usize; 5] = [64, 80, 96, 128, 256];

/// One of these on one side, calibrated with rows like those it writes.
pub fn stage(text: &str, side: Side, channels: usize) -> Arc<dyn Part> {
    let shape = Shape { side, tokens: 64, channels };
    let profile = calibrated(text, shape, &Random::new(9).rows(256, channels));
    build(text, shape, Some(&profile)).unwrap()
}

/// Every stage at every width it is possible at.
fn each(mut check: impl FnMut(&str, Arc<dyn Part>)) {
    let whole = quantizer::ggml::Kind::ALL.map(|kind| kind.name());
    for text in STAGES {
        for channels in WIDTHS {
            if channels % 32 != 0 && whole.contains(text) {
                continue;
            }
            for side in [Side::Keys, Side::Values] {
                check(&format!("{text} of {channels} channels, {side:?}"), stage(text, side, channels));
            }
        }
    }
}

#[test]
fn every_scalar_stage_is_tried() {
    let parts = parts::STAGES.iter().filter(|stage| ["fp8", "mxfp8", "outliers", "classes"].contains(&stage.name));
    let names: Vec<_> = quantizer::STAGES.iter().chain(parts).map(|stage| stage.name).collect();
    assert_eq!(names.len(), 20);
    for name in names {
        assert!(STAGES.iter().any(|text| text.split(['(', ' ']).next() == Some(name)), "{name}");
    }
}

/// Rows that break quantizers: zeros, constants, subnormals, one huge outlier, alternating extremes.
fn hard(channels: usize) -> Vec<f32> {
    let mut rows = Random::new(5).rows(64, channels);
    let mut fill = |token: usize, value: &dyn Fn(usize) -> f32| {
        rows[token * channels..][..channels].iter_mut().enumerate().for_each(|(c, x)| *x = value(c));
    };
    fill(0, &|_| 0.0);
    fill(1, &|_| 3.1);
    fill(2, &|_| -65504.0);
    fill(3, &|c| if c == 5 { 65504.0 } else { 1e-3 });
    fill(4, &|c| if c % 2 == 0 { 65504.0 } else { -65504.0 });
    fill(5, &|c| f32::from_bits(c as u32 * 1000));
    fill(6, &|_| -1e-30);
    fill(7, &|_| -0.0);
    rows
}

fn pages(part: &dyn Part) -> Vec<Vec<f32>> {
    let channels = part.shape().channels;
    let constant = |x: f32| vec![x; 64 * channels];
    let mut columns = hard(channels);
    (0..64 * channels)
        .filter(|i| i % channels < 8)
        .for_each(|i| columns[i] = [0.0, 7.0, 1e-41, 60000.0][i % channels % 4]);
    vec![Random::new(3).rows(64, channels), hard(channels), columns, constant(0.0), constant(-1e-40), constant(65504.0)]
}

#[test]
fn decoded_pages_are_finite_and_zeros_stay_zero() {
    each(|what, part| {
        for x in pages(&*part) {
            assert!(decode(&*part, &encode(&*part, &x)).iter().all(|x| x.is_finite()), "{what}");
        }
        let zeros = vec![0.0; part.shape().elements()];
        // Learned levels need not have one at zero.
        assert!(what.contains("nuq") || decode(&*part, &encode(&*part, &zeros)).iter().all(|&x| x == 0.0), "{what}");
    });
}

#[test]
fn bytes_are_whole_words_and_add_up() {
    each(|what, part| {
        assert_eq!(part.bytes(), part.breakdown().iter().map(|item| item.bytes).sum::<usize>(), "{what}");
        assert!(part.bytes().is_multiple_of(4) && part.bytes() > 0, "{what}");
    });
}

#[test]
fn tiles_are_what_is_decoded_on_every_instruction_set() {
    each(|what, part| {
        for x in pages(&*part) {
            let page = encode(&*part, &x);
            let decoded = decode(&*part, &page);
            for isa in Isa::available() {
                let same = tile(&*part, isa, &page).iter().zip(&decoded).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what} with {isa}");
            }
        }
    });
}

/// Products on codes round the vector to sixteen bits: each of its entries is off by at most its largest / 65024, times
/// a magnitude that is at most twice the largest of the page. What remains is the rounding of `f32`.
#[test]
fn products_on_codes_are_those_of_the_decoded_page_within_the_bound() {
    each(|what, part| {
        let shape = part.shape();
        let (taken, given) =
            if shape.side == Side::Keys { (shape.channels, shape.tokens) } else { (shape.tokens, shape.channels) };
        if !part.fused() {
            return;
        }
        let x = Random::new(4).rows(64, shape.channels);
        let page = encode(&*part, &x);
        let decoded = decode(&*part, &page);
        let rows = 3;
        let mut random = Random::new(6);
        let vectors: Vec<f32> = (0..rows * taken).map(|_| random.normal()).collect();
        let reach = |x: &[f32]| x.iter().fold(0f32, |reach, x| reach.max(x.abs()));
        let isas = Isa::available();
        let all: Vec<Vec<f32>> = isas.iter().map(|&isa| fused(&*part, isa, &page, &vectors, rows)).collect();
        assert!(all.iter().all(|other| *other == all[0]), "{what}: instruction sets disagree");
        for (row, vector) in vectors.chunks_exact(taken).enumerate() {
            let bound = 2.0 * taken as f32 * reach(vector) * reach(&decoded) * (1.0 / 65024.0 + 1.0 / (1 << 20) as f32);
            for out in 0..given {
                let at = |i: usize| match shape.side {
                    Side::Keys => decoded[out * shape.channels + i],
                    Side::Values => decoded[i * shape.channels + out],
                };
                let exact: f64 = (0..taken).map(|i| f64::from(vector[i]) * f64::from(at(i))).sum();
                let error = (f64::from(all[0][row * given + out]) - exact).abs();
                assert!(error <= f64::from(bound), "{what}: {error} exceeds {bound}");
            }
        }
        // A row alone gives the same bits.
        let alone = fused(&*part, isas[0], &page, &vectors[taken..2 * taken], 1);
        assert_eq!(alone, all[0][given..2 * given], "{what}: rows that travel together change each other");
    });
}

#[test]
fn any_bytes_are_read_without_panic() {
    each(|_, part| {
        let mut random = Random::new(7);
        let page: Vec<u8> = (0..part.bytes()).map(|_| (random.uniform() * 256.0) as u8).collect();
        decode(&*part, &page);
        let isa = Isa::detect();
        let shape = part.shape();
        let mut work = cachalot_kv::encode::codec::Work::default();
        part.tile(isa, &page, &mut work, &mut vec![0.0; shape.tile_len()]);
        if part.fused() {
            let taken = if shape.side == Side::Keys { shape.channels } else { shape.tokens };
            fused(&*part, isa, &page, &vec![1.0; taken], 1);
        }
    });
}

/// Affine and symmetric levels: half a step within the range, and what half floats add to the ends of it.
#[test]
fn uniform_errors_are_at_most_half_a_step() {
    for (bits, text) in [(2, "bits=2, group=0"), (4, "bits=4, group=0"), (8, "bits=8, group=0")] {
        for side in [Side::Keys, Side::Values] {
            let part = part(&format!("uniform({text}, axis=token)"), side, 64, 96);
            let x = Random::new(8).rows(64, 96);
            let y = decode(&*part, &encode(&*part, &x));
            for (x, y) in x.chunks_exact(96).zip(y.chunks_exact(96)) {
                let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(low, high), &x| (low.min(x), high.max(x)));
                let half = (high - low) / ((1 << bits) - 1) as f32 / 2.0;
                let ends = ((high - low) + low.abs()) / 2048.0;
                assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() <= half + ends), "{text} {side:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Numbers of any magnitude and sign, mixed in one page.
    #[test]
    fn any_finite_page_stays_finite(text in prop::sample::select(STAGES), keys: bool, seed: u64) {
        let side = if keys { Side::Keys } else { Side::Values };
        let part = stage(text, side, 64);
        let mut random = Random::new(seed);
        let mut number = || {
            // A uniform number may be rounded up to one.
            let x = f32::from_bits(((random.uniform() * 65536.0) as u32).min(65535) * 65537);
            if x.is_finite() { x.clamp(-65504.0, 65504.0) } else { 0.0 }
        };
        let x: Vec<f32> = (0..64 * 64).map(|_| number()).collect();
        let page = encode(&*part, &x);
        let y = decode(&*part, &page);
        prop_assert!(y.iter().all(|y| y.is_finite()), "{}", text);
        prop_assert!(tile(&*part, Isa::detect(), &page).iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", text);
    }
}
