//! Weighted sums of one page's values.

use super::PAGE_TOKENS;
use super::element::{Element, Load, with_element};
use super::rows::Visible;
use super::tiles::in_tiles;
use crate::dispatch;
use crate::simd::{LANES, Simd};

/// Value vectors accumulated at once; wider heads take several passes.
const VALUE_VECTORS: usize = 4;
/// As many as fit fewer registers beside the sums of three rows.
const NARROW: usize = 2;

dispatch! {
    /// Adds the weighted values of one page: `out[row][c] += Σ weights[row][token] * v[token][c]`, one chain of fused
    /// multiply-adds over the tokens that the row sees, in order.
    ///
    /// `weights` is `[rows][PAGE_TOKENS]`, as [`super::soften`] leaves it; `v` is `[PAGE_TOKENS][width]`; `visible` has
    /// one range per row; `out` is `[rows][width]`. Values of tokens a row does not see may be anything, not-a-number
    /// too.
    ///
    /// # Panics
    /// If the slices are shorter than that, or `width` is no multiple of sixteen.
    pub fn accumulate_page(weights: &[f32], v: &[u8], v_element: Element, width: usize, visible: &[Visible],
        out: &mut [f32]) = accumulate_page_body
}

#[inline(always)]
unsafe fn accumulate_page_body<S: Simd>(
    weights: &[f32],
    v: &[u8],
    v_element: Element,
    width: usize,
    visible: &[Visible],
    out: &mut [f32],
) {
    let count = visible.len();
    assert!(width.is_multiple_of(LANES) && weights.len() >= count * PAGE_TOKENS && out.len() >= count * width);
    assert!(v.len() >= width * PAGE_TOKENS * v_element.bytes());
    assert!(visible.iter().all(|v| usize::from(v.to) <= PAGE_TOKENS));
    // Tokens that no row sees are not read: beyond the last one the page may hold anything.
    let from = visible.iter().filter(|v| v.from < v.to).map(|v| v.from).min().unwrap_or(0);
    let to = visible.iter().filter(|v| v.from < v.to).map(|v| v.to).max().unwrap_or(0);
    let span = usize::from(from)..usize::from(to);
    // SAFETY: lengths asserted above; the features are the dispatcher's business.
    unsafe { with_element!(v_element, E => accumulate::<S, E>(weights, v, width, span, visible, out)) }
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
        while S::REGISTERS >= 32 && first + VALUE_VECTORS <= vectors {
            columns::<S, E, R, VALUE_VECTORS>(weights, v, width, span.clone(), visible, same, first * LANES, out);
            first += VALUE_VECTORS;
        }
        while S::REGISTERS < 32 && R <= 3 && first + NARROW <= vectors {
            columns::<S, E, R, NARROW>(weights, v, width, span.clone(), visible, same, first * LANES, out);
            first += NARROW;
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
        // A loop and no closure, which would be a function of its own without the instruction set's features.
        let mut acc = [[S::splat(0.0); C]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (c, acc) in acc.iter_mut().enumerate() {
                *acc = S::load(at(r, c));
            }
        }
        if same {
            for token in span {
                let mut values = [S::splat(0.0); C];
                for (c, values) in values.iter_mut().enumerate() {
                    *values = E::load::<S>(v, token * width + column + c * LANES);
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let weight = S::splat(*weights.add(r * PAGE_TOKENS + token));
                    for (acc, &values) in acc.iter_mut().zip(&values) {
                        *acc = S::fma(weight, values, *acc);
                    }
                }
            }
        } else {
            for token in span {
                let mut values = [S::splat(0.0); C];
                for (c, values) in values.iter_mut().enumerate() {
                    *values = E::load::<S>(v, token * width + column + c * LANES);
                }
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
