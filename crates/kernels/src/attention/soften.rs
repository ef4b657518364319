//! Scores to weights: the online softmax.

use super::PAGE_TOKENS;
use super::rows::{Rows, Visible};
use super::score::KEY_VECTORS;
use crate::dispatch;
use crate::simd::{LANES, Simd};

dispatch! {
    /// Turns the scores of one page into weights, `exp(score - max)` with the maximum so far, and brings `rows` to that
    /// maximum: what was summed before is rescaled, the weights are added to the sums.
    ///
    /// `scores` is `[rows][PAGE_TOKENS]`; `visible` has one range per row; `softcap` of zero is none. `rows.out` may have
    /// any width that is a multiple of sixteen. Tokens a row does not see get a weight of exactly zero, whatever their
    /// scores; a row that sees nothing is left as it is.
    ///
    /// # Panics
    /// If the slices do not have the lengths above.
    pub fn soften(scores: &mut [f32], visible: &[Visible], softcap: f32, rows: &mut Rows<'_>) = soften_body
}

#[inline(always)]
unsafe fn soften_body<S: Simd>(scores: &mut [f32], visible: &[Visible], softcap: f32, rows: &mut Rows<'_>) {
    let count = visible.len();
    if count == 0 {
        return;
    }
    let width = rows.out.len() / count;
    assert!(scores.len() >= count * PAGE_TOKENS && width.is_multiple_of(LANES));
    assert!(rows.max.len() == count && rows.sum.len() == count && rows.out.len() == count * width);
    assert!(visible.iter().all(|v| usize::from(v.to) <= PAGE_TOKENS));
    for (row, &visible) in visible.iter().enumerate() {
        let scores = &mut scores[row * PAGE_TOKENS..][..PAGE_TOKENS];
        // SAFETY: the features are the dispatcher's business.
        unsafe {
            let factor = soften_row::<S>(scores, visible, softcap, &mut rows.max[row], &mut rows.sum[row]);
            rescale::<S>(&mut rows.out[row * width..][..width], factor);
        }
    }
}

/// Turns a row's scores into weights relative to the new maximum; returns the factor for what was summed before.
#[inline(always)]
unsafe fn soften_row<S: Simd>(scores: &mut [f32], visible: Visible, softcap: f32, max: &mut f32, sum: &mut f32) -> f32 {
    if visible.from >= visible.to {
        scores.fill(0.0);
        return 1.0;
    }
    // SAFETY: `scores` has PAGE_TOKENS elements.
    unsafe {
        // Most pages are seen wholly: nothing has to be selected there.
        let whole = visible.from == 0 && usize::from(visible.to) == PAGE_TOKENS && softcap <= 0.0;
        let (new, total) = match whole {
            true => weights::<S, true>(scores.as_mut_ptr(), visible, softcap, *max),
            false => weights::<S, false>(scores.as_mut_ptr(), visible, softcap, *max),
        };
        // The exponential of a lane, not the library's: one exp for everything. It is exactly one where the maximum stays,
        // as it does on most pages.
        let mut factor = [1.0; LANES];
        if new != *max {
            S::store(factor.as_mut_ptr(), S::exp(S::splat(*max - new)));
        }
        *sum = sum.mul_add(factor[0], total);
        *max = new;
        factor[0]
    }
}

/// Scores to weights; returns the new maximum and the sum of the weights. `WHOLE` where all tokens are seen and scores have no
/// cap.
#[inline(always)]
unsafe fn weights<S: Simd, const WHOLE: bool>(
    scores: *mut f32,
    visible: Visible,
    softcap: f32,
    max: f32,
) -> (f32, f32) {
    // SAFETY: there are PAGE_TOKENS scores.
    unsafe {
        let hidden = S::splat(f32::NEG_INFINITY);
        let bits = (u64::MAX >> (PAGE_TOKENS - usize::from(visible.to))) & (u64::MAX << visible.from);
        let mut lanes = [hidden; KEY_VECTORS];
        let mut top = S::splat(max);
        for (v, lanes) in lanes.iter_mut().enumerate() {
            let mut x = S::load(scores.add(v * LANES));
            if !WHOLE {
                if softcap > 0.0 {
                    x = S::mul(S::splat(softcap), S::tanh(S::div(x, S::splat(softcap))));
                }
                x = S::select((bits >> (v * LANES)) as u16, x, hidden);
            }
            *lanes = x;
            top = S::max(top, x);
        }
        let new = S::reduce_max(top);
        let mut total = S::splat(0.0);
        for (v, &lanes) in lanes.iter().enumerate() {
            let mut weights = S::exp(S::sub(lanes, S::splat(new)));
            if !WHOLE {
                // Selected once more: where the maximum is no number, so is the exponential of minus infinity.
                weights = S::select((bits >> (v * LANES)) as u16, weights, S::splat(0.0));
            }
            total = S::add(total, weights);
            S::store(scores.add(v * LANES), weights);
        }
        (new, S::reduce_add(total))
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
