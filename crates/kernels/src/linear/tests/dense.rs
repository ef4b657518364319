use super::sample::{Rng, activations};
use super::{bits, forward, team};
use crate::Isa;
use crate::linear::Linear;
use half::{bf16, f16};
use proptest::prelude::*;

/// Weights `[out][inp]` as one of the three types, and the same widened.
fn weights(rng: &mut Rng, kind: usize, out: usize, inp: usize) -> (Linear, Vec<f32>) {
    let w: Vec<f32> = (0..out * inp).map(|_| if rng.below(9) == 0 { rng.unit() * 1e-7 } else { rng.unit() }).collect();
    match kind {
        0 => (Linear::dense_f32(out, inp, &w), w),
        1 => {
            let w: Vec<f16> = w.into_iter().map(f16::from_f32).collect();
            (Linear::dense_f16(out, inp, &w), w.iter().map(|w| w.to_f32()).collect())
        }
        _ => {
            let w: Vec<bf16> = w.into_iter().map(bf16::from_f32).collect();
            (Linear::dense_bf16(out, inp, &w), w.iter().map(|w| w.to_f32()).collect())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// One chain of fused multiply-adds per output, on every instruction set, for any shape.
    #[test]
    fn every_isa_runs_the_same_chains(
        kind in 0usize..3, out in 1usize..200, inp in 1usize..200, rows in 1usize..60, biased: bool, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let (mut linear, w) = weights(&mut rng, kind, out, inp);
        let bias: Vec<f32> = (0..out).map(|_| rng.unit()).collect();
        if biased {
            linear = linear.with_bias(bias.clone());
        }
        let x = activations(&mut rng, rows, inp);
        let mut expected = Vec::new();
        for x in x.chunks_exact(inp) {
            for (o, w) in w.chunks_exact(inp).enumerate() {
                let sum = x.iter().zip(w).fold(0f32, |acc, (x, w)| x.mul_add(*w, acc));
                expected.push(if biased { sum + bias[o] } else { sum });
            }
        }
        let expected = bits(&expected);
        for isa in Isa::available() {
            for threads in [1, 3] {
                prop_assert_eq!(&bits(&forward(&linear, isa, &team(threads), &x)), &expected, "{} x {}", isa, threads);
            }
            let team = team(2);
            for chunk in [1, 1 + rng.below(9)] {
                let parts: Vec<u32> = x.chunks(chunk * inp).flat_map(|x| bits(&forward(&linear, isa, &team, x))).collect();
                prop_assert_eq!(&parts, &expected, "chunks of {} on {}", chunk, isa);
            }
        }
    }
}

#[test]
fn close_to_the_exact_product() {
    let mut rng = Rng(3);
    let (out, inp) = (40, 777);
    for kind in 0..3 {
        let (linear, w) = weights(&mut rng, kind, out, inp);
        let x: Vec<f32> = (0..5 * inp).map(|_| rng.unit()).collect();
        let y = forward(&linear, Isa::detect(), &team(2), &x);
        for (i, y) in y.iter().enumerate() {
            let pairs = x[i / out * inp..][..inp].iter().zip(&w[i % out * inp..][..inp]);
            let (exact, size) = pairs.fold((0f64, 0f64), |(sum, size), (x, w)| {
                let term = f64::from(*x) * f64::from(*w);
                (sum + term, size + term.abs())
            });
            let bound = size * inp as f64 * f64::from(f32::EPSILON);
            assert!((f64::from(*y) - exact).abs() <= bound, "{y} is not within {bound} of {exact}");
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let linear = Linear::dense_f32(3, 2, &[1.0; 6]);
    linear.forward(Isa::detect(), &team(2), &[], &mut []);
}
