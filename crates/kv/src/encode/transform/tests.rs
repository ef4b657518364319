use super::super::codec::{Side, Transform};
use super::super::math::dense;
use super::super::math::sample::{args, build, context, gaussian, refused, rows, transform};
use super::super::registry;
use super::super::stage::{Built, Context, NamedTensor, Samples};
use crate::Rope;
use cachalot_kernels::attention::PAGE_TOKENS;

const LOSSLESS: &[&str] = &[
    "hadamard",
    "hadamard(block=16)",
    "signs(seed=3)",
    "rotate",
    "rotate(seed=9, kind=dense)",
    "permute",
    "permute(statistic=sum)",
    "scale(kind=rms)",
    "pca",
    "pca(normalise=true)",
];
const LOSSLESS_KEYS: &[&str] = &["scale", "scale(kind=fireq)", "whiten"];
const CHANNELS: [usize; 4] = [64, 80, 96, 128];

fn all() -> impl Iterator<Item = (&'static str, Side, usize)> {
    let both = LOSSLESS.iter().flat_map(|&name| [(name, Side::Keys), (name, Side::Values)]);
    let all: Vec<_> = both.chain(LOSSLESS_KEYS.iter().map(|&name| (name, Side::Keys))).collect();
    CHANNELS.into_iter().flat_map(move |d| all.clone().into_iter().map(move |(name, side)| (name, side, d)))
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn length(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

fn there(t: &dyn Transform, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; t.outputs()];
    t.forward(x, &mut y);
    y
}

#[test]
fn without_quantization_nothing_changes() {
    for (name, side, d) in all() {
        let t = transform(name, side, d);
        assert_eq!((t.inputs(), t.outputs()), (d, d), "{name}");
        let (k, q) = (rows(1, d, 1), rows(1, d, 2));
        let y = there(&*t, &k);
        let mut back = vec![f32::NAN; d];
        t.inverse(&y, &mut back);
        let off = k.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(f64::from(off) < 2e-5 * length(&k), "{name} {d}: {off}");
        let mut turned = vec![f32::NAN; d];
        let constant = t.query(&q, &mut turned);
        let score = dot(&turned, &y) + f64::from(constant);
        assert!((score - dot(&q, &k)).abs() < 2e-5 * length(&q) * length(&k), "{name} {d}: {score} {}", dot(&q, &k));
    }
}

#[test]
fn outputs_are_weighted_sums_of_values() {
    for (name, side, d) in all().filter(|(_, side, _)| *side == Side::Values) {
        let t = transform(name, side, d);
        let values = rows(3, d, 3);
        let weights = [0.25f32, 1.5, 0.5];
        let (mut sum, mut expected) = (vec![0.0f32; d], vec![0.0f32; d]);
        for (v, w) in values.chunks_exact(d).zip(weights) {
            sum.iter_mut().zip(there(&*t, v)).for_each(|(s, y)| *s += w * y);
            expected.iter_mut().zip(v).for_each(|(e, x)| *e += w * x);
        }
        let mut out = vec![f32::NAN; d];
        t.output(&sum, weights.iter().sum(), &mut out);
        let off = out.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(f64::from(off) < 2e-5 * length(&expected), "{name} {d}: {off}");
    }
}

#[test]
fn a_tile_goes_back_as_its_rows_do() {
    let short =
        ["pca(keep=32)", "pca(share=0.9, normalise=true)", "whiten(keep=48)"].map(|name| (name, Side::Keys, 96));
    for (name, side, d) in all().filter(|(_, side, _)| *side == Side::Keys).chain(short) {
        let t = transform(name, side, d);
        let n = t.outputs();
        let tokens = gaussian(PAGE_TOKENS * n, 4);
        let mut from = vec![0.0; n.next_multiple_of(16) * PAGE_TOKENS];
        for (token, y) in tokens.chunks_exact(n).enumerate() {
            y.iter().enumerate().for_each(|(c, y)| from[c * PAGE_TOKENS + token] = *y);
        }
        let mut to = vec![0.0; d.next_multiple_of(16) * PAGE_TOKENS];
        match t.inverse_in_place(&mut from) {
            true => to.copy_from_slice(&from),
            false => t.inverse_tile(&from, &mut to),
        }
        let mut x = vec![f32::NAN; d];
        for (token, y) in tokens.chunks_exact(n).enumerate() {
            t.inverse(y, &mut x);
            let tile: Vec<u32> = (0..d).map(|c| to[c * PAGE_TOKENS + token].to_bits()).collect();
            assert_eq!(tile, x.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), "{name} {d}");
        }
    }
}

