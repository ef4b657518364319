//! Formats that treat some numbers or tokens unlike others: learned thresholds, outliers, classes of tokens.

use crate::support::{Profile, Random, build, calibrated, decode, encode, part, round_trip};
use cachalot_kv::encode::codec::{Hints, Shape, Side};
use cachalot_kv::encode::stage::NamedTensor;

const KEYS: Shape = Shape { side: Side::Keys, tokens: 64, channels: 64 };

fn tensor(what: &str, data: Vec<f32>) -> NamedTensor {
    NamedTensor { name: format!("layer.0.head.0.k.0.{what}"), shape: vec![data.len()], data }
}

fn errors(x: &[f32], y: &[f32]) -> Vec<f32> {
    x.iter().zip(y).map(|(x, y)| (x - y).abs()).collect()
}

#[test]
fn learned_levels_need_a_profile_and_say_so() {
    let error = build("nuq(bits=3)", KEYS, None).unwrap_err().to_string();
    let expected =
        "nuq(bits=3): needs a calibration profile; make one with `cachalot calibrate` and give it with the recipe";
    assert_eq!(error, expected);
    let profile = Profile(vec![tensor("levels", vec![-1.0, 1.0])]);
    let error = |text: &str| build(text, KEYS, Some(&profile)).unwrap_err().to_string();
    assert_eq!(error("nuq(bits=2)"), "nuq(bits=2): tensor `layer.0.head.0.k.0.levels` of the profile is [2], not [4]");
    assert_eq!(error("nuq(bits=1)"), "nuq(bits=1): the profile has no tensor `layer.0.head.0.k.0.middle`");
    let profile = Profile(vec![tensor("levels", vec![1.0, f32::NAN])]);
    assert!(build("nuq(bits=1)", KEYS, Some(&profile)).unwrap_err().to_string().ends_with("is not ascending"));
}

#[test]
fn evenly_spaced_levels_are_a_static_affine_quantizer() {
    let levels = (0..8).map(|i| 2.0 * i as f32 / 7.0 - 1.0).collect();
    let middle: Vec<f32> = (0..64).map(|c| c as f32 - 20.0).collect();
    let half: Vec<f32> = (0..64).map(|c| 0.5 + c as f32 / 8.0).collect();
    let mut random = Random::new(1);
    let x: Vec<f32> = (0..64 * 64).map(|i| middle[i % 64] + half[i % 64] * (2.4 * random.uniform() - 1.2)).collect();
    let profile =
        Profile(vec![tensor("levels", levels), tensor("middle", middle.clone()), tensor("half", half.clone())]);
    let nuq = build("nuq(bits=3)", KEYS, Some(&profile)).unwrap();
    assert_eq!(nuq.bytes(), 64 * 64 * 3 / 8, "nothing but codes");
    for (i, (x, y)) in x.iter().zip(round_trip(&*nuq, &x)).enumerate() {
        let (low, step) = (middle[i % 64] - half[i % 64], 2.0 * half[i % 64] / 7.0);
        let steps = ((x - low) / step).clamp(0.0, 7.0);
        // Levels are rounded to 1/127; a number half way may take either.
        let nearest = ((y - low) / step).round();
        assert!((y - (low + nearest * step)).abs() <= half[i % 64] / 250.0);
        assert!((nearest - steps).abs() <= 0.52, "{steps} became {nearest}");
    }
}

#[test]
fn learned_levels_beat_evenly_spaced_ones_and_matched_levels_keep_the_spread() {
    let rows = Random::new(2).rows(512, 64);
    let square = |x: &[f32], y: &[f32]| errors(x, y).iter().map(|e| f64::from(e * e)).sum::<f64>();
    let page = &rows[..64 * 64];
    let with = |text: &str| {
        let profile = calibrated(text, KEYS, &rows);
        round_trip(&*build(text, KEYS, Some(&profile)).unwrap(), page)
    };
    let even = Profile({
        let mut tensors = calibrated("nuq(bits=2)", KEYS, &rows).0;
        tensors
            .iter_mut()
            .filter(|t| t.name.ends_with("levels"))
            .for_each(|t| t.data = vec![-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0]);
        tensors
    });
    let even = round_trip(&*build("nuq(bits=2)", KEYS, Some(&even)).unwrap(), page);
    assert!(square(page, &with("nuq(bits=2)")) < 0.9 * square(page, &even));
    let spread = |x: &[f32]| {
        let column: Vec<f64> = x.iter().step_by(64).map(|&x| f64::from(x)).collect();
        let mean = column.iter().sum::<f64>() / 64.0;
        column.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt()
    };
    let (plain, matched) = (spread(&with("nuq(bits=1)")), spread(&with("nuq(bits=1, qnorm=true)")));
    assert!(matched > 1.05 * plain, "{matched} {plain}: centres alone are too narrow");
}

