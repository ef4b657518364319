//! One page against some query rows.

use super::DIRECT_ROWS;
use super::accumulate::accumulate_page;
use super::element::{Element, Load, with_element};
use super::rows::{Rows, Visible};
use super::score::score_page;
use super::soften::soften;
use crate::simd::{LANES, Simd};
use crate::{Isa, dispatch};

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

dispatch! {
    /// Writes a page's keys and values as `f32` in the same layout: done once where many rows read the page.
    pub fn widen_page(page: PageView<'_>, k: &mut [f32], v: &mut [f32]) = widen_page_body
}

#[inline(always)]
unsafe fn widen_page_body<S: Simd>(page: PageView<'_>, k: &mut [f32], v: &mut [f32]) {
    // SAFETY: the features are the dispatcher's business.
    unsafe {
        widen_body::<S>(page.k, page.k_element, k);
        widen_body::<S>(page.v, page.v_element, v);
    }
}

dispatch! {
    /// Writes elements as `f32`, a multiple of sixteen of them.
    ///
    /// # Panics
    /// If there are fewer in `from` than in `to`.
    pub fn widen(from: &[u8], element: Element, to: &mut [f32]) = widen_body
}

#[inline(always)]
unsafe fn widen_body<S: Simd>(from: &[u8], element: Element, to: &mut [f32]) {
    #[inline(always)]
    unsafe fn all<S: Simd, E: Load>(from: &[u8], to: &mut [f32]) {
        assert!(from.len() >= to.len() * E::BYTES && to.len().is_multiple_of(LANES));
        for (i, to) in to.chunks_exact_mut(LANES).enumerate() {
            // SAFETY: `from` holds as many elements as `to`, asserted above.
            unsafe { S::store(to.as_mut_ptr(), E::load::<S>(from.as_ptr(), i * LANES)) };
        }
    }
    // SAFETY: the features are the dispatcher's business.
    unsafe { with_element!(element, E => all::<S, E>(from, to)) }
}

/// Lets every row attend to the tokens of one page it may see, which come after those it has seen: [`score_page`],
/// [`soften`] and [`accumulate_page`].
///
/// `q` is `[rows][width]`, already rotated and scaled; `visible` has one range per row; `softcap` of zero is none;
/// `scores` is scratch of `rows * PAGE_TOKENS`. A row that sees nothing is left as it is. Not-a-number in a query,
/// key or value reaches the outputs of the rows that see it, and no others.
///
/// # Panics
/// If the slices do not have the lengths above.
#[allow(clippy::too_many_arguments)]
pub fn attend_page(
    isa: Isa,
    q: &[f32],
    width: usize,
    page: PageView<'_>,
    visible: &[Visible],
    softcap: f32,
    rows: &mut Rows<'_>,
    scores: &mut [f32],
) {
    assert!(q.len() == visible.len() * width && rows.out.len() == q.len());
    debug_assert!(visible.len() <= DIRECT_ROWS || page.k_element == Element::F32, "widen the page first");
    score_page(isa, q, width, page.k, page.k_element, scores);
    soften(isa, scores, visible, softcap, rows);
    accumulate_page(isa, scores, page.v, page.v_element, width, visible, rows.out);
}
