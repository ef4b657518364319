//! Norms and element-wise operations on activations.
//!
//! All of them return the same bits on every instruction set, and an element (of a norm: a row) depends on nothing
//! beside itself. Slices that belong together have the same length; a shorter one ends the work early.

use crate::dispatch;
use crate::simd::{LANES, Simd};
use std::f32::consts::FRAC_1_SQRT_2;

dispatch! {
    /// Root-mean-square norm of rows: `out = x * (1 / sqrt(mean(x²) + eps)) * weight`.
    ///
    /// `x` and `out` are `[rows][n]`, `weight` is `[n]`. Squares are summed in sixteen lanes over ascending index.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body
}
dispatch! {
    /// `out = silu(gate) * up`, where `silu(x) = x / (1 + e^-x)`.
    pub fn silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = silu_mul_body
}
dispatch! {
    /// `out = gelu(gate) * up` with the tanh form, `gelu(x) = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    pub fn gelu_tanh_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = gelu_tanh_mul_body
}
dispatch! {
    /// `out = gelu(gate) * up` with the exact form, `gelu(x) = x/2 (1 + erf(x/√2))`.
    pub fn gelu_erf_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = gelu_erf_mul_body
}
dispatch! {
    /// `x += y`.
    pub fn add_assign(x: &mut [f32], y: &[f32]) = add_assign_body
}
dispatch! {
    /// `x *= s`.
    pub fn scale_assign(x: &mut [f32], s: f32) = scale_assign_body
}
dispatch! {
    /// `x = cap * tanh(x / cap)`, for a positive `cap`.
    pub fn softcap_assign(x: &mut [f32], cap: f32) = softcap_assign_body
}

/// Up to sixteen elements from `p`, the lanes beyond `n` zero.
#[inline(always)]
unsafe fn load_some<S: Simd>(p: *const f32, n: usize) -> S::F {
    // SAFETY: `n` elements lie there.
    unsafe {
        if n >= LANES {
            return S::load(p);
        }
        let mut lanes = [0.0f32; LANES];
        lanes.as_mut_ptr().copy_from_nonoverlapping(p, n);
        S::load(lanes.as_ptr())
    }
}

/// The first `n` lanes (at most sixteen) to `p`.
#[inline(always)]
unsafe fn store_some<S: Simd>(p: *mut f32, n: usize, x: S::F) {
    // SAFETY: there is room for `n` elements.
    unsafe {
        if n >= LANES {
            return S::store(p, x);
        }
        let mut lanes = [0.0f32; LANES];
        S::store(lanes.as_mut_ptr(), x);
        p.copy_from_nonoverlapping(lanes.as_ptr(), n);
    }
}

/// `out[i] = f(a[i], b[i])`, sixteen at a time; pointers, because `out` may be `a`.
#[inline(always)]
unsafe fn zip<S: Simd>(a: *const f32, b: *const f32, out: *mut f32, n: usize, f: impl Fn(S::F, S::F) -> S::F) {
    // SAFETY: `n` elements lie at each, by the caller's promise.
    unsafe {
        let mut i = 0;
        while i < n {
            let left = n - i;
            let y = f(load_some::<S>(a.add(i), left), load_some::<S>(b.add(i), left));
            store_some::<S>(out.add(i), left, y);
            i += LANES;
        }
    }
}

#[inline(always)]
unsafe fn rms_norm_body<S: Simd>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    if n == 0 {
        return;
    }
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        // SAFETY: all three have `n` elements.
        unsafe {
            let mut squares = S::splat(0.0);
            let mut i = 0;
            while i < n {
                let x = load_some::<S>(x.as_ptr().add(i), n - i);
                squares = S::fma(x, x, squares);
                i += LANES;
            }
            let scale = S::splat(1.0 / (S::reduce_add(squares) / n as f32 + eps).sqrt());
            zip::<S>(x.as_ptr(), weight.as_ptr(), out.as_mut_ptr(), n, |x, w| S::mul(S::mul(x, scale), w));
        }
    }
}

/// `1 / (1 + e^-x)`, by way of `e^-|x|`, which never overflows.
#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::F) -> S::F {
    // SAFETY: the caller has the instruction set.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        let e = S::exp(S::sub(zero, S::abs(x)));
        S::div(S::select(S::lt(x, zero), e, one), S::add(one, e))
    }
}

