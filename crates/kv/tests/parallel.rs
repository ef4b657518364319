//! Attention behind contexts that share their positions against the formula, in f64.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cachalot_kernels::Isa;
use cachalot_kv::LayerGeometry;
use cachalot_kv::mend::Piece;
use cachalot_kv::parallel::Temper;
use common::*;
use std::ops::Range;

/// Rows of some of the tokens.
fn part(g: &LayerGeometry, rows: &Rows, tokens: &[Range<usize>]) -> Rows {
    let cut = |x: &[f32], heads: usize| -> Vec<f32> {
        let n = heads * g.head_dim;
        tokens.iter().flat_map(|tokens| x[tokens.start * n..tokens.end * n].to_vec()).collect()
    };
    let count = tokens.iter().map(Range::len).sum();
    Rows { tokens: count, q: cut(&rows.q, g.heads), k: cut(&rows.k, g.kv_heads), v: cut(&rows.v, g.kv_heads) }
}

/// One token's scores over some keys, `(slot, position)`, and their softmax over the values: result, and logarithm of the sum.
fn softmax(scores: &[(usize, f64)], value: impl Fn(usize, usize) -> f64, d: usize) -> (Vec<f64>, f64) {
    let max = scores.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = scores.iter().map(|s| (s.1 - max).exp()).sum();
    let mean = |c: usize| scores.iter().map(|s| (s.1 - max).exp() / total * value(s.0, c)).sum();
    ((0..d).map(mean).collect(), max + total.ln())
}

#[test]
fn two_attentions_are_merged_by_the_logarithms_of_their_sums() {
    let mut seed = 0;
    for (heads, kv_heads, d, softcap) in [(4, 2, 64, None), (3, 1, 20, None), (2, 2, 16, Some(4.0))] {
        let g = LayerGeometry { softcap, ..plain(heads, kv_heads, d) };
        for (prefix, lengths, silent) in
            [(70, vec![30, 90, 64], 5), (0, vec![10, 3], 0), (10, vec![20], 1), (64, vec![400, 300, 9], 0)]
        {
            for (temperature, scale) in [(1.0, 1.0), (0.9, 0.9), (0.5, 1.7)] {
                seed += 1;
                let temper = Temper { temperature, scale };
                compare(&g, prefix, &lengths, silent, temper, seed);
            }
        }
    }
}

fn compare(g: &LayerGeometry, prefix: usize, lengths: &[usize], silent: usize, temper: Temper, seed: u64) {
    let (d, group, questions) = (g.head_dim, g.heads / g.kv_heads, 40);
    let all: usize = lengths.iter().sum();
    let own = prefix + all + silent;
    let rows = Rows::random(g, own + questions, seed);
    let cache = cache(std::slice::from_ref(g), "f32", 2, Isa::detect());
    let mut at = prefix;
    let contexts: Vec<_> = lengths
        .iter()
        .map(|&tokens| {
            let rows = part(g, &rows, &[0..prefix, at..at + tokens]);
            at += tokens;
            let mut seq = cache.create();
            step(&cache, &mut seq, &rows, rows.tokens);
            (at - tokens, cache.retire(seq, 0))
        })
        .collect();
    let kept = |blocks, span| Piece::Kept { blocks, first: 0, span };
    let pieces: Vec<Piece<'_>> =
        (contexts.iter().zip(lengths)).map(|((_, blocks), tokens)| kept(blocks, prefix..prefix + tokens)).collect();
    let before = if prefix > 0 { vec![kept(&contexts[0].1, 0..prefix)] } else { Vec::new() };
    let mut seq = cache.create();
    cache.assemble_parallel(&mut seq, &before, &pieces, silent, temper).unwrap();
    let mut got = step(&cache, &mut seq, &rows, questions - 3);
    (0..3).for_each(|_| got.extend(step(&cache, &mut seq, &rows, 1)));

    let longest = lengths.iter().max().unwrap();
    let position = |slot: usize| match contexts.iter().rev().find(|(start, _)| *start <= slot) {
        _ if slot >= own => prefix + longest + slot - own,
        Some((start, _)) => prefix + slot - start,
        None => slot,
    };
    let turned = |x: &[f32], slot: usize| {
        let mut x = x.to_vec();
        g.rope.as_ref().unwrap().turn(position(slot), &mut x);
        x
    };
    for t in 0..questions {
        for h in 0..g.heads {
            let slot = own + t;
            let q = turned(&rows.q[(slot * g.heads + h) * d..][..d], slot);
            let score = |s: usize, temperature: f32| {
                let k = turned(&rows.k[(s * g.kv_heads + h / group) * d..][..d], s);
                let x: f64 = q.iter().zip(&k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let x = x * f64::from(g.scale) / f64::from(temperature);
                (s, g.softcap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh()))
            };
            let value = |s: usize, c: usize| f64::from(rows.v[(s * g.kv_heads + h / group) * d + c]);
            let others = (0..prefix).chain(own..=slot);
            let (inner, outer): (Vec<_>, Vec<_>) = (
                (prefix..prefix + all).map(|s| score(s, temper.temperature)).collect(),
                others.map(|s| score(s, 1.0)).collect(),
            );
            let want = if temper.temperature == 1.0 && temper.scale == 1.0 {
                // Attention over the union.
                softmax(&[inner, outer].concat(), value, d).0
            } else {
                let ((a, lse_a), (b, lse_b)) = (softmax(&inner, value, d), softmax(&outer, value, d));
                let lse_a = lse_a * f64::from(temper.scale) * f64::from(temper.temperature);
                let weight = 1.0 / (1.0 + (lse_b - lse_a).exp());
                a.iter().zip(&b).map(|(a, b)| weight * a + (1.0 - weight) * b).collect()
            };
            let got = &got[(t * g.heads + h) * d..][..d];
            for (got, want) in got.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() < 5e-5, "{got} against {want}, {prefix} {lengths:?} {temper:?}");
            }
        }
    }
}
