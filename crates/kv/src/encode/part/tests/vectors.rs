//! Facts of the low-rank and codebook methods.

use super::super::super::codec::{Part, Shape, Side};
use super::super::super::math::dense;
use super::super::super::math::sample::{distortion, gaussian, part, refused, rows};
use super::super::product::Product;
use super::through;

#[test]
fn a_mean_page_repeats_its_mean() {
    let part = part("mean", Side::Values, 64);
    assert_eq!(part.bytes(), 128);
    let x: Vec<f32> = (0..64 * 64).map(|i| if i / 64 % 2 == 0 { 1.0 } else { (i % 64) as f32 }).collect();
    let expected: Vec<f32> = (0..64).map(|c| (1.0 + c as f32) / 2.0).collect();
    assert!(through(&*part, &x).chunks_exact(64).all(|row| row == expected));
}

#[test]
fn enough_rank_is_exact_and_less_leaves_the_small_singular_values() {
    // Three outer products of numbers that half floats hold well.
    let (a, b) = (gaussian(3 * 96, 1), gaussian(3 * 64, 2));
    let x: Vec<f32> =
        (0..64 * 96).map(|i| (0..3).map(|r| b[r * 64 + i / 96] * a[r * 96 + i % 96]).sum::<f32>()).collect();
    for side in [Side::Keys, Side::Values] {
        assert!(distortion(&x, &through(&*part("lowrank(rank=3)", side, 96), &x)) < 1e-6);
        assert!(distortion(&x, &through(&*part("lowrank(rank=4)", side, 96), &x)) < 1e-6);
    }
    // On noise with a few strong directions: the optimum of Eckart and Young, nearly.
    let noise = gaussian(64 * 96, 3);
    let x: Vec<f32> = x.iter().zip(&noise).map(|(x, n)| x + 0.3 * n).collect();
    let gram = dense::second_moment(&x, &[0.0; 96]);
    let (spectrum, _) = dense::eigen(gram, 96);
    for (rank, most) in [(3, 1.01), (1, 1.3)] {
        let best = spectrum[rank..].iter().sum::<f64>() / spectrum.iter().sum::<f64>();
        let got = distortion(&x, &through(&*part(&format!("lowrank(rank={rank})"), Side::Keys, 96), &x));
        assert!(got >= best * 0.9999 && got < most * best, "{rank}: {got} {best}");
    }
    // r (1/n + 1/d) half floats an element.
    assert_eq!(part("lowrank", Side::Keys, 128).bytes(), 2 * 4 * (128 + 64));
}

#[test]
fn words_themselves_come_back_and_bits_count() {
    let words: Vec<f32> = (0..2 * 16 * 32).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
    for side in [Side::Keys, Side::Values] {
        let shape = Shape { side, tokens: 64, channels: 64 };
        let halves = words.iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
        let part = Product::new(shape, "two".into(), 2, 4, halves, None);
        let x: Vec<f32> = (0..64)
            .flat_map(|t| (0..2).flat_map(move |m| (0..32).map(move |j| (m, (t * 5 + m) % 16, j))))
            .map(|(m, w, j)| words[(m * 16 + w) * 32 + j])
            .collect();
        assert_eq!(through(&part, &x), x);
        assert_eq!(part.bytes(), 64);
    }
    // MILLION's rates: M n / d bits an element.
    for (subspaces, bits, expected) in [(64, 8, 4.0), (32, 8, 2.0), (32, 12, 3.0), (64, 12, 6.0)] {
        let shape = Shape { side: Side::Keys, tokens: 64, channels: 128 };
        let part = Product::new(shape, String::new(), subspaces, bits, vec![0; 128 << bits], None);
        assert_eq!(8.0 * part.bytes() as f64 / shape.elements() as f64, expected);
    }
}

/// One channel a sub-space is a scalar quantizer, and on Gaussian rows the best one: 0.1175 at two bits.
#[test]
fn sub_spaces_of_one_channel_quantize_scalars() {
    let rows = gaussian(4096 * 16, 5);
    let context = super::super::super::math::sample::context(Side::Values, 16);
    let text = "product(subspaces=16, bits=2, iterations=100)";
    let built = super::super::super::math::sample::build_on(text, context, &rows, &[]);
    let Ok(super::super::super::stage::Built::Part(part)) = built else { panic!() };
    let x = gaussian(64 * 16, 6);
    let d = distortion(&x, &through(&*part, &x));
    assert!((d / 0.1175 - 1.0).abs() < 0.08, "{d}");
}

