//! What holds for every part of this folder, on both sides where it has two, over shapes and odd inputs.

use super::super::super::codec::{Hints, Part, Queries, Side, Work};
use super::super::super::math::Rng;
use super::super::super::math::sample::{gaussian, part, rows};
use super::{decoded, encoded};
use cachalot_kernels::Isa;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::Arc;

const CHANNELS: [usize; 4] = [64, 80, 96, 128];

/// Each with the sides it has.
const PARTS: &[(&str, &[Side])] = &[
    ("f16", &[Side::Keys, Side::Values]),
    ("bf16", &[Side::Keys, Side::Values]),
    ("mean", &[Side::Keys, Side::Values]),
    ("mean(bits=8)", &[Side::Keys, Side::Values]),
    ("lowrank", &[Side::Keys, Side::Values]),
    ("lowrank(rank=1, loops=2)", &[Side::Keys, Side::Values]),
    ("product(subspaces=16, bits=4)", &[Side::Keys, Side::Values]),
    ("product(subspaces=8, bits=6, iterations=5)", &[Side::Keys, Side::Values]),
    ("product(subspaces=2, bits=3)", &[Side::Keys, Side::Values]),
    ("codebook(words=128, iterations=5)", &[Side::Keys]),
    ("bitmap", &[Side::Keys, Side::Values]),
    ("bitmap(sparsity=0.5)", &[Side::Keys, Side::Values]),
    ("bitmap(sparsity=0)", &[Side::Keys, Side::Values]),
    ("sketch", &[Side::Keys]),
    ("sketch(m=288, seed=4)", &[Side::Keys]),
    ("sketch(m=160, outliers=6, outlier_m=64)", &[Side::Keys]),
    ("polar", &[Side::Keys, Side::Values]),
    ("keypolar", &[Side::Keys]),
    ("octahedral(bits=2)", &[Side::Keys, Side::Values]),
    ("octahedral", &[Side::Keys, Side::Values]),
    ("octahedral(bits=4)", &[Side::Keys, Side::Values]),
    ("spectral", &[Side::Keys]),
    ("spectral(bits=1.25)", &[Side::Keys]),
    ("commvq(stages=3, iterations=1)", &[Side::Keys, Side::Values]),
    ("split", &[Side::Keys, Side::Values]),
    ("split(high=4, low=1, share=0.5, density=beta, norm=unbiased)", &[Side::Keys, Side::Values]),
    ("softprune", &[Side::Keys, Side::Values]),
    ("softprune(keep=0)", &[Side::Keys, Side::Values]),
    ("softprune(keep=4)", &[Side::Keys, Side::Values]),
    ("keypolar(radius=3, angle=4)", &[Side::Keys]),
];

fn for_each(check: impl Fn(&str, &dyn Part)) {
    for &(text, sides) in PARTS {
        for &side in sides {
            for d in CHANNELS {
                let part: Arc<dyn Part> = part(text, side, d);
                let name = format!("{text} {} {d}", side.letter());
                assert_eq!((part.shape().side, part.shape().tokens, part.shape().channels), (side, 64, d), "{name}");
                check(&name, &*part);
            }
        }
    }
}

