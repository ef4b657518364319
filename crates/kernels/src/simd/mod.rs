//! Sixteen lanes of `f32` and `i32`, the same operations on every instruction set.
//!
//! A kernel written against [`Simd`] returns the same bits on all of them: each operation is exactly rounded
//! (IEEE-754) or integer, and reductions have one fixed tree. What differs is only the speed.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::both;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use portable::Portable;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen-lane vector operations of one instruction set.
///
/// # Safety
/// Every method may only be called where the processor has the instruction set (see [`crate::dispatch`]);
/// pointers must be valid for the sixteen elements (or 64 bytes) they name, unaligned is fine.
#[allow(missing_docs, clippy::missing_safety_doc)]
pub trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen `f32`.
    type F: Copy;
    /// Sixteen `i32`.
    type I: Copy;
    /// Sixteen-lane vectors the register file holds: what a kernel may keep alive without spilling.
    const REGISTERS: usize;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(p: *const f32) -> Self::F;
    unsafe fn store(p: *mut f32, x: Self::F);
    /// Sixteen IEEE half floats, widened exactly.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Sixteen bfloat16, widened exactly.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// Sixteen E4M3 floats of eight bits, widened exactly; see [`crate::float8`].
    unsafe fn load_e4m3(p: *const u8) -> Self::F;
    /// Sixteen E5M2 floats of eight bits, widened exactly.
    unsafe fn load_e5m2(p: *const u8) -> Self::F;
    /// Rounds to nearest even half floats.
    unsafe fn store_f16(p: *mut u16, x: Self::F);

    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c` rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `b` where either is NaN (the x86 rule).
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `b` where either is NaN (the x86 rule).
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    unsafe fn sqrt(a: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// `2^n` for integer-valued `n` in `-126..=127`.
    unsafe fn exp2i(n: Self::F) -> Self::F;
    /// `a * 2^n` for integer-valued `n` in `-126..=127`, where that is no subnormal number.
    #[inline(always)]
    unsafe fn scale2(a: Self::F, n: Self::F) -> Self::F {
        // SAFETY: same contract as the caller's.
        unsafe { Self::mul(a, Self::exp2i(n)) }
    }
    /// Lane `i` of `a` where bit `i` is set, else of `b`.
    unsafe fn select(mask: u16, a: Self::F, b: Self::F) -> Self::F;
    /// The lanes whose bit is set, one after the other from the first lane on; zero behind them.
    #[inline(always)]
    unsafe fn compress(mask: u16, a: Self::F) -> Self::F {
        let (mut from, mut to, mut n) = ([0.0; LANES], [0.0; LANES], 0);
        // SAFETY: same contract as the caller's; the arrays have sixteen elements.
        unsafe {
            Self::store(from.as_mut_ptr(), a);
            for (i, x) in from.into_iter().enumerate() {
                if mask >> i & 1 == 1 {
                    to[n] = x;
                    n += 1;
                }
            }
            Self::load(to.as_ptr())
        }
    }
    /// The first lanes, one after the other, in the lanes whose bit is set; zero in the others.
    #[inline(always)]
    unsafe fn decompress(mask: u16, a: Self::F) -> Self::F {
        let (mut from, mut to, mut n) = ([0.0; LANES], [0.0; LANES], 0);
        // SAFETY: same contract as the caller's; the arrays have sixteen elements.
        unsafe {
            Self::store(from.as_mut_ptr(), a);
            for (i, to) in to.iter_mut().enumerate() {
                if mask >> i & 1 == 1 {
                    *to = from[n];
                    n += 1;
                }
            }
            Self::load(to.as_ptr())
        }
    }
    /// Bit `i` set where `a < b` in lane `i`.
    unsafe fn lt(a: Self::F, b: Self::F) -> u16;
    /// Sum of lanes: `i + (i+8)`, then `+4`, `+2`, `+1`.
    unsafe fn reduce_add(a: Self::F) -> f32;
    /// Maximum of lanes, in the same tree.
    unsafe fn reduce_max(a: Self::F) -> f32;

    unsafe fn isplat(x: i32) -> Self::I;
    unsafe fn iload(p: *const i32) -> Self::I;
    unsafe fn istore(p: *mut i32, x: Self::I);
    unsafe fn iadd(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn isub(a: Self::I, b: Self::I) -> Self::I;
    /// `a * 256`.
    unsafe fn shl8(a: Self::I) -> Self::I;
    /// `a / 256`, rounded down.
    unsafe fn sar8(a: Self::I) -> Self::I;
    /// Exact to 24 bits, then rounded to nearest even.
    unsafe fn to_f32(a: Self::I) -> Self::F;
    /// Of an integer-valued vector within `i32`.
    unsafe fn to_i32(a: Self::F) -> Self::I;
    /// To the nearest integer, ties to even, within `i32`.
    unsafe fn round_to_i32(a: Self::F) -> Self::I;
    /// The bits of `|a|`, which are ordered as the numbers are: infinity after all finite ones, then NaN.
    unsafe fn abs_bits(a: Self::F) -> Self::I;
    unsafe fn imax(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn ireduce_max(a: Self::I) -> i32;
    /// 64 bytes as they lie in memory.
    unsafe fn load_bytes(p: *const u8) -> Self::I;
    /// The low nibbles of 64 packed bytes, each in a byte of its own.
    unsafe fn low_nibbles(a: Self::I) -> Self::I;
    /// The high nibbles of 64 packed bytes, each in a byte of its own.
    unsafe fn high_nibbles(a: Self::I) -> Self::I;
    /// `BITS` bits of each byte from bit `FROM`, moved to bit `TO`; the rest zero. Both places lie within a byte.
    unsafe fn field<const FROM: u32, const BITS: u32, const TO: u32>(a: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// Each lane moved right by `bits`, below 32; zeros come in.
    unsafe fn shr(a: Self::I, bits: u32) -> Self::I;
    /// A table of sixteen bytes, for [`Simd::lookup`].
    unsafe fn load_table(p: *const u8) -> Self::I;
    /// `table[i]` of each byte `i`, all of them below sixteen.
    unsafe fn lookup(table: Self::I, i: Self::I) -> Self::I;
    /// The lowest byte of each lane.
    unsafe fn low_byte(a: Self::I) -> Self::I;
    /// Per lane: `acc + Σ_{b<4} w.u8[b] * x.i8[b]`, exact.
    unsafe fn dot_u8i8(acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// As [`Simd::dot_u8i8`], exact where no byte of `w` exceeds 128 and none of `x` is -128.
    unsafe fn dot_small(acc: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// As [`Simd::dot_u8i8`] where no byte of `w` exceeds fifteen, in partial sums: at most eight of them, from zero.
    unsafe fn dot_tiny(partial: Self::I, w: Self::I, x: Self::I) -> Self::I;
    /// `acc` and the sum in each lane of what [`Simd::dot_tiny`] added up.
    unsafe fn add_tiny(acc: Self::I, partial: Self::I) -> Self::I;
    /// Each lane's low byte, sixteen bytes in order.
    unsafe fn store_bytes(p: *mut i8, x: Self::I);
    /// Sum of lanes, wrapping.
    unsafe fn ireduce_add(a: Self::I) -> i32;

    /// `e^x` within 2 ulp for `x` in `-87..=88`; exactly 0 below -87.3, clamped above 88, NaN of NaN.
    #[inline(always)]
    unsafe fn exp(x: Self::F) -> Self::F {
        // SAFETY: same contract as the caller's.
        unsafe {
            let low = Self::splat(-87.3);
            let under = Self::lt(x, low);
            // In this order NaN passes through: the second operand wins.
            let x = Self::min(Self::splat(88.0), Self::max(low, x));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            // ln 2 in two parts, so that `x - n ln 2` keeps its low bits.
            let r = Self::fma(n, Self::splat(-0.693_359_4), x);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 5e-1] {
                p = Self::fma(p, r, Self::splat(c));
            }
            let p = Self::fma(p, Self::mul(r, r), Self::add(r, Self::splat(1.0)));
            Self::select(under, Self::splat(0.0), Self::scale2(p, n))
        }
    }

    /// `tanh x`, absolute error below 2e-7.
    #[inline(always)]
    unsafe fn tanh(x: Self::F) -> Self::F {
        // SAFETY: same contract as the caller's.
        unsafe {
            let x = Self::min(Self::splat(20.0), Self::max(Self::splat(-20.0), x));
            let e = Self::exp(Self::add(x, x));
            let one = Self::splat(1.0);
            Self::sub(one, Self::div(Self::splat(2.0), Self::add(e, one)))
        }
    }
}