#[test]
fn more_bits_lose_less_and_outlier_channels_are_not_clipped() {
    let x = rows(64, 64, 81);
    let lost = |text: &str| distortion(&x, &through(&*part(text, Side::Keys, 64), &x));
    let (two, four) = (lost("product(subspaces=16)"), lost("product(subspaces=32)"));
    assert!(four < 0.5 * two && two < 0.05, "{two} {four}");
}

/// The metric costs a little distance and gains score.
#[test]
fn query_aware_words_score_better_than_nearest_ones() {
    let d = 64;
    let x = rows(64, d, 82);
    let queries = rows(512, d, 71);
    let error = |text: &str| {
        let back = through(&*part(text, Side::Keys, d), &x);
        let off: Vec<f32> = x.iter().zip(&back).map(|(a, b)| a - b).collect();
        let score = |q: &[f32], off: &[f32]| q.iter().zip(off).map(|(a, b)| f64::from(a * b)).sum::<f64>().powi(2);
        let scores = off.chunks_exact(d).flat_map(|off| queries.chunks_exact(d).map(move |q| score(q, off)));
        (scores.sum::<f64>(), distortion(&x, &back))
    };
    let (aware, plain) = (error("codebook(words=256)"), error("product(subspaces=1)"));
    assert!(aware.0 < 0.8 * plain.0, "{aware:?} {plain:?}");
    assert!(aware.1 > plain.1);
}

/// What all tokens share is worth no bits: without the page's mean, levels of the rest are as much finer as it is smaller.
#[test]
fn the_rest_after_a_byte_mean_has_the_errors_of_the_rest_alone() {
    let d = 64;
    let rest = gaussian(64 * d, 5);
    let bias: Vec<f32> = gaussian(d, 6).iter().map(|x| 20.0 * x).collect();
    let x: Vec<f32> = rest.chunks_exact(d).flat_map(|row| row.iter().zip(&bias).map(|(x, b)| x + b)).collect();
    let back = through(&*part("mean(bits=8)", Side::Keys, d), &x);
    // One row, within half a step of the exact mean in every channel.
    assert!(back.chunks_exact(d).all(|row| row == &back[..d]));
    let mean: Vec<f32> = (0..d).map(|c| x.iter().skip(c).step_by(d).sum::<f32>() / 64.0).collect();
    let most = mean.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (back, mean) in back.iter().zip(&mean) {
        assert!((back - mean).abs() <= 0.5 * most / 127.0 * 1.01 + 1e-3 * mean.abs(), "{back} {mean}");
    }
    let left: Vec<f32> = x.iter().zip(&back).map(|(x, b)| x - b).collect();
    let lloyd = part("lloyd(bits=4)", Side::Keys, d);
    let error = |x: &[f32]| -> f32 { through(&*lloyd, x).iter().zip(x).map(|(back, x)| (back - x).powi(2)).sum() };
    let (after, direct) = (error(&left), error(&x));
    assert!(after * 50.0 < direct, "{after} {direct}");
}

#[test]
fn impossible_parts_are_refused_by_name() {
    let cases = [
        ("product(subspaces=24)", Side::Keys, 64, "choose a divisor"),
        ("product(bits=13)", Side::Keys, 64, "1 to 12"),
        ("codebook", Side::Values, 64, "product(subspaces=1)"),
        ("codebook(words=1000)", Side::Keys, 64, "1024"),
        ("lowrank(rank=0)", Side::Keys, 64, "1 to 32"),
        ("sketch", Side::Values, 64, "for keys"),
        ("sketch(m=40)", Side::Keys, 64, "multiple of 32"),
        ("sketch(outlier_m=32)", Side::Keys, 64, "outliers"),
        ("polar", Side::Keys, 72, "blocks of 16"),
        ("keypolar", Side::Values, 64, "for keys"),
        ("bitmap(sparsity=1)", Side::Keys, 64, "0 to 0.99"),
        ("octahedral(bits=5)", Side::Values, 64, "2 to 4"),
        ("spectral", Side::Values, 64, "for keys"),
        ("spectral", Side::Keys, 12, "12 channels"),
        ("commvq(stages=99)", Side::Keys, 64, "0 to 64"),
        ("mean(of=2)", Side::Keys, 64, "bits"),
        ("mean(bits=9)", Side::Keys, 64, "neither 8 nor 16"),
    ];
    for (text, side, d, mend) in cases {
        let message = refused(text, side, d);
        assert!(message.contains(mend) && message.starts_with(text.split('(').next().unwrap()), "{message}");
    }
}
