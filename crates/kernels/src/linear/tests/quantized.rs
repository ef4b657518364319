use super::sample::{Rng, Sample, activations, specs};
use super::{bits, forward, team};
use crate::Isa;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Every instruction set returns the bits of the plain loops.
    #[test]
    fn every_isa_follows_the_definition(
        spec in specs(), out in 1usize..70, blocks in 1usize..22, rows in 1usize..70, half: bool, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let sample = Sample::new(&mut rng, spec, out, blocks * 32, half);
        let x = activations(&mut rng, rows, blocks * 32);
        let expected = sample.forward(&x);
        let (linear, team) = (sample.linear(), team(2));
        for isa in Isa::available() {
            prop_assert_eq!(bits(&forward(&linear, isa, &team, &x)), bits(&expected), "{}", isa);
        }
    }

    /// The result is the product of the decoded weights and the activations, up to the rounding of activations to
    /// sixteen bits and of the sums.
    #[test]
    fn close_to_the_exact_product(
        spec in specs(), out in 1usize..40, blocks in 1usize..16, rows in 1usize..5, half: bool, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let inp = blocks * 32;
        let sample = Sample::new(&mut rng, spec, out, inp, half);
        let x = activations(&mut rng, rows, inp);
        let y = forward(&sample.linear(), Isa::detect(), &team(1), &x);
        for row in 0..rows {
            let x = &x[row * inp..][..inp];
            for o in 0..out {
                let (mut exact, mut bound, mut terms) = (0f64, 0f64, 0f64);
                for (block, x) in x.chunks(32).enumerate() {
                    let d = x.iter().fold(0f64, |a, x| a.max(f64::from(x.abs()))) / 32512.0;
                    // Half a step, and the rounding of scale and quotient at the largest codes; activations too small
                    // for a finite inverse count as zero.
                    let step = d * 0.51 + 1e-34;
                    for (i, x) in x.iter().enumerate() {
                        let g = (o * inp + block * 32 + i) / spec.group;
                        let w = f64::from(sample.d[g]) * f64::from(i32::from(sample.codes[o * inp + block * 32 + i]) - spec.zero);
                        let m = if spec.min { f64::from(sample.m[g]) } else { 0.0 };
                        exact += (w + m) * f64::from(*x);
                        let (w, m, x) = (w.abs(), m.abs(), f64::from(x.abs()));
                        bound += (w + m) * step;
                        terms += (w + m) * (x + d);
                    }
                }
                bound += terms * f64::from(f32::EPSILON) * (4.0 * blocks as f64 + 8.0) + 1e-30;
                let got = f64::from(y[row * out + o]);
                prop_assert!((got - exact).abs() <= bound, "{} is not within {} of {}", got, bound, exact);
            }
        }
    }

    /// A row's outputs do not depend on the rows beside it, on the threads, or on where chunks end.
    #[test]
    fn rows_are_independent(spec in specs(), out in 1usize..300, blocks in 1usize..30, rows in 2usize..90, seed: u64) {
        let mut rng = Rng(seed);
        let inp = blocks * 32;
        let linear = Sample::new(&mut rng, spec, out, inp, false).linear().with_bias((0..out).map(|_| rng.unit()).collect());
        let x = activations(&mut rng, rows, inp);
        for isa in Isa::available().into_iter().skip(1) {
            let whole = bits(&forward(&linear, isa, &team(1), &x));
            for threads in [2, 3] {
                prop_assert_eq!(&bits(&forward(&linear, isa, &team(threads), &x)), &whole, "{} threads", threads);
            }
            let team = team(2);
            for chunk in [1, 1 + rng.below(7), 17] {
                let parts: Vec<u32> = x.chunks(chunk * inp).flat_map(|x| bits(&forward(&linear, isa, &team, x))).collect();
                prop_assert_eq!(&parts, &whole, "chunks of {} on {}", chunk, isa);
            }
        }
    }
}

#[test]
fn a_row_that_is_not_finite_shows_it_and_spares_the_others() {
    for (seed, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        let mut rng = Rng(seed as u64);
        let spec = crate::linear::QuantSpec { bits: 4, group: 32, zero: 8, min: true };
        let linear = Sample::new(&mut rng, spec, 48, 96, true).linear();
        let mut x: Vec<f32> = (0..20 * 96).map(|_| rng.unit()).collect();
        for isa in Isa::available() {
            let good = forward(&linear, isa, &team(1), &x);
            let kept = std::mem::replace(&mut x[11 * 96 + 40], bad);
            let y = forward(&linear, isa, &team(1), &x);
            x[11 * 96 + 40] = kept;
            for row in 0..20 {
                let at = row * 48..(row + 1) * 48;
                match row {
                    11 => assert!(y[at].iter().all(|y| y.is_nan()), "{bad} on {isa}"),
                    _ => assert_eq!(bits(&y[at.clone()]), bits(&good[at]), "{bad} on {isa}"),
                }
            }
        }
    }
}

#[test]
fn wide_matrices_are_cut_into_row_tasks_without_a_seam() {
    // So wide that the rows do not fit one task's cache budget.
    let mut rng = Rng(5);
    let spec = crate::linear::QuantSpec { bits: 8, group: 32, zero: 128, min: false };
    let linear = Sample::new(&mut rng, spec, 33, 8192, true).linear();
    let x: Vec<f32> = (0..300 * 8192).map(|_| rng.unit()).collect();
    let fast = Isa::detect();
    let whole = forward(&linear, fast, &team(2), &x);
    for row in [0, 127, 128, 129, 298, 299] {
        let alone = forward(&linear, Isa::Portable, &team(1), &x[row * 8192..(row + 1) * 8192]);
        assert_eq!(bits(&alone), bits(&whole[row * 33..(row + 1) * 33]), "row {row}");
    }
}

#[test]
#[should_panic(expected = "beyond 15")]
fn a_code_that_does_not_fit_is_refused() {
    let spec = crate::linear::QuantSpec { bits: 4, group: 32, zero: 8, min: false };
    crate::linear::Linear::quantized(spec, 1, 32, |_, codes, _, _| codes[3] = 16);
}
