//! One page against some query rows.

use super::element::{Bf16, Element, F16, F32, Load};
use super::{DIRECT_ROWS, PAGE_TOKENS};
use crate::simd::{LANES, Simd};
use crate::{Isa, dispatch};

/// Vectors of scores of one row over a page.
const KEY_VECTORS: usize = PAGE_TOKENS / LANES;
/// Value vectors accumulated at once; wider heads take several passes.
const VALUE_VECTORS: usize = 4;
/// Query rows whose accumulators are held in registers together.
const ROW_TILE: usize = 6;

/// The bytes of one page, as attention reads them.
#[derive(Clone, Copy)]
pub struct PageView<'a> {
    /// Keys, `[width][PAGE_TOKENS]`.
    pub k: &'a [u8],
    /// Values, `[PAGE_TOKENS][width]`.
    pub v: &'a [u8],
    /// Type of the keys.
    pub k_element: Element,
    /// Type of the values.
    pub v_element: Element,
}

/// The tokens of a page that a row may see: `from..to`, within `0..=PAGE_TOKENS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visible {
    /// First visible token.
    pub from: u8,
    /// One past the last visible token.
    pub to: u8,
}

/// The running softmax of some query rows: maxima, sums and unnormalised outputs.
pub struct Rows<'a> {
    /// Largest score so far, `[rows]`; minus infinity before the first.
    pub max: &'a mut [f32],
    /// Sum of `exp(score - max)`, `[rows]`.
    pub sum: &'a mut [f32],
    /// Sum of `exp(score - max) * value`, `[rows][width]`.
    pub out: &'a mut [f32],
}

impl Rows<'_> {
    /// Forgets everything seen.
    pub fn clear(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        self.out.fill(0.0);
    }

    /// Takes in `part`, whose tokens come after those seen so far.
    pub fn merge(&mut self, isa: Isa, part: &Rows<'_>) {
        let rows = self.max.len();
        if rows == 0 {
            return;
        }
        let width = self.out.len() / rows;
        for row in 0..rows {
            if part.max[row] == f32::NEG_INFINITY {
                continue;
            }
            let span = row * width..(row + 1) * width;
            let max = if self.max[row] > part.max[row] { self.max[row] } else { part.max[row] };
            let mut factors = [self.max[row] - max, part.max[row] - max];
            exp_assign(isa, &mut factors);
            self.max[row] = max;
            self.sum[row] = self.sum[row].mul_add(factors[0], part.sum[row] * factors[1]);
            blend(isa, &mut self.out[span.clone()], &part.out[span], factors[0], factors[1]);
        }
    }

    /// One row's softmax-weighted mean of the values, cut to the length of `out` (heads narrower than a page's rows).
    pub fn finish(&self, row: usize, out: &mut [f32]) {
        let width = self.out.len() / self.max.len().max(1);
        for (out, &sum) in out.iter_mut().zip(&self.out[row * width..]) {
            *out = sum / self.sum[row];
        }
    }
}

dispatch! {
    /// `x = e^x`, each element, as [`Simd::exp`] computes it.
    fn exp_assign(x: &mut [f32; 2]) = exp_assign_body
}

#[inline(always)]
unsafe fn exp_assign_body<S: Simd>(x: &mut [f32; 2]) {
    let mut lanes = [0.0; LANES];
    lanes[..2].copy_from_slice(x);
    // SAFETY: `lanes` has sixteen elements; the features are the dispatcher's business.
    unsafe { S::store(lanes.as_mut_ptr(), S::exp(S::load(lanes.as_ptr()))) };
    x.copy_from_slice(&lanes[..2]);
}

dispatch! {
    /// `a = a * fa + b * fb`; lengths are equal multiples of sixteen.
    fn blend(a: &mut [f32], b: &[f32], fa: f32, fb: f32) = blend_body
}

