//! Plain Rust over arrays of sixteen, in loops the compiler can vectorize.

use super::{LANES, Simd};
use crate::float8;
use half::{bf16, f16};

/// The instruction set every machine has.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

type F = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn map(a: F, f: impl Fn(f32) -> f32) -> F {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip(a: F, b: F, f: impl Fn(f32, f32) -> f32) -> F {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn reduce(mut a: F, f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            a[i] = f(a[i], a[i + width]);
        }
    }
    a[0]
}

#[inline(always)]
fn map_bytes(a: I, f: impl Fn(u8) -> u8) -> I {
    a.map(|x| i32::from_le_bytes(x.to_le_bytes().map(&f)))
}

// SAFETY of all bodies: pointers are valid for sixteen elements by the trait's contract.
impl Simd for Portable {
    type F = F;
    type I = I;
    const REGISTERS: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        unsafe { p.cast::<F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|x| f16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|x| bf16::from_bits(x).to_f32())
    }
    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> F {
        unsafe { p.cast::<[u8; LANES]>().read_unaligned() }.map(float8::e4m3_to_f32)
    }
    #[inline(always)]
    unsafe fn load_e5m2(p: *const u8) -> F {
        unsafe { p.cast::<[u8; LANES]>().read_unaligned() }.map(float8::e5m2_to_f32)
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(x.map(|x| f16::from_f32(x).to_bits())) }
    }
    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: F) -> F {
        map(a, f32::abs)
    }
    #[inline(always)]
    unsafe fn sqrt(a: F) -> F {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    unsafe fn round(a: F) -> F {
        map(a, f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn exp2i(n: F) -> F {
        map(n, |n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn select(mask: u16, a: F, b: F) -> F {
        std::array::from_fn(|i| if mask >> i & 1 == 1 { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn lt(a: F, b: F) -> u16 {
        (0..LANES).fold(0, |mask, i| mask | u16::from(a[i] < b[i]) << i)
    }
    #[inline(always)]
    unsafe fn reduce_add(a: F) -> f32 {
        reduce(a, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn reduce_max(a: F) -> f32 {
        reduce(a, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn isplat(x: i32) -> I {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn iload(p: *const i32) -> I {
        unsafe { p.cast::<I>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn istore(p: *mut i32, x: I) {
        unsafe { p.cast::<I>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn iadd(a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn isub(a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
    }
    #[inline(always)]
    unsafe fn shl8(a: I) -> I {
        a.map(|x| x << 8)
    }
    #[inline(always)]
    unsafe fn sar8(a: I) -> I {
        a.map(|x| x >> 8)
    }
    #[inline(always)]
    unsafe fn to_f32(a: I) -> F {
        a.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn to_i32(a: F) -> I {
        a.map(|x| x as i32)
    }
    #[inline(always)]
    unsafe fn round_to_i32(a: F) -> I {
        a.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn abs_bits(a: F) -> I {
        a.map(|x| x.abs().to_bits() as i32)
    }
    #[inline(always)]
    unsafe fn imax(a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    unsafe fn ireduce_max(a: I) -> i32 {
        a.iter().fold(i32::MIN, |max, x| max.max(*x))
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> I {
        unsafe { p.cast::<[[u8; 4]; LANES]>().read_unaligned() }.map(i32::from_le_bytes)
    }
    #[inline(always)]
    unsafe fn low_nibbles(a: I) -> I {
        map_bytes(a, |b| b & 15)
    }
    #[inline(always)]
    unsafe fn high_nibbles(a: I) -> I {
        map_bytes(a, |b| b >> 4)
    }
    #[inline(always)]
    unsafe fn field<const FROM: u32, const BITS: u32, const TO: u32>(a: I) -> I {
        map_bytes(a, |b| (b >> FROM & (u8::MAX >> (8 - BITS))) << TO)
    }
    #[inline(always)]
    unsafe fn shr(a: I, bits: u32) -> I {
        a.map(|a| (a as u32 >> bits) as i32)
    }
    #[inline(always)]
    unsafe fn or(a: I, b: I) -> I {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn load_table(p: *const u8) -> I {
        let quarter = unsafe { p.cast::<[[u8; 4]; 4]>().read_unaligned() }.map(i32::from_le_bytes);
        std::array::from_fn(|i| quarter[i % 4])
    }
    #[inline(always)]
    unsafe fn lookup(table: I, i: I) -> I {
        map_bytes(i, |b| table[usize::from(b >> 2 & 3)].to_le_bytes()[usize::from(b & 3)])
    }
    #[inline(always)]
    unsafe fn low_byte(a: I) -> I {
        a.map(|x| x & 0xff)
    }
    #[inline(always)]
    unsafe fn dot_u8i8(acc: I, w: I, x: I) -> I {
        std::array::from_fn(|i| {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            (0..4).fold(acc[i], |acc, b| acc.wrapping_add(i32::from(w[b]) * i32::from(x[b] as i8)))
        })
    }
    #[inline(always)]
    unsafe fn dot_small(acc: I, w: I, x: I) -> I {
        unsafe { Self::dot_u8i8(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_tiny(partial: I, w: I, x: I) -> I {
        unsafe { Self::dot_small(partial, w, x) }
    }
    #[inline(always)]
    unsafe fn add_tiny(acc: I, partial: I) -> I {
        unsafe { Self::iadd(acc, partial) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i8, x: I) {
        unsafe { p.cast::<[i8; LANES]>().write_unaligned(x.map(|x| x as i8)) }
    }
    #[inline(always)]
    unsafe fn ireduce_add(a: I) -> i32 {
        a.iter().fold(0, |sum: i32, x| sum.wrapping_add(*x))
    }
}