#[test]
fn outliers_of_a_token_come_back_as_half_floats_and_stretch_nothing() {
    let shape = Shape { side: Side::Values, tokens: 64, channels: 128 };
    let part = build("outliers(share=0.03, by=token) | uniform(bits=4, axis=token, group=0)", shape, None).unwrap();
    let inner = build("uniform(bits=4, axis=token, group=0)", shape, None).unwrap();
    // Two on either side, an index byte and a half float each.
    assert_eq!(part.bytes() - inner.bytes(), 64 * 4 * 3);
    let mut random = Random::new(3);
    let mut x: Vec<f32> = (0..64 * 128).map(|_| 2.0 * random.uniform() - 1.0).collect();
    let outliers: Vec<usize> = (0..64).flat_map(|t| [3, 50, 51, 127].map(|c| t * 128 + c)).collect();
    outliers.iter().enumerate().for_each(|(i, &at)| x[at] = [1000.3, -700.7, 333.3, -55.5][i % 4]);
    let y = round_trip(&*part, &x);
    for (i, error) in errors(&x, &y).into_iter().enumerate() {
        let most = if outliers.contains(&i) { x[i].abs() / 2000.0 } else { 1.0 / 15.0 + 1e-3 };
        assert!(error <= most, "{i}: {} became {}", x[i], y[i]);
    }
}

#[test]
fn outliers_of_a_channel_and_of_the_page() {
    let x = Random::new(4).rows(64, 64);
    let by_channel =
        part("outliers(share=0.1, by=channel) | uniform(bits=2, axis=channel, group=0)", Side::Keys, 64, 64);
    let y = round_trip(&*by_channel, &x);
    for channel in 0..64 {
        let mut order: Vec<usize> = (0..64).map(|token| token * 64 + channel).collect();
        order.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
        for &i in order[..3].iter().chain(&order[61..]) {
            assert!((x[i] - y[i]).abs() <= x[i].abs().max(1.0) / 500.0, "{} became {}", x[i], y[i]);
        }
    }
    let text = "uniform(bits=2, axis=channel, group=0)";
    let plain = errors(&x, &round_trip(&*part(text, Side::Keys, 64, 64), &x));
    let worst = part(&format!("outliers(share=0.05, by=error) | {text}"), Side::Keys, 64, 64);
    assert_eq!(
        worst.breakdown().last().unwrap().bytes,
        (205 * 4) as usize,
        "a page of 4096 needs two bytes for a place"
    );
    let mut sorted = plain.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let left = errors(&x, &round_trip(&*worst, &x));
    assert!(left.iter().all(|&error| error <= sorted[205]), "the 205 largest errors are gone");
}

#[test]
fn important_tokens_get_the_bits() {
    let x = Random::new(5).rows(64, 64);
    let text = "classes(important=16, high=4, low=2, axis=token, group=0)";
    for side in [Side::Keys, Side::Values] {
        let classes = part(text, side, 64, 64);
        assert_eq!(classes.bytes(), 8 + (16 * 4 + 48 * 2) * 64 / 8 + 64 * 4, "bitmap, codes, parameters");
        // Every fourth token, with ties that go to the earlier; and a few below.
        let mut importance = vec![1.0; 64];
        (0..64).step_by(5).for_each(|token| importance[token] = 2.0);
        let expected: Vec<usize> = (0..64).step_by(5).chain([1, 2, 3]).collect();
        let mut page = vec![0; classes.bytes()];
        classes.encode(&x, Hints { importance: &importance, start: 0 }, &mut page);
        let bitmap = u64::from_le_bytes(*page.first_chunk().unwrap());
        assert_eq!(bitmap, expected.iter().fold(0, |bitmap, token| bitmap | 1u64 << token));
        let y = decode(&*classes, &page);
        for (bits, marked) in [(4, true), (2, false)] {
            let alone = round_trip(&*part(&format!("uniform(bits={bits}, axis=token, group=0)"), side, 64, 64), &x);
            let tokens = (0..64).filter(|token| (bitmap >> token & 1 == 1) == marked);
            for token in tokens {
                assert_eq!(y[token * 64..][..64], alone[token * 64..][..64], "{side:?} token {token} at {bits} bits");
            }
        }
    }
}

#[test]
fn without_importance_long_tokens_count_and_classes_have_channels_of_their_own() {
    let mut x = Random::new(6).rows(64, 64);
    (0..16).for_each(|i| x[(4 * i + 1) * 64..][..64].iter_mut().for_each(|x| *x *= 30.0));
    let classes = part("classes(important=16, high=8, low=8)", Side::Keys, 64, 64);
    let page = encode(&*classes, &x);
    assert_eq!(u64::from_le_bytes(*page.first_chunk().unwrap()), 0x2222_2222_2222_2222);
    // The other class does not pay for the long ones.
    let error = errors(&x, &decode(&*classes, &page)).into_iter().enumerate();
    let worst = error.filter(|(i, _)| i / 64 % 4 != 1).fold(0f32, |worst, (_, error)| worst.max(error));
    let together = part("uniform(bits=8, axis=channel, group=0)", Side::Keys, 64, 64);
    let error = errors(&x, &round_trip(&*together, &x)).into_iter().enumerate();
    let with_long = error.filter(|(i, _)| i / 64 % 4 != 1).fold(0f32, |worst, (_, error)| worst.max(error));
    assert!(worst * 5.0 < with_long, "{worst} {with_long}");
}

#[test]
fn classes_that_are_no_multiples_of_sixteen_are_refused() {
    for text in ["classes(important=20)", "classes(important=64)"] {
        let error = build(text, KEYS, None).unwrap_err().to_string();
        assert!(error.ends_with("is not possible; take 16, 32 or 48 of a page of 64 tokens"), "{error}");
    }
}