#[inline(always)]
unsafe fn blend_body<S: Simd>(a: &mut [f32], b: &[f32], fa: f32, fb: f32) {
    for (a, b) in a.chunks_exact_mut(LANES).zip(b.chunks_exact(LANES)) {
        // SAFETY: the chunks have sixteen elements.
        unsafe {
            let scaled = S::mul(S::load(b.as_ptr()), S::splat(fb));
            S::store(a.as_mut_ptr(), S::fma(S::load(a.as_ptr()), S::splat(fa), scaled));
        }
    }
}

dispatch! {
    /// Writes a page's keys and values as `f32` in the same layout: done once where many rows read the page.
    pub fn widen_page(page: PageView<'_>, k: &mut [f32], v: &mut [f32]) = widen_page_body
}

#[inline(always)]
unsafe fn widen_page_body<S: Simd>(page: PageView<'_>, k: &mut [f32], v: &mut [f32]) {
    #[inline(always)]
    unsafe fn widen<S: Simd, E: Load>(from: &[u8], to: &mut [f32]) {
        assert!(from.len() >= to.len() * E::BYTES);
        for (i, to) in to.chunks_exact_mut(LANES).enumerate() {
            // SAFETY: `from` holds as many elements as `to`, asserted above.
            unsafe { S::store(to.as_mut_ptr(), E::load::<S>(from.as_ptr(), i * LANES)) };
        }
    }
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        match page.k_element {
            Element::F32 => widen::<S, F32>(page.k, k),
            Element::F16 => widen::<S, F16>(page.k, k),
            Element::Bf16 => widen::<S, Bf16>(page.k, k),
        }
        match page.v_element {
            Element::F32 => widen::<S, F32>(page.v, v),
            Element::F16 => widen::<S, F16>(page.v, v),
            Element::Bf16 => widen::<S, Bf16>(page.v, v),
        }
    }
}

dispatch! {
    /// Lets every row attend to the tokens of one page it may see, which come after those it has seen.
    ///
    /// `q` is `[rows][width]`, already rotated and scaled; `visible` has one range per row; `softcap` of zero is none;
    /// `scores` is scratch of `rows * PAGE_TOKENS`. A row that sees nothing is left as it is. Not-a-number in a query,
    /// key or value reaches the outputs of the rows that see it, and no others.
    ///
    /// # Panics
    /// If the slices do not have the lengths above.
    pub fn attend_page(q: &[f32], width: usize, page: PageView<'_>, visible: &[Visible], softcap: f32, rows: &mut Rows<'_>,
        scores: &mut [f32]) = attend_page_body
}

#[inline(always)]
unsafe fn attend_page_body<S: Simd>(
    q: &[f32],
    width: usize,
    page: PageView<'_>,
    visible: &[Visible],
    softcap: f32,
    rows: &mut Rows<'_>,
    scores: &mut [f32],
) {
    let count = visible.len();
    assert!(width.is_multiple_of(LANES) && q.len() == count * width && scores.len() >= count * PAGE_TOKENS);
    assert!(rows.max.len() == count && rows.sum.len() == count && rows.out.len() == q.len());
    assert!(page.k.len() >= width * PAGE_TOKENS * page.k_element.bytes());
    assert!(page.v.len() >= width * PAGE_TOKENS * page.v_element.bytes());
    debug_assert!(count <= DIRECT_ROWS || page.k_element == Element::F32, "widen the page first");
    // SAFETY: lengths asserted above; the features are the dispatcher's business.
    unsafe {
        match page.k_element {
            Element::F32 => score::<S, F32>(q, width, page.k, scores),
            Element::F16 => score::<S, F16>(q, width, page.k, scores),
            Element::Bf16 => score::<S, Bf16>(q, width, page.k, scores),
        }
        for (row, &visible) in visible.iter().enumerate() {
            let scores = &mut scores[row * PAGE_TOKENS..][..PAGE_TOKENS];
            let factor = soften::<S>(scores, visible, softcap, &mut rows.max[row], &mut rows.sum[row]);
            rescale::<S>(&mut rows.out[row * width..][..width], factor);
        }
        // Tokens that no row sees are not read: beyond the last one the page may hold anything.
        let from = visible.iter().filter(|v| v.from < v.to).map(|v| v.from).min().unwrap_or(0);
        let to = visible.iter().filter(|v| v.from < v.to).map(|v| v.to).max().unwrap_or(0);
        let span = usize::from(from)..usize::from(to);
        match page.v_element {
            Element::F32 => accumulate::<S, F32>(scores, page.v, width, span, visible, rows.out),
            Element::F16 => accumulate::<S, F16>(scores, page.v, width, span, visible, rows.out),
            Element::Bf16 => accumulate::<S, Bf16>(scores, page.v, width, span, visible, rows.out),
        }
    }
}