#[inline(always)]
unsafe fn gated<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32], f: impl Fn(S::F) -> S::F) {
    let n = gate.len().min(up.len()).min(out.len());
    // SAFETY: all have at least `n` elements.
    unsafe { zip::<S>(gate.as_ptr(), up.as_ptr(), out.as_mut_ptr(), n, |gate, up| S::mul(f(gate), up)) }
}

#[inline(always)]
unsafe fn silu_mul_body<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: the caller has the instruction set.
    unsafe { gated::<S>(gate, up, out, |x| S::mul(x, sigmoid::<S>(x))) }
}

#[inline(always)]
unsafe fn gelu_tanh_mul_body<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: as above.
    unsafe {
        gated::<S>(gate, up, out, |x| {
            // (1 + tanh u) / 2 is the sigmoid of 2u, which loses nothing where tanh is close to -1.
            let cubic = S::mul(S::mul(x, x), S::mul(x, S::splat(0.044_715)));
            let twice = S::mul(S::splat(2.0 * 0.797_884_6), S::add(x, cubic));
            S::mul(x, sigmoid::<S>(twice))
        })
    }
}

#[inline(always)]
unsafe fn gelu_erf_mul_body<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    // SAFETY: as above.
    unsafe {
        gated::<S>(gate, up, out, |x| {
            // Half of erfc(|x|/√2), Abramowitz and Stegun 7.1.26: the weight of the tail beyond |x|.
            let z = S::mul(S::abs(x), S::splat(FRAC_1_SQRT_2));
            let t = S::div(S::splat(1.0), S::fma(z, S::splat(0.327_591_1), S::splat(1.0)));
            let mut p = S::splat(1.061_405_4);
            for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
                p = S::fma(p, t, S::splat(c));
            }
            let tail = S::mul(S::mul(p, t), S::exp(S::sub(S::splat(0.0), S::mul(z, z))));
            let tail = S::mul(S::splat(0.5), tail);
            let below = S::lt(x, S::splat(0.0));
            S::mul(x, S::select(below, tail, S::sub(S::splat(1.0), tail)))
        })
    }
}

#[inline(always)]
unsafe fn add_assign_body<S: Simd>(x: &mut [f32], y: &[f32]) {
    let n = x.len().min(y.len());
    let x = x.as_mut_ptr();
    // SAFETY: both have at least `n` elements; each element of `x` is read before it is written.
    unsafe { zip::<S>(x, y.as_ptr(), x, n, |x, y| S::add(x, y)) }
}

#[inline(always)]
unsafe fn scale_assign_body<S: Simd>(x: &mut [f32], s: f32) {
    let (n, x) = (x.len(), x.as_mut_ptr());
    // SAFETY: as above.
    unsafe { zip::<S>(x, x, x, n, |x, _| S::mul(x, S::splat(s))) }
}

