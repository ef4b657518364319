//! How the parameters of groups are kept in a page.

use super::float8::{Float8, exponent, power_of_two};
use cachalot_kernels::Isa;
use cachalot_kernels::simd::{LANES, Simd};
use half::{bf16, f16};
use std::fmt;

/// The type a scale, an offset or a zero point is stored in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Store {
    /// IEEE half floats, clamped to the finite ones.
    F16,
    /// bfloat16.
    Bf16,
    /// Single precision.
    F32,
    /// Powers of two times a constant: `2^(byte - 127) * unit`. Others round up.
    E8m0 {
        /// What 2^0 stands for.
        unit: f32,
    },
    /// Eight-bit floats times a constant.
    E4m3 {
        /// What 1 stands for.
        unit: f32,
    },
    /// Whole numbers of 16 bits.
    I16,
}

impl Store {
    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Store::F32 => 4,
            Store::F16 | Store::Bf16 | Store::I16 => 2,
            Store::E8m0 { .. } | Store::E4m3 { .. } => 1,
        }
    }

    /// What is read back where `x`, finite, is written: always finite.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Store::F32 => x,
            Store::F16 => half(x).to_f32(),
            Store::Bf16 => brain(x).to_f32(),
            Store::E8m0 { unit } => power(byte_of_power(x, unit), unit),
            Store::E4m3 { unit } => Float8::E4m3.decode(Float8::E4m3.encode(x / unit)) * unit,
            Store::I16 => f32::from(x.round_ties_even() as i16),
        }
    }

    /// Writes values, [`Store::bytes`] each.
    pub fn write(self, values: &[f32], to: &mut [u8]) {
        for (&x, to) in values.iter().zip(to.chunks_exact_mut(self.bytes())) {
            match self {
                Store::F32 => to.copy_from_slice(&x.to_le_bytes()),
                Store::F16 => to.copy_from_slice(&half(x).to_le_bytes()),
                Store::Bf16 => to.copy_from_slice(&brain(x).to_le_bytes()),
                Store::E8m0 { unit } => to[0] = byte_of_power(x, unit),
                Store::E4m3 { unit } => to[0] = Float8::E4m3.encode(x / unit),
                Store::I16 => to.copy_from_slice(&(x.round_ties_even() as i16).to_le_bytes()),
            }
        }
    }

    /// Reads as many values as `to` holds; the same bits on every instruction set.
    pub fn read(self, isa: Isa, from: &[u8], to: &mut [f32]) {
        let from = &from[..self.bytes() * to.len()];
        match self {
            Store::F16 => widen_f16(isa, from, to),
            Store::Bf16 => {
                each(from, to, |b: [u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16));
            }
            Store::F32 => each(from, to, f32::from_le_bytes),
            Store::I16 => each(from, to, |b: [u8; 2]| f32::from(i16::from_le_bytes(b))),
            Store::E8m0 { unit } => each(from, to, |[b]: [u8; 1]| power(b, unit)),
            Store::E4m3 { unit } => widen_e4m3(isa, from, unit, to),
        }
    }

    /// Steps up to which a zero point is stored to a step or better.
    pub(super) fn whole_steps(self) -> f32 {
        match self {
            Store::F16 => 2048.0,
            Store::Bf16 => 256.0,
            Store::I16 => 32000.0,
            _ => 1_048_576.0,
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Store::F16 => f.write_str("f16"),
            Store::Bf16 => f.write_str("bf16"),
            Store::F32 => f.write_str("f32"),
            Store::I16 => f.write_str("i16"),
            Store::E8m0 { .. } => f.write_str("e8m0"),
            Store::E4m3 { .. } => f.write_str("e4m3"),
        }
    }
}

fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0))
}

fn brain(x: f32) -> bf16 {
    // Only the last half step before the largest float would round to infinity.
    bf16::from_f32(x.clamp(-3.38e38, 3.38e38))
}