/// Calls a tile function with the largest tile that fits, until all rows are done.
macro_rules! in_tiles {
    ($rows:expr, $at:ident, $f:ident, $load:ident, ($($arg:expr),*)) => {{
        let (mut $at, rows) = (0, $rows);
        while $at < rows {
            // SAFETY: every tile lies within the rows.
            unsafe {
                match rows - $at {
                    1 => { $f::<S, $load, 1>($($arg),*); $at += 1 }
                    2 => { $f::<S, $load, 2>($($arg),*); $at += 2 }
                    3 => { $f::<S, $load, 3>($($arg),*); $at += 3 }
                    4 | 5 => { $f::<S, $load, 4>($($arg),*); $at += 4 }
                    _ => { $f::<S, $load, ROW_TILE>($($arg),*); $at += ROW_TILE }
                }
            }
        }
    }};
}

#[inline(always)]
unsafe fn score<S: Simd, E: Load>(q: &[f32], width: usize, k: &[u8], scores: &mut [f32]) {
    in_tiles!(
        q.len() / width,
        at,
        score_tile,
        E,
        (q.as_ptr().add(at * width), width, k.as_ptr(), scores.as_mut_ptr().add(at * PAGE_TOKENS))
    );
}

#[inline(always)]
unsafe fn score_tile<S: Simd, E: Load, const R: usize>(q: *const f32, width: usize, k: *const u8, scores: *mut f32) {
    // SAFETY: `q` has R rows of `width`, `k` has `width * PAGE_TOKENS` elements, `scores` R rows of PAGE_TOKENS.
    unsafe {
        let mut acc = [[S::splat(0.0); KEY_VECTORS]; R];
        for channel in 0..width {
            let keys: [S::F; KEY_VECTORS] = std::array::from_fn(|v| E::load::<S>(k, channel * PAGE_TOKENS + v * LANES));
            for (r, acc) in acc.iter_mut().enumerate() {
                let q = S::splat(*q.add(r * width + channel));
                for (acc, &keys) in acc.iter_mut().zip(&keys) {
                    *acc = S::fma(q, keys, *acc);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                S::store(scores.add(r * PAGE_TOKENS + v * LANES), acc);
            }
        }
    }
}

/// Turns a row's scores into weights relative to the new maximum; returns the factor for what was summed before.
#[inline(always)]
unsafe fn soften<S: Simd>(scores: &mut [f32], visible: Visible, softcap: f32, max: &mut f32, sum: &mut f32) -> f32 {
    if visible.from >= visible.to {
        scores.fill(0.0);
        return 1.0;
    }
    // SAFETY: `scores` has PAGE_TOKENS elements.
    unsafe {
        let hidden = S::splat(f32::NEG_INFINITY);
        let bits = (u64::MAX >> (PAGE_TOKENS - usize::from(visible.to))) & (u64::MAX << visible.from);
        let mut lanes = [hidden; KEY_VECTORS];
        let mut top = S::splat(*max);
        for (v, lanes) in lanes.iter_mut().enumerate() {
            let mut x = S::load(scores.as_ptr().add(v * LANES));
            if softcap > 0.0 {
                x = S::mul(S::splat(softcap), S::tanh(S::div(x, S::splat(softcap))));
            }
            *lanes = S::select((bits >> (v * LANES)) as u16, x, hidden);
            top = S::max(top, *lanes);
        }
        let new = S::reduce_max(top);
        let mut total = S::splat(0.0);
        for (v, &lanes) in lanes.iter().enumerate() {
            let weights = S::exp(S::sub(lanes, S::splat(new)));
            total = S::add(total, weights);
            S::store(scores.as_mut_ptr().add(v * LANES), weights);
        }
        // The exponential of a lane, not the library's: one exp for everything.
        let mut factor = [0.0; LANES];
        S::store(factor.as_mut_ptr(), S::exp(S::splat(*max - new)));
        *sum = sum.mul_add(factor[0], S::reduce_add(total));
        *max = new;
        factor[0]
    }
}

#[inline(always)]
unsafe fn rescale<S: Simd>(out: &mut [f32], factor: f32) {
    if factor == 1.0 {
        return;
    }
    for out in out.chunks_exact_mut(LANES) {
        // SAFETY: the chunk has sixteen elements.
        unsafe { S::store(out.as_mut_ptr(), S::mul(S::load(out.as_ptr()), S::splat(factor))) };
    }
}

#[inline(always)]
unsafe fn accumulate<S: Simd, E: Load>(
    weights: &[f32],
    v: &[u8],
    width: usize,
    span: std::ops::Range<usize>,
    visible: &[Visible],
    out: &mut [f32],
) {
    in_tiles!(
        visible.len(),
        at,
        accumulate_tile,
        E,
        (
            weights.as_ptr().add(at * PAGE_TOKENS),
            v.as_ptr(),
            width,
            span.clone(),
            &visible[at..],
            out.as_mut_ptr().add(at * width)
        )
    );
}

#[inline(always)]
unsafe fn accumulate_tile<S: Simd, E: Load, const R: usize>(
    weights: *const f32,
    v: *const u8,
    width: usize,
    span: std::ops::Range<usize>,
    visible: &[Visible],
    out: *mut f32,
) {
    // SAFETY: `weights` has R rows of PAGE_TOKENS, `v` has `PAGE_TOKENS * width` elements, `out` R rows of `width`,
    // `span` lies within the page and the columns within `width`.
    unsafe {
        // Where rows see different tokens, those a row does not see are skipped for it: a hidden value may be anything,
        // and zero times infinity is not zero.
        let same = visible[..R].iter().all(|v| usize::from(v.from) == span.start && usize::from(v.to) == span.end);
        let vectors = width / LANES;
        let mut first = 0;
        while first + VALUE_VECTORS <= vectors {
            columns::<S, E, R, VALUE_VECTORS>(weights, v, width, span.clone(), visible, same, first * LANES, out);
            first += VALUE_VECTORS;
        }
        while first < vectors {
            columns::<S, E, R, 1>(weights, v, width, span.clone(), visible, same, first * LANES, out);
            first += 1;
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn columns<S: Simd, E: Load, const R: usize, const C: usize>(
    weights: *const f32,
    v: *const u8,
    width: usize,
    span: std::ops::Range<usize>,
    visible: &[Visible],
    same: bool,
    column: usize,
    out: *mut f32,
) {
    // SAFETY: as for `accumulate_tile`.
    unsafe {
        let at = |r: usize, c: usize| out.add(r * width + column + c * LANES);
        let mut acc: [[S::F; C]; R] = std::array::from_fn(|r| std::array::from_fn(|c| S::load(at(r, c))));
        if same {
            for token in span {
                let values: [S::F; C] = std::array::from_fn(|c| E::load::<S>(v, token * width + column + c * LANES));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let weight = S::splat(*weights.add(r * PAGE_TOKENS + token));
                    for (acc, &values) in acc.iter_mut().zip(&values) {
                        *acc = S::fma(weight, values, *acc);
                    }
                }
            }
        } else {
            for token in span {
                let values: [S::F; C] = std::array::from_fn(|c| E::load::<S>(v, token * width + column + c * LANES));
                for (r, acc) in acc.iter_mut().enumerate() {
                    if (usize::from(visible[r].from)..usize::from(visible[r].to)).contains(&token) {
                        let weight = S::splat(*weights.add(r * PAGE_TOKENS + token));
                        for (acc, &values) in acc.iter_mut().zip(&values) {
                            *acc = S::fma(weight, values, *acc);
                        }
                    }
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, &acc) in acc.iter().enumerate() {
                S::store(at(r, c), acc);
            }
        }
    }
}