#[inline(always)]
unsafe fn softcap_assign_body<S: Simd>(x: &mut [f32], cap: f32) {
    let (n, x) = (x.len(), x.as_mut_ptr());
    // SAFETY: as above.
    unsafe { zip::<S>(x, x, x, n, |x, _| S::mul(S::splat(cap), S::tanh(S::div(x, S::splat(cap))))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    const EDGES: [f32; 18] =
        [0.0, -0.0, 1e-40, -1e-40, 1e-8, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 9.5, -9.5, 30.0, -30.0, 87.0, -100.0, 1e20];

    /// Dense around zero, then the edges.
    fn inputs() -> Vec<f32> {
        (-1203..1200).map(|i| i as f32 / 100.0).chain(EDGES).collect()
    }

    /// erf by its series, or by the continued fraction of erfc where that cancels.
    fn erf(x: f64) -> f64 {
        if x.abs() > 3.0 {
            let z = x.abs();
            let fraction = (1..200).rev().fold(z, |f, k| z + f64::from(k) / 2.0 / f);
            return x.signum() * (1.0 - (-z * z).exp() / fraction / std::f64::consts::PI.sqrt());
        }
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    type Gated = fn(Isa, &[f32], &[f32], &mut [f32]);
    type Exact<'a> = &'a dyn Fn(f64) -> f64;

    #[test]
    fn gates_are_close_to_the_exact_functions_and_the_same_everywhere() {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu_tanh =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        let gelu_erf = |x: f64| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()));
        let all: [(&str, Gated, Exact); 3] = [
            ("silu", silu_mul, &silu),
            ("gelu_tanh", gelu_tanh_mul, &gelu_tanh),
            ("gelu_erf", gelu_erf_mul, &gelu_erf),
        ];
        let gate = inputs();
        let up: Vec<f32> = (0..gate.len()).map(|i| [1.0, -0.75, 2.0][i % 3]).collect();
        for (name, ours, exact) in all {
            let mut first = vec![f32::NAN; gate.len()];
            ours(Isa::Portable, &gate, &up, &mut first);
            for ((x, up), y) in gate.iter().zip(&up).zip(&first) {
                let expected = exact(f64::from(*x)) * f64::from(*up);
                let error = (f64::from(*y) - expected).abs();
                assert!(error <= 1e-6 * expected.abs().max(1.0), "{name}({x}) * {up} is {y}, not {expected}");
            }
            for isa in Isa::available() {
                // Odd starts and lengths: the tail must not differ from the middle.
                for (start, end) in [(0, gate.len()), (3, 20), (7, 8), (5, 5)] {
                    let mut y = vec![f32::NAN; end - start];
                    ours(isa, &gate[start..end], &up[start..end], &mut y);
                    let same = y.iter().zip(&first[start..end]).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{name} on {isa}, {start}..{end}");
                }
            }
        }
    }

    #[test]
    fn gates_pass_nan_on() {
        for isa in Isa::available() {
            for gated in [silu_mul, gelu_tanh_mul, gelu_erf_mul] {
                let mut y = [0.0; 2];
                gated(isa, &[f32::NAN, 1.0], &[1.0, f32::NAN], &mut y);
                assert!(y.iter().all(|y| y.is_nan()), "{isa}");
            }
        }
    }

    #[test]
    fn norms_are_exact_to_rounding_and_rows_stand_alone() {
        for n in [1, 2, 15, 16, 17, 64, 576, 1003] {
            let rows = 5;
            let x: Vec<f32> =
                (0..rows * n).map(|i| ((i * 7919 % 1009) as f32 / 1009.0 - 0.4) * (1 + i / n) as f32).collect();
            let weight: Vec<f32> = (0..n).map(|i| 0.5 + (i % 13) as f32 / 13.0).collect();
            let eps = 1e-5f32;
            let mut first = vec![f32::NAN; rows * n];
            rms_norm(Isa::Portable, &x, &weight, eps, &mut first);
            for (x, y) in x.chunks(n).zip(first.chunks(n)) {
                let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
                let scale = 1.0 / (mean + f64::from(eps)).sqrt();
                for ((x, w), y) in x.iter().zip(&weight).zip(y) {
                    let expected = f64::from(*x) * scale * f64::from(*w);
                    let bound = expected.abs() * (n.div_ceil(16) + 16) as f64 * f64::from(f32::EPSILON);
                    assert!((f64::from(*y) - expected).abs() <= bound, "{y} is not {expected}, n = {n}");
                }
            }
            for isa in Isa::available() {
                let mut y = vec![f32::NAN; n];
                for row in 0..rows {
                    rms_norm(isa, &x[row * n..(row + 1) * n], &weight, eps, &mut y);
                    let same = y.iter().zip(&first[row * n..]).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "row {row} of {n} on {isa}");
                }
            }
        }
    }

    #[test]
    fn sums_scales_and_caps() {
        let x = inputs();
        let y: Vec<f32> = x.iter().rev().copied().collect();
        for isa in Isa::available() {
            let (mut sum, mut scaled, mut capped) = (x.clone(), x.clone(), x.clone());
            add_assign(isa, &mut sum, &y);
            scale_assign(isa, &mut scaled, 0.3);
            softcap_assign(isa, &mut capped, 30.0);
            let mut portable = x.clone();
            softcap_assign(Isa::Portable, &mut portable, 30.0);
            for i in 0..x.len() {
                assert_eq!(sum[i].to_bits(), (x[i] + y[i]).to_bits());
                assert_eq!(scaled[i].to_bits(), (x[i] * 0.3).to_bits());
                assert_eq!(capped[i].to_bits(), portable[i].to_bits(), "{isa}");
                let exact = 30.0 * (f64::from(x[i]) / 30.0).tanh();
                assert!((f64::from(capped[i]) - exact).abs() < 1e-5, "{} is not {exact}", capped[i]);
            }
        }
    }
}
