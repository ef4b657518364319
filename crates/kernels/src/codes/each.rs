//! What the lanes of several vectors come to, each vector's in a lane of the result, bit by bit as one after the other.

use crate::simd::{LANES, Portable, Simd};
#[cfg(target_arch = "x86_64")]
use {
    crate::simd::{Avx2, Avx512},
    std::arch::x86_64::*,
};

/// Lane `i` of each result is what the lanes of vector `i` come to, of one to four; lanes beyond hold anything.
#[allow(clippy::missing_safety_doc)]
pub(super) trait Each: Simd {
    /// As [`Simd::reduce_add`].
    #[inline(always)]
    unsafe fn each_add<const N: usize>(a: &[Self::F; N]) -> Self::F {
        let mut each = [0.0; LANES];
        // SAFETY: as for `Simd`; there are sixteen elements.
        unsafe {
            for (each, &a) in each.iter_mut().zip(a) {
                *each = Self::reduce_add(a);
            }
            Self::load(each.as_ptr())
        }
    }
    /// As [`Simd::ireduce_max`].
    #[inline(always)]
    unsafe fn each_max<const N: usize>(a: &[Self::I; N]) -> Self::I {
        let mut each = [0; LANES];
        // SAFETY: as above.
        unsafe {
            for (each, &a) in each.iter_mut().zip(a) {
                *each = Self::ireduce_max(a);
            }
            Self::iload(each.as_ptr())
        }
    }
    /// As [`Simd::ireduce_add`].
    #[inline(always)]
    unsafe fn each_sum<const N: usize>(a: &[Self::I; N]) -> Self::I {
        let mut each = [0; LANES];
        // SAFETY: as above.
        unsafe {
            for (each, &a) in each.iter_mut().zip(a) {
                *each = Self::ireduce_add(a);
            }
            Self::iload(each.as_ptr())
        }
    }
}

impl Each for Portable {}
#[cfg(target_arch = "x86_64")]
impl Each for Avx2 {}

/// Halves of vectors are joined while they are folded, so that a step serves two vectors, then four. No closures, which would
/// be compiled without the instruction set's features.
#[cfg(target_arch = "x86_64")]
macro_rules! each {
    ($name:ident, $vector:ty, $join:ident, $floats:ident, $vectors:ident) => {
        #[inline(always)]
        unsafe fn $name<const N: usize>(a: &[$vector; N]) -> $vector {
            /// Joins what two selections of 128 bits each, or of lanes in each 128 bits, take of both.
            macro_rules! join {
                ($shuffle:ident, $x:expr, $y:expr, $first:literal, $second:literal) => {{
                    let (x, y) = ($floats($x), $floats($y));
                    $join($vectors($shuffle::<$first>(x, y)), $vectors($shuffle::<$second>(x, y)))
                }};
            }
            // SAFETY: the features are the dispatcher's business.
            unsafe {
                let last = N - 1;
                let ab = join!(_mm512_shuffle_f32x4, a[0], a[1.min(last)], 0b_01_00_01_00, 0b_11_10_11_10);
                let cd = join!(_mm512_shuffle_f32x4, a[2.min(last)], a[last], 0b_01_00_01_00, 0b_11_10_11_10);
                let all = join!(_mm512_shuffle_f32x4, ab, cd, 0b_10_00_10_00, 0b_11_01_11_01);
                let two = join!(_mm512_shuffle_ps, all, all, 0b_01_00_01_00, 0b_11_10_11_10);
                let one = join!(_mm512_shuffle_ps, two, two, 0b_10_00_10_00, 0b_11_01_11_01);
                let first = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
                $vectors(_mm512_permutexvar_ps(first, $floats(one)))
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
impl Each for Avx512 {
    each!(each_add, __m512, _mm512_add_ps, same, same);
    each!(each_max, __m512i, _mm512_max_epi32, _mm512_castsi512_ps, _mm512_castps_si512);
    each!(each_sum, __m512i, _mm512_add_epi32, _mm512_castsi512_ps, _mm512_castps_si512);
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn same(a: __m512) -> __m512 {
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, dispatch};

    dispatch! {
        fn sums(a: &[[f32; LANES]; 4], out: &mut [[f32; LANES]; 4]) = sums_body
    }

    #[inline(always)]
    unsafe fn sums_body<S: Each>(a: &[[f32; LANES]; 4], out: &mut [[f32; LANES]; 4]) {
        // SAFETY: there are sixteen elements each.
        unsafe {
            let (mut floats, mut bits) = ([S::splat(0.0); 4], [S::isplat(0); 4]);
            for (i, a) in a.iter().enumerate() {
                (floats[i], bits[i]) = (S::load(a.as_ptr()), S::iload(a.as_ptr().cast()));
            }
            let three = [floats[0], floats[1], floats[2]];
            S::store(out[0].as_mut_ptr(), S::each_add(&floats));
            S::store(out[1].as_mut_ptr(), S::each_add(&three));
            S::istore(out[2].as_mut_ptr().cast(), S::each_max(&bits));
            S::istore(out[3].as_mut_ptr().cast(), S::each_sum(&bits));
        }
    }

    #[test]
    fn each_lane_is_what_its_vector_comes_to() {
        let noise = |i: usize, k: usize| ((i * 31 + k * 17) * 7919 % 1009) as f32 / 100.9 - 5.0;
        let a: [[f32; LANES]; 4] = std::array::from_fn(|i| std::array::from_fn(|k| noise(i, k)));
        for isa in Isa::available() {
            let mut got = [[0.0; LANES]; 4];
            sums(isa, &a, &mut got);
            for (i, a) in a.iter().enumerate() {
                let mut tree = *a;
                for half in [8, 4, 2, 1] {
                    (0..half).for_each(|k| tree[k] += tree[k + half]);
                }
                let bits = || a.iter().map(|x| x.to_bits() as i32);
                assert_eq!(got[0][i].to_bits(), tree[0].to_bits(), "{isa} {i}");
                assert!(i >= 3 || got[1][i].to_bits() == tree[0].to_bits(), "{isa} {i} of three");
                assert_eq!(Some(got[2][i].to_bits() as i32), bits().max(), "{isa} {i}");
                assert_eq!(got[3][i].to_bits() as i32, bits().fold(0, i32::wrapping_add), "{isa} {i}");
            }
        }
    }
}