/// The smallest power of two from `x / unit` up.
fn byte_of_power(x: f32, unit: f32) -> u8 {
    let ratio = (x / unit).max(0.0);
    match exponent(ratio) {
        -127 => u8::from(ratio > power_of_two(-127)),
        e => (e + 127 + i32::from(ratio.to_bits() & 0x7f_ffff != 0)).min(254) as u8,
    }
}

fn power(byte: u8, unit: f32) -> f32 {
    power_of_two(i32::from(byte) - 127) * unit
}

fn each<const N: usize>(from: &[u8], to: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (from, to) in from.as_chunks::<N>().0.iter().zip(to) {
        *to = value(*from);
    }
}

cachalot_kernels::dispatch! {
    fn widen_f16(from: &[u8], to: &mut [f32]) = widen_f16_body
}

/// # Safety
/// `S`'s instructions are present.
#[inline(always)]
unsafe fn widen_f16_body<S: Simd>(from: &[u8], to: &mut [f32]) {
    let whole = to.len() / LANES * LANES;
    for (from, to) in from.chunks_exact(2 * LANES).zip(to.chunks_exact_mut(LANES)) {
        // SAFETY: sixteen half floats are read and sixteen floats written, at any alignment.
        unsafe { S::store(to.as_mut_ptr(), S::load_f16(from.as_ptr().cast())) };
    }
    each(&from[2 * whole..], &mut to[whole..], |b: [u8; 2]| f16::from_le_bytes(b).to_f32());
}

cachalot_kernels::dispatch! {
    fn widen_e4m3(from: &[u8], unit: f32, to: &mut [f32]) = widen_e4m3_body
}

/// # Safety
/// `S`'s instructions are present.
#[inline(always)]
unsafe fn widen_e4m3_body<S: Simd>(from: &[u8], unit: f32, to: &mut [f32]) {
    let whole = to.len() / LANES * LANES;
    for (from, to) in from.chunks_exact(LANES).zip(to.chunks_exact_mut(LANES)) {
        // SAFETY: sixteen bytes are read and sixteen floats written, at any alignment.
        unsafe { S::store(to.as_mut_ptr(), S::mul(S::load_e4m3(from.as_ptr()), S::splat(unit))) };
    }
    each(&from[whole..], &mut to[whole..], |[b]: [u8; 1]| Float8::E4m3.decode(b) * unit);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Store; 6] =
        [Store::F16, Store::Bf16, Store::F32, Store::E8m0 { unit: 0.5 }, Store::E4m3 { unit: 0.25 }, Store::I16];

    #[test]
    fn what_is_rounded_is_what_is_read_on_every_instruction_set() {
        let values: Vec<f32> = (0..83).map(|i| 1.37f32.powi(i - 40) * if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        for store in ALL {
            let values: Vec<f32> = values.iter().map(|&x| if store.bytes() == 1 { x.abs() } else { x }).collect();
            let mut page = vec![0; store.bytes() * values.len()];
            store.write(&values, &mut page);
            for isa in Isa::available() {
                let mut back = vec![f32::NAN; values.len()];
                store.read(isa, &page, &mut back);
                for (&x, back) in values.iter().zip(back) {
                    assert_eq!(store.round(x), back, "{store} {x} {isa}");
                    assert!(back.is_finite());
                    assert_eq!(store.round(back), back, "{store} rounds once");
                }
            }
        }
    }

    #[test]
    fn powers_of_two_round_up_and_extremes_stay_finite() {
        let power = Store::E8m0 { unit: 1.0 };
        assert_eq!([1.0, 1.1, 0.75, 2.0].map(|x| power.round(x)), [1.0, 2.0, 1.0, 2.0]);
        assert_eq!([0.0, 1e-45, 1e-38].map(|x| power.round(x)), [-127, -127, -126].map(|e| 2f32.powi(e)));
        for store in ALL {
            for x in [f32::MAX, 1e9, 65520.0, f32::MIN_POSITIVE, 1e-45, 0.0] {
                assert!(store.round(x).is_finite(), "{store} {x}");
            }
        }
        assert_eq!(Store::F16.round(1e9), 65504.0);
        assert_eq!(Store::E4m3 { unit: 0.25 }.round(1e9), 112.0);
    }
}
