//! Page attention against a plain f64 softmax, and its promise: the same bits for a row whoever computes it.

use cachalot_kernels::Isa;
use cachalot_kernels::attention::*;
use cachalot_kernels::float8::*;
use half::{bf16, f16};
use proptest::prelude::*;

/// Deterministic values in -1..1.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

struct Page {
    k: Vec<u8>,
    v: Vec<u8>,
    element: Element,
    /// What the bytes decode to.
    k_values: Vec<f32>,
    v_values: Vec<f32>,
}

impl Page {
    fn new(seed: u64, width: usize, element: Element) -> Page {
        let write = |values: Vec<f32>| -> (Vec<u8>, Vec<f32>) {
            let mut bytes = Vec::new();
            let mut back = Vec::new();
            for x in values {
                match element {
                    Element::F32 => {
                        bytes.extend(x.to_ne_bytes());
                        back.push(x);
                    }
                    Element::F16 => {
                        bytes.extend(f16::from_f32(x).to_ne_bytes());
                        back.push(f16::from_f32(x).to_f32());
                    }
                    Element::Bf16 => {
                        bytes.extend(bf16::from_f32(x).to_ne_bytes());
                        back.push(bf16::from_f32(x).to_f32());
                    }
                    Element::E4m3 => {
                        bytes.push(e4m3_from_f32(x));
                        back.push(e4m3_to_f32(e4m3_from_f32(x)));
                    }
                    Element::E5m2 => {
                        bytes.push(e5m2_from_f32(x));
                        back.push(e5m2_to_f32(e5m2_from_f32(x)));
                    }
                }
            }
            (bytes, back)
        };
        let (k, k_values) = write(noise(seed, width * PAGE_TOKENS));
        let (v, v_values) = write(noise(seed + 1, width * PAGE_TOKENS));
        Page { k, v, element, k_values, v_values }
    }

    fn view(&self) -> PageView<'_> {
        PageView { k: &self.k, v: &self.v, k_element: self.element, v_element: self.element }
    }
}

/// Runs `rows` over all pages in one softmax; returns the normalised outputs.
fn attend(isa: Isa, q: &[f32], width: usize, pages: &[Page], visible: &[Vec<Visible>], softcap: f32) -> Vec<f32> {
    let count = q.len() / width;
    let (mut max, mut sum, mut out) = (vec![0.0; count], vec![0.0; count], vec![0.0; q.len()]);
    let mut rows = Rows { max: &mut max, sum: &mut sum, out: &mut out };
    rows.clear();
    let mut scores = vec![0.0; count * PAGE_TOKENS];
    for (page, visible) in pages.iter().zip(visible) {
        if count > DIRECT_ROWS {
            let (mut k, mut v) = (vec![0.0f32; width * PAGE_TOKENS], vec![0.0f32; width * PAGE_TOKENS]);
            widen_page(isa, page.view(), &mut k, &mut v);
            let bytes = |x: &[f32]| x.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>();
            let (k, v) = (bytes(&k), bytes(&v));
            let view = PageView { k: &k, v: &v, k_element: Element::F32, v_element: Element::F32 };
            attend_page(isa, q, width, view, visible, softcap, &mut rows, &mut scores);
        } else {
            attend_page(isa, q, width, page.view(), visible, softcap, &mut rows, &mut scores);
        }
    }
    let mut result = vec![0.0; q.len()];
    for row in 0..count {
        rows.finish(row, &mut result[row * width..][..width]);
    }
    result
}

fn reference(q: &[f32], width: usize, pages: &[Page], visible: &[Vec<Visible>], softcap: f32) -> Vec<f64> {
    let mut result = Vec::new();
    for (row, q) in q.chunks(width).enumerate() {
        let (mut scores, mut values) = (Vec::new(), Vec::new());
        for (page, visible) in pages.iter().zip(visible) {
            for token in usize::from(visible[row].from)..usize::from(visible[row].to) {
                let mut s: f64 =
                    (0..width).map(|c| f64::from(q[c]) * f64::from(page.k_values[c * PAGE_TOKENS + token])).sum();
                if softcap > 0.0 {
                    s = f64::from(softcap) * (s / f64::from(softcap)).tanh();
                }
                scores.push(s);
                values.push(&page.v_values[token * width..][..width]);
            }
        }
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        for c in 0..width {
            result.push(scores.iter().zip(&values).map(|(s, v)| (s - max).exp() / total * f64::from(v[c])).sum());
        }
    }
    result
}