/// Pages worth breaking something with.
fn pages(d: usize) -> Vec<(&'static str, Vec<f32>)> {
    let n = PAGE_TOKENS * d;
    let mut outlier = gaussian(n, 3);
    outlier[n / 2 + 3] = -65504.0;
    let mut lone = vec![0.0; n];
    lone[7] = 1.0;
    let mut rng = Rng::new(1, 1);
    vec![
        ("usual", rows(PAGE_TOKENS, d, 72)),
        ("zeros", vec![0.0; n]),
        ("constant", vec![-3.25; n]),
        ("a lone one", lone),
        ("a huge outlier", outlier),
        ("largest", (0..n).map(|_| 65504.0 * rng.sign()).collect()),
        ("subnormal", (0..n).map(|i| 1e-40 * (i % 7) as f32).collect()),
        ("tiny", gaussian(n, 4).iter().map(|x| x * 1e-20).collect()),
    ]
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn bytes_are_exact_and_every_one_is_written() {
    for_each(|name, part| {
        assert!(part.bytes() > 0 && part.bytes().is_multiple_of(4), "{name}: {}", part.bytes());
        assert!(!part.describe().is_empty());
        for (what, x) in pages(part.shape().channels) {
            let mut other = vec![0x55; part.bytes()];
            part.encode(&x, Hints::default(), &mut other);
            assert_eq!(encoded(part, &x), other, "{name}, {what}");
        }
    });
}

#[test]
fn any_page_decodes_to_finite_numbers_as_a_tile_too() {
    for_each(|name, part| {
        let (shape, mut work) = (part.shape(), Work::default());
        let (d, width) = (shape.channels, shape.width());
        for (what, x) in pages(d) {
            let page = encoded(part, &x);
            let rows = decoded(part, &page);
            assert!(rows.iter().all(|x| x.is_finite()), "{name}, {what}");
            let mut expected = vec![0.0; shape.tile_len()];
            for (i, x) in rows.iter().enumerate() {
                let at = match shape.side {
                    Side::Keys => i % d * PAGE_TOKENS + i / d,
                    Side::Values => i / d * width + i % d,
                };
                expected[at] += x;
            }
            for isa in Isa::available() {
                let mut tile = vec![0.0; shape.tile_len()];
                part.tile(isa, &page, &mut work, &mut tile);
                let same = tile.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits());
                assert_eq!(same, None, "{name}, {what}, {isa}");
                let mut written = vec![f32::NAN; shape.tile_len()];
                part.write_tile(isa, &page, &mut work, &mut written);
                assert_eq!(bits(&written), bits(&expected), "{name}, {what}, {isa}: over anything");
            }
        }
    });
}

/// Scores or outputs, computed on the codes.
pub(super) fn fused(part: &dyn Part, isa: Isa, page: &[u8], vectors: &[f32], rows: usize) -> Vec<f32> {
    let mut work = Work::default();
    match part.shape().side {
        Side::Keys => {
            let mut state = Vec::new();
            part.prepare(isa, vectors, rows, &mut state);
            let mut scores = vec![0.0; rows * PAGE_TOKENS];
            part.score(isa, page, Queries { rows, q: vectors, state: &state }, &mut work, &mut scores);
            scores
        }
        Side::Values => {
            let mut out = vec![0.0; rows * part.shape().width()];
            part.accumulate(isa, page, vectors, rows, &mut work, &mut out);
            out
        }
    }
}

/// Queries or weights, `[rows]` of what the side wants.
pub(super) fn vectors(part: &dyn Part, rows: usize) -> Vec<f32> {
    let shape = part.shape();
    match shape.side {
        Side::Keys => {
            let mut q = gaussian(rows * shape.width(), 8);
            q.chunks_exact_mut(shape.width()).for_each(|q| q[shape.channels..].fill(0.0));
            q
        }
        Side::Values => gaussian(rows * PAGE_TOKENS, 9).iter().map(|x| (3.0 * x).exp2()).collect(),
    }
}

fn length(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt()
}