#[test]
fn rotations_keep_lengths_and_spread_a_lone_channel() {
    for name in ["hadamard", "rotate", "rotate(kind=dense)"] {
        for d in CHANNELS {
            let t = transform(name, Side::Keys, d);
            let x = gaussian(d, 6);
            assert!((length(&there(&*t, &x)) / length(&x) - 1.0).abs() < 1e-6);
            let mut lone = vec![0.0; d];
            lone[5] = 1.0;
            let top = there(&*t, &lone).iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let block = if name == "hadamard" { 1 << d.trailing_zeros() } else { d };
            // A transform of a power of two spreads evenly, overlapping and dense ones within a few deviations.
            let most =
                if d.is_power_of_two() && name != "rotate(kind=dense)" || name == "hadamard" { 1.01 } else { 4.0 };
            assert!(f64::from(top) <= most / (block as f64).sqrt(), "{name} {d}: {top}");
        }
    }
    let seeds = ["rotate(seed=1)", "rotate(seed=2)"].map(|name| there(&*transform(name, Side::Keys, 64), &[1.0; 64]));
    assert_ne!(seeds[0], seeds[1]);
}

#[test]
fn hadamard_of_two_and_four() {
    let t = transform("hadamard(block=2)", Side::Keys, 64);
    let mut x = vec![0.0; 64];
    x[..4].copy_from_slice(&[3.0, 1.0, 0.0, -2.0]);
    let half = std::f32::consts::FRAC_1_SQRT_2;
    assert_eq!(there(&*t, &x)[..4], [4.0 * half, 2.0 * half, -2.0 * half, 2.0 * half]);
    let t = transform("hadamard(block=4)", Side::Keys, 64);
    assert_eq!(there(&*t, &x)[..4], [1.0, 2.0, 3.0, 0.0]);
}

#[test]
fn principal_components_are_uncorrelated_and_sorted() {
    let d = 64;
    let sample = rows(1024, d, 70);
    for (name, unit) in [("pca", false), ("pca(normalise=true)", true), ("whiten", true)] {
        let t = transform(name, Side::Keys, d);
        let y: Vec<f32> = sample.chunks_exact(d).flat_map(|row| there(&*t, row)).collect();
        let mean = dense::mean(&y, d);
        assert!(mean.iter().all(|m| m.abs() < 1e-3), "{name}");
        let moment = dense::second_moment(&y, &mean);
        let power: Vec<f64> = (0..d).map(|i| moment[i * d + i]).collect();
        for i in 0..d {
            (0..i).for_each(|j| assert!(moment[i * d + j].abs() < 2e-3 * (power[i] * power[j]).sqrt(), "{name}"));
            let sound = if unit { (power[i] - 1.0).abs() < 1e-3 } else { i == 0 || power[i] <= power[i - 1] * 1.001 };
            assert!(sound, "{name} {i}: {}", power[i]);
        }
    }
}

/// In the metric basis an error costs a score the same wherever it points, but for the weight of its component.
#[test]
fn whitened_errors_cost_what_the_spectrum_says() {
    let d = 64;
    let t = transform("whiten", Side::Keys, d);
    let queries = rows(512, d, 71);
    let turned = queries.chunks_exact(d).flat_map(|q| {
        let mut y = vec![0.0; d];
        t.query(q, &mut y);
        y
    });
    let turned: Vec<f32> = turned.collect();
    let moment = dense::second_moment(&turned, &vec![0.0; d]);
    for i in 0..d {
        for j in 0..i {
            let scale = (moment[i * d + i] * moment[j * d + j]).sqrt();
            assert!(moment[i * d + j].abs() < 0.02 * scale, "{i} {j}");
        }
        // The ridge takes a little off the directions without queries.
        assert!(i == 0 || moment[i * d + i] <= 1.05 * moment[(i - 1) * d + i - 1], "{i}");
    }
}

#[test]
fn truncation_loses_what_the_spectrum_says() {
    let d = 64;
    let sample = rows(1024, d, 70);
    let mean = dense::mean(&sample, d);
    let (spectrum, _) = dense::eigen(dense::second_moment(&sample, &mean), d);
    let t = transform("pca(keep=16)", Side::Keys, d);
    assert_eq!(t.outputs(), 16);
    let mut error = 0.0;
    let mut back = vec![0.0; d];
    for row in sample.chunks_exact(d) {
        t.inverse(&there(&*t, row), &mut back);
        error += row.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    }
    let expected: f64 = spectrum[16..].iter().sum();
    assert!((error / 1024.0 / expected - 1.0).abs() < 1e-3);
    // By share: as few multiples of sixteen as hold it.
    let n = transform("pca(share=0.9)", Side::Keys, d).outputs();
    let held = |n: usize| spectrum[..n].iter().sum::<f64>() / spectrum.iter().sum::<f64>();
    assert!(n.is_multiple_of(16) && held(n) >= 0.9 && (n == 16 || held(n - 16) < 0.9), "{n}");
}

