use super::*;
use std::sync::Arc;

fn sampler(sampling: Sampling, seed: u64, choice: usize) -> Sampler {
    sampling.validate(1000).unwrap();
    Sampler::new(Arc::new(sampling), seed, choice, &[])
}

fn run(sampler: &mut Sampler, logits: &[f32], n: usize) -> Vec<u32> {
    let mut scratch = Scratch::default();
    (0..n)
        .map(|_| {
            let id = sampler.sample(logits, None, &mut scratch).unwrap();
            sampler.accept(id);
            id
        })
        .collect()
}

#[test]
fn greedy_is_the_exact_argmax() {
    assert_eq!(run(&mut sampler(Sampling::greedy(), 1, 0), &[0.5, 2.0, 2.0], 3), [1, 1, 1]);
}

#[test]
fn a_seed_repeats_and_choices_differ() {
    let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
    let a = run(&mut sampler(Sampling::default(), 42, 0), &logits, 64);
    assert_eq!(a, run(&mut sampler(Sampling::default(), 42, 0), &logits, 64));
    assert_ne!(a, run(&mut sampler(Sampling::default(), 42, 1), &logits, 64));
    assert_ne!(a, run(&mut sampler(Sampling::default(), 43, 0), &logits, 64));
}

#[test]
fn a_neighbour_that_uses_the_scratch_changes_nothing() {
    let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
    let spec = Sampling { top_p: 0.8, repetition_penalty: 1.2, ..Sampling::default() };
    let alone = run(&mut sampler(spec.clone(), 9, 0), &logits, 40);
    let mut scratch = Scratch::default();
    let (mut first, mut neighbour) = (sampler(spec.clone(), 9, 0), sampler(spec, 1, 0));
    let mut together = Vec::new();
    for _ in 0..40 {
        let other = neighbour.sample(&[9.0, 8.0, 7.0], None, &mut scratch).unwrap();
        neighbour.accept(other);
        let id = first.sample(&logits, None, &mut scratch).unwrap();
        first.accept(id);
        together.push(id);
    }
    assert_eq!(together, alone);
}

#[test]
fn bias_can_force_and_forbid_but_not_pass_the_mask() {
    let mut scratch = Scratch::default();
    let forced = sampler(Sampling { logit_bias: vec![(3, 100.0)], ..Sampling::default() }, 0, 0);
    assert_eq!(forced.sample(&[1.0; 8], None, &mut scratch), Ok(3));
    let mask = TokenMask::of(&[1, 2]);
    assert!([1, 2].contains(&forced.sample(&[1.0; 8], Some(&mask), &mut scratch).unwrap()));
    let none = TokenMask::of(&[]);
    assert_eq!(forced.sample(&[1.0; 8], Some(&none), &mut scratch), Err(EngineError::NoTokenAllowed));
    // Allowed by the grammar, but beyond what the model has.
    let beyond = TokenMask::of(&[100]);
    assert_eq!(forced.sample(&[1.0; 8], Some(&beyond), &mut scratch), Err(EngineError::NoTokenAllowed));
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    let mut scratch = Scratch::default();
    for spec in [Sampling::greedy(), Sampling::default(), Sampling { repetition_penalty: 1.5, ..Sampling::default() }] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let got = sampler(spec.clone(), 0, 0).sample(&[0.0, 1.0, bad, 2.0], None, &mut scratch);
            assert!(matches!(got, Err(EngineError::NonFiniteLogits { token: 2, .. })), "{got:?}");
        }
    }
    assert_eq!(sampler(Sampling::greedy(), 0, 0).sample(&[], None, &mut scratch), Err(EngineError::NoTokenAllowed));
}

#[test]
fn penalties_move_greedy_away_from_its_own_output() {
    let logits = [1.0, 0.9, 0.8, 0.0];
    let spec = Sampling { frequency_penalty: 0.15, ..Sampling::greedy() };
    assert_eq!(run(&mut sampler(spec, 0, 0), &logits, 4), [0, 1, 0, 2]);
}