#[test]
fn fused_products_are_those_of_the_decoded_rows() {
    const ROWS: usize = 20;
    for_each(|name, part| {
        // Sets of channels are compared with the parts they are made of.
        if !part.fused() || name.starts_with("split") {
            return;
        }
        let shape = part.shape();
        let (d, width) = (shape.channels, shape.width());
        let vectors = vectors(part, ROWS);
        for (what, x) in pages(d) {
            let page = encoded(part, &x);
            let rows = decoded(part, &page);
            let columns = (0..d).map(|c| rows.iter().skip(c).step_by(d).fold(0.0f32, |top, x| top.max(x.abs())));
            let columns: Vec<f32> = columns.collect();
            let reach = length(&columns);
            let many = fused(part, Isa::Portable, &page, &vectors, ROWS);
            for isa in Isa::available() {
                assert_eq!(bits(&fused(part, isa, &page, &vectors, ROWS)), bits(&many), "{name}, {what}, {isa}");
            }
            let each = many.len() / ROWS;
            for (one, vector) in many.chunks_exact(each).zip(vectors.chunks_exact(vectors.len() / ROWS)) {
                for isa in Isa::available() {
                    let alone = fused(part, isa, &page, vector, 1);
                    assert_eq!(bits(one), bits(&alone), "{name}, {what}, {isa}: a row alone");
                }
                // Queries and weights may be rounded to sixteen bits, and sums of f32 round.
                let top = vector.iter().fold(0.0f32, |top, x| top.max(x.abs()));
                // What the product of codes promises of each: a 65024th of the largest factor, which has the scale of its channel
                // where that is a key's, times the level, which is 8 steps of a seventh of the channel at most.
                let scaled = |i: usize| f64::from(vector[i] * columns[i]).abs();
                let of_codes = |i: usize| match shape.side {
                    Side::Keys => 8.0 / 7.0 * d as f64 * (0..d).map(scaled).fold(0.0, f64::max) / 2.6,
                    Side::Values => (0..PAGE_TOKENS).map(|j| f64::from(rows[j * d + i].abs() * top)).sum::<f64>() / 2.6,
                };
                for (i, &got) in one.iter().enumerate().filter(|(i, _)| shape.side == Side::Keys || *i < d) {
                    let pair = |j: usize| match shape.side {
                        Side::Keys => (f64::from(vector[j]), f64::from(rows[i * d + j])),
                        Side::Values => (f64::from(vector[j]), f64::from(rows[j * d + i])),
                    };
                    let n = if shape.side == Side::Keys { d } else { PAGE_TOKENS };
                    let exact: f64 = (0..n).map(pair).map(|(a, b)| a * b).sum();
                    let size: f64 = (0..n).map(pair).map(|(a, b)| (a.abs() + f64::from(top) / 8.0) * b.abs()).sum();
                    let off = (f64::from(got) - exact).abs();
                    // Where channels are mixed or count from a minimum, it is the page's reach that rounding follows.
                    let size =
                        size + if name.starts_with("spectral") { n as f64 * reach * length(vector) } else { 0.0 };
                    let size = size + if name.starts_with("softprune") { of_codes(i) } else { 0.0 };
                    assert!(off <= 4e-5 * size + 1e-30, "{name}, {what}: {got} {exact} of {size}");
                }
                assert!(shape.side == Side::Keys || one[d..width].iter().all(|&x| x == 0.0), "{name}: padding");
            }
        }
    });
}

#[test]
fn bytes_of_any_kind_are_read_without_panic() {
    let mut rng = Rng::new(77, 0);
    let mut noise: Vec<Vec<u8>> = vec![vec![0xff; 1 << 16], vec![0; 1 << 16]];
    noise.extend((0..3).map(|_| (0..1 << 16).map(|_| rng.bits() as u8).collect()));
    for_each(|name, part| {
        for noise in &noise {
            let page = &noise[..part.bytes()];
            let rows = decoded(part, page);
            assert_eq!(rows.len(), part.shape().elements(), "{name}");
            let mut tile = vec![0.0; part.shape().tile_len()];
            part.tile(Isa::detect(), page, &mut Work::default(), &mut tile);
            if part.fused() {
                for rows in [1, 20] {
                    fused(part, Isa::detect(), page, &vectors(part, rows), rows);
                }
            }
        }
    });
}

/// Fewer tokens than a page: scores and weights beyond them are left alone.
#[test]
fn short_pages_touch_their_own_tokens_only() {
    use super::super::super::math::sample::{build_on, context};
    use super::super::super::stage::{Built, Context};
    for &(text, sides) in PARTS {
        for &side in sides {
            let context = Context { tokens: 32, ..context(side, 64) };
            let queries = if side == Side::Keys { rows(256, 64, 71) } else { Vec::new() };
            let Ok(Built::Part(part)) = build_on(text, context, &rows(512, 64, 70), &queries) else { continue };
            let page = encoded(&*part, &rows(32, 64, 73));
            let mut tile = vec![0.0; part.shape().tile_len()];
            part.tile(Isa::detect(), &page, &mut Work::default(), &mut tile);
            let outside = |i: usize| if side == Side::Keys { i % 64 >= 32 } else { i / 64 >= 32 };
            assert!(tile.iter().enumerate().all(|(i, &x)| !outside(i) || x == 0.0), "{text}");
            if part.fused() && side == Side::Keys {
                for rows in [1, 20] {
                    let scores = fused(&*part, Isa::detect(), &page, &vectors(&*part, rows), rows);
                    assert!(scores.iter().enumerate().all(|(i, &x)| !outside(i) || x == 0.0), "{text}");
                }
            }
        }
    }
}