fn calibrated(text: &str, context: &Context<'_>, rows: &[f32], queries: &[f32]) -> Vec<NamedTensor> {
    let args = args(text);
    let calibrate = registry::stage(&args.spec().name).unwrap().calibrate.unwrap();
    calibrate(&args, context, &Samples { rows, queries, seed: 1 }).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn orders_sort_the_statistic() {
    let context = context(Side::Keys, 4);
    let sample = [1.0, -9.0, 0.5, 2.0, 1.0, -9.0, -0.5, 2.0];
    let order = |text| calibrated(text, &context, &sample, &[]).remove(0).data;
    assert_eq!(order("permute(statistic=norm)"), [2.0, 0.0, 3.0, 1.0]);
    assert_eq!(order("permute(statistic=sum)"), [1.0, 2.0, 0.0, 3.0]);
}

#[test]
fn balancing_makes_queries_and_keys_reach_equally_far() {
    let d = 64;
    let (mut keys, queries) = (rows(100, d, 8), rows(90, d, 9));
    keys.chunks_exact_mut(d).for_each(|row| row[7] = 0.0);
    let factors = calibrated("scale", &context(Side::Keys, d), &keys, &queries).remove(0).data;
    let reach = |rows: &[f32], c: usize| rows.chunks_exact(d).map(|row| row[c].abs()).fold(0.0, f32::max);
    assert_eq!(factors[7], 1.0);
    for c in (0..d).filter(|&c| c != 7) {
        let (k, q) = (reach(&keys, c) * factors[c], reach(&queries, c) / factors[c]);
        assert!((k / q - 1.0).abs() < 1e-5, "{c}");
    }
}

#[test]
fn fireq_scales_pairs_alike_and_wide_channels_on_their_own() {
    let d = 64;
    let rope = Rope::new((0..24).map(|i| 10000f32.powf(-i as f32 / 24.0)).collect(), 1.0);
    let context = Context { rope: Some(&rope), ..context(Side::Keys, d) };
    let mut keys = rows(100, d, 8);
    for row in keys.chunks_exact_mut(d) {
        row[3] *= 10.0;
        row[33] *= 10.0;
    }
    let factors = calibrated("scale(kind=fireq, alpha=8, beta=2, top=2)", &context, &keys, &[]).remove(0).data;
    let top = |f: &dyn Fn(&[f32]) -> f32| keys.chunks_exact(d).map(f).fold(0.0, f32::max);
    // 3 and 33 are wide, their partners are 27 and 9; 48 and beyond are not rotated.
    for c in 0..d {
        let expected = match c {
            3 | 27 | 33 | 9 => 2.0 / top(&|row| row[c].abs()),
            48.. => 8.0 / top(&|row| row[c].abs()),
            _ => 8.0 / top(&|row| row[c % 24].hypot(row[c % 24 + 24])),
        };
        assert!((factors[c] / expected - 1.0).abs() < 1e-5, "{c}");
    }
}

#[test]
fn impossible_transforms_are_refused_by_name() {
    let cases = [
        ("hadamard(block=32)", Side::Keys, 80, "at most 16"),
        ("hadamard(block=12)", Side::Keys, 96, "power of two"),
        ("hadamard(size=4)", Side::Keys, 64, "has no argument `size`"),
        ("scale", Side::Values, 64, "for keys"),
        ("whiten", Side::Values, 64, "pca(normalise=true)"),
        ("pca(keep=8, share=0.5)", Side::Values, 64, "leave one out"),
        ("pca(keep=65)", Side::Values, 64, "0 to 64"),
        ("rotate(kind=fast)", Side::Keys, 64, "hadamard, dense"),
    ];
    for (text, side, d, mend) in cases {
        let message = refused(text, side, d);
        assert!(message.contains(mend) && message.starts_with(text.split('(').next().unwrap()), "{message}");
    }
}

#[test]
fn a_missing_or_broken_profile_is_named() {
    let build = |text: &str, profile| {
        let args = args(text);
        let context = Context { profile, ..context(Side::Keys, 64) };
        match (registry::stage(&args.spec().name).unwrap().build)(&args, &context) {
            Ok(_) => panic!("built"),
            Err(error) => error.to_string(),
        }
    };
    assert!(build("permute", None).contains("cachalot calibrate"));
    let tensor = |what: &str, data: Vec<f32>| NamedTensor {
        name: context(Side::Keys, 64).tensor_name(what),
        shape: vec![data.len()],
        data,
    };
    use super::super::math::sample::Profile;
    let twice = Profile::of(vec![tensor("order", vec![0.0; 64]), tensor("factors", vec![f32::NAN; 64])]);
    assert!(build("permute", Some(&twice)).contains("layer.3.head.1.k.2.order"));
    assert!(build("scale", Some(&twice)).contains("not positive"));
    assert!(build("pca", Some(&twice)).contains("no tensor `layer.3.head.1.k.2.mean`"));
}

#[test]
fn calibration_on_zeros_or_nothing_stays_finite() {
    for rows in [vec![0.0; 64 * 8], vec![]] {
        for text in ["permute", "scale", "scale(kind=fireq)", "scale(kind=rms)", "pca(normalise=true)", "whiten"] {
            let queries = vec![0.0; 64];
            for tensor in calibrated(text, &context(Side::Keys, 64), &rows, &queries) {
                assert!(tensor.data.iter().all(|x| x.is_finite()), "{text}: {}", tensor.name);
            }
        }
    }
    assert!(matches!(build("pca", Side::Keys, 64), Ok(Built::Transform(_))));
}
