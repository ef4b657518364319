//! Facts of CommVQ.

use super::super::super::codec::Side;
use super::super::super::math::sample::{build_on, context, distortion, part, rows};
use super::super::super::stage::{Built, Context, NamedTensor};
use super::through;
use crate::Rope;

#[test]
fn bits_of_the_default_stages() {
    // 21 words of twelve bits a row of 128, and a half float: 252 bits of codes, as published.
    let words = |d: usize| (2 * d + 6) / 12;
    assert_eq!((words(128), words(64)), (21, 11));
    let part = part("commvq(iterations=1)", Side::Keys, 64);
    assert_eq!(part.bytes(), 64 * 11 * 12 / 8 + 128);
}

#[test]
fn every_stage_loses_less_on_what_it_learned_from() {
    for side in [Side::Keys, Side::Values] {
        let x = rows(64, 64, 70);
        let lost = |stages: usize| {
            let context = context(side, 64);
            let built = build_on(&format!("commvq(stages={stages}, iterations=6)"), context, &rows(1024, 64, 70), &[]);
            let Ok(Built::Part(part)) = built else { panic!() };
            distortion(&x, &through(&*part, &x))
        };
        let lost = [1, 2, 4, 8].map(lost);
        assert!(lost.is_sorted_by(|a, b| a > b) && lost[3] < 0.1, "{lost:?}");
    }
}

/// Turning the parameters by a position turns the words: what is decoded with turned ones is the turned decoding, but for what
/// the parameters are rounded by, at most half a unit each, six of them, before and after, in both channels of a pair.
#[test]
fn words_commute_with_rotary_position() {
    let d = 64;
    let text = "commvq(stages=3, iterations=2)";
    let args = || super::super::super::math::sample::args(text);
    let rope = Rope::new((0..32).map(|i| 10000f32.powf(-i as f32 / 32.0)).collect(), 1.0);
    let context = Context { rope: Some(&rope), ..context(Side::Keys, d) };
    let samples = super::super::super::stage::Samples { rows: &rows(512, d, 70), queries: &[], seed: 1 };
    let tensors = (super::super::commvq::STAGE.calibrate.unwrap())(&args(), &context, &samples).unwrap();
    let table = rope.table(64);
    let turned = |x: &[f32]| {
        x.chunks_exact(d)
            .flat_map(|row| {
                let mut row = row.to_vec();
                rope.rotate(&table, 41, &mut row);
                row
            })
            .collect::<Vec<f32>>()
    };
    let other = NamedTensor { data: turned(&tensors[0].data), ..tensors[0].clone() };
    let build = |tensor: NamedTensor| {
        let profile = super::super::super::math::sample::Profile::of(vec![tensor]);
        let built = (super::super::commvq::STAGE.build)(&args(), &Context { profile: Some(&profile), ..context });
        let Ok(Built::Part(part)) = built else { panic!() };
        part
    };
    let (plain, rotated) = (build(tensors[0].clone()), build(other));
    let x = rows(64, d, 71);
    let page = super::encoded(&*plain, &x);
    let (a, b) = (turned(&super::decoded(&*plain, &page)), super::decoded(&*rotated, &page));
    // Three words of two parameters, none of them beyond 1, fit 2¹⁵ units of 2⁻¹² of a row's length.
    for ((x, a), b) in x.chunks_exact(d).zip(a.chunks_exact(d)).zip(b.chunks_exact(d)) {
        let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 6.0 * (1.0 + 2f32.sqrt()) * 0.5 * 2f32.powi(-12) * length, "{off} {length}");
    }
}