fn element() -> impl Strategy<Value = Element> {
    prop::sample::select(Element::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equals_a_plain_softmax_on_every_isa_bit_for_bit(
        seed in 0u64..1000, rows in 1usize..23, vectors in 1usize..9, pages in 1usize..4, element in element(),
        softcap in prop_oneof![Just(0.0f32), Just(5.0f32)], scale in prop_oneof![Just(0.1f32), Just(1.0), Just(30.0)],
    ) {
        let width = vectors * 16;
        let pages: Vec<Page> = (0..pages as u64).map(|p| Page::new(seed + 10 * p, width, element)).collect();
        let q: Vec<f32> = noise(seed + 7, rows * width).iter().map(|x| x * scale).collect();
        let cut = noise(seed + 8, rows * pages.len() * 2);
        let visible: Vec<Vec<Visible>> = (0..pages.len()).map(|p| (0..rows).map(|r| {
            let at = |i: usize| ((cut[(p * rows + r) * 2 + i] + 1.0) * 32.0) as u8;
            let (from, to) = (at(0).min(at(1)), at(0).max(at(1)).max(at(0).min(at(1)) + 1));
            // Every row sees something on the first page; later pages may be hidden from it.
            if p > 0 && r % 3 == 0 { Visible { from: 0, to: 0 } } else { Visible { from, to } }
        }).collect()).collect();
        let want = reference(&q, width, &pages, &visible, softcap);
        let oracle = attend(Isa::Portable, &q, width, &pages, &visible, softcap);
        for (got, want) in oracle.iter().zip(&want) {
            // Weights err by about a score's rounding (width products of at most `scale`), values are below 1.
            let bound = 1e-6 * (4.0 + f64::from(scale) * width as f64 / 8.0);
            prop_assert!((f64::from(*got) - want).abs() < bound, "{} {} {}", got, want, bound);
        }
        for isa in Isa::available() {
            let all = attend(isa, &q, width, &pages, &visible, softcap);
            prop_assert!(all.iter().zip(&oracle).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", isa);
            for row in 0..rows {
                let one: Vec<Vec<Visible>> = visible.iter().map(|v| vec![v[row]]).collect();
                let alone = attend(isa, &q[row * width..][..width], width, &pages, &one, softcap);
                let same = alone.iter().zip(&oracle[row * width..]).all(|(a, b)| a.to_bits() == b.to_bits());
                prop_assert!(same, "row {} alone on {}", row, isa);
            }
        }
    }
}

#[test]
fn parts_merge_to_the_whole_and_an_empty_part_changes_nothing() {
    let width = 64;
    let pages = [Page::new(1, width, Element::F32), Page::new(2, width, Element::F32)];
    let q = noise(3, 2 * width);
    let full = vec![Visible { from: 0, to: 64 }; 2];
    let isa = Isa::detect();
    let part = |page: &Page| {
        let (mut max, mut sum, mut out) = (vec![0.0; 2], vec![0.0; 2], vec![0.0; 2 * width]);
        let mut rows = Rows { max: &mut max, sum: &mut sum, out: &mut out };
        rows.clear();
        attend_page(isa, &q, width, page.view(), &full, 0.0, &mut rows, &mut vec![0.0; 2 * PAGE_TOKENS]);
        (max, sum, out)
    };
    let (mut a, mut b) = (part(&pages[0]), part(&pages[1]));
    let mut whole = Rows { max: &mut a.0, sum: &mut a.1, out: &mut a.2 };
    let second = Rows { max: &mut b.0, sum: &mut b.1, out: &mut b.2 };
    whole.merge(isa, &second);
    let want = reference(&q, width, &pages, &[full.clone(), full], 0.0);
    let mut got = vec![0.0; 2 * width];
    for row in 0..2 {
        whole.finish(row, &mut got[row * width..][..width]);
    }
    assert!(got.iter().zip(&want).all(|(a, b)| (f64::from(*a) - b).abs() < 5e-6));
    let before = whole.out.to_vec();
    let (mut m, mut s, mut o) = (vec![0.0; 2], vec![0.0; 2], vec![0.0; 2 * width]);
    let mut empty = Rows { max: &mut m, sum: &mut s, out: &mut o };
    empty.clear();
    whole.merge(isa, &empty);
    assert_eq!(before, whole.out);
}

#[test]
fn not_a_number_reaches_only_the_rows_that_see_it() {
    let width = 16;
    let mut page = Page::new(5, width, Element::F32);
    let poison = f32::NAN.to_ne_bytes();
    // Token 10's key and token 12's value.
    page.k[(3 * PAGE_TOKENS + 10) * 4..][..4].copy_from_slice(&poison);
    page.v[(12 * width + 2) * 4..][..4].copy_from_slice(&poison);
    let q = noise(6, 3 * width);
    let visible = vec![vec![Visible { from: 0, to: 10 }, Visible { from: 0, to: 11 }, Visible { from: 11, to: 13 }]];
    for isa in Isa::available() {
        let out = attend(
            isa,
            &q,
            width,
            &[Page { k: page.k.clone(), v: page.v.clone(), ..Page::new(5, width, Element::F32) }],
            &visible,
            0.0,
        );
        assert!(out[..width].iter().all(|x| x.is_finite()), "{isa}");
        assert!(out[width..2 * width].iter().all(|x| x.is_nan()), "{isa}");
        assert!(out[2 * width + 2].is_nan() && out[2 * width + 3].is_finite(), "{isa}");
    }
}

#[test]
fn hidden_tokens_weigh_exactly_zero_even_where_the_scores_are_no_numbers() {
    for isa in Isa::available() {
        // Row 0 sees a NaN, row 1 hides it, row 2 sees minus infinities only, row 3 nothing.
        let mut scores = vec![0.25; 4 * PAGE_TOKENS];
        scores[7] = f32::NAN;
        scores[PAGE_TOKENS + 7] = f32::NAN;
        scores[2 * PAGE_TOKENS..3 * PAGE_TOKENS].fill(f32::NEG_INFINITY);
        let visible = [
            Visible { from: 5, to: 9 },
            Visible { from: 8, to: 64 },
            Visible { from: 0, to: 3 },
            Visible { from: 9, to: 9 },
        ];
        let (mut max, mut sum, mut out) = (vec![0.0; 4], vec![0.0; 4], vec![0.0; 4 * 32]);
        let mut rows = Rows { max: &mut max, sum: &mut sum, out: &mut out };
        rows.clear();
        soften(isa, &mut scores, &visible, 0.0, &mut rows);
        for (visible, weights) in visible.iter().zip(scores.chunks(PAGE_TOKENS)) {
            let hidden = |token: &usize| !(usize::from(visible.from)..usize::from(visible.to)).contains(token);
            assert!((0..PAGE_TOKENS).filter(hidden).all(|token| weights[token].to_bits() == 0), "{isa}");
        }
        assert!(rows.sum[0].is_nan() && rows.sum[2].is_nan(), "{isa}");
        assert_eq!((rows.sum[1], rows.sum[3], rows.max[3]), (56.0, 0.0, f32::NEG_INFINITY), "{isa}");
    }
}

#[test]
fn softening_rescales_outputs_of_any_width() {
    for isa in Isa::available() {
        let visible = [Visible { from: 0, to: 1 }; 2];
        let (mut max, mut sum, mut out) = (vec![0.0; 2], vec![1.0; 2], vec![8.0; 2 * 48]);
        let mut rows = Rows { max: &mut max, sum: &mut sum, out: &mut out };
        let mut scores = vec![0.0; 2 * PAGE_TOKENS];
        // The second row's maximum rises by ln 2, so what it has seen counts half; the first row's stays.
        scores[PAGE_TOKENS] = std::f32::consts::LN_2;
        soften(isa, &mut scores, &visible, 0.0, &mut rows);
        assert!(rows.out[..48].iter().all(|x| *x == 8.0), "{isa}");
        assert!(rows.out[48..].iter().all(|x| (x - 4.0).abs() < 1e-5), "{isa}");
        assert!((rows.sum[0], rows.sum[1].round()) == (2.0, 2.0) && scores[PAGE_TOKENS] == 1.0, "{isa}");
    }
}
