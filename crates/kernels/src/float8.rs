//! Floats of eight bits (OCP 8-bit floating point specification; Micikevicius et al., 2022): E4M3 in the variant without
//! infinities, largest 448, not-a-number 0x7f; E5M2 like a half float cut short, largest 57344.
//!
//! Written to the nearest, ties to even, and saturating: what is larger than the largest number becomes it, infinities
//! too. Not-a-number stays that.

const E4M3: Kind = Kind { mantissa: 3, bias: 7, largest: 0x7e, nan: 0x7f };
const E5M2: Kind = Kind { mantissa: 2, bias: 15, largest: 0x7b, nan: 0x7f };

struct Kind {
    /// Bits.
    mantissa: u32,
    bias: u32,
    /// Code of the largest number.
    largest: u32,
    nan: u32,
}

impl Kind {
    #[inline(always)]
    fn encode(&self, x: f32) -> u8 {
        /// Bits of an `f32` mantissa, and what its exponent counts from.
        const MANTISSA: u32 = 23;
        const BIAS: u32 = 127;
        let sign = x.to_bits() >> 24 & 0x80;
        let magnitude = x.abs();
        let bits = magnitude.to_bits();
        let shift = MANTISSA - self.mantissa;
        let code = if magnitude.is_nan() {
            self.nan
        } else if bits >> MANTISSA > BIAS - self.bias {
            // A mantissa that rounds up to the next power of two carries into the exponent by itself.
            let rounded = bits + (1 << (shift - 1)) - 1 + (bits >> shift & 1);
            ((rounded >> shift) - ((BIAS - self.bias) << self.mantissa)).min(self.largest)
        } else {
            // Subnormal: counted in the smallest steps, which are a power of two.
            (magnitude * f32::from_bits((BIAS + self.bias - 1 + self.mantissa) << MANTISSA)).round_ties_even() as u32
        };
        (sign | code) as u8
    }
}

/// To E4M3.
pub fn e4m3_from_f32(x: f32) -> u8 {
    E4M3.encode(x)
}

/// To E5M2.
pub fn e5m2_from_f32(x: f32) -> u8 {
    E5M2.encode(x)
}

/// From E4M3, exactly.
#[inline(always)]
pub fn e4m3_to_f32(code: u8) -> f32 {
    let bits = widen(u32::from(code & 0x7f), &E4M3);
    let bits = if code & 0x7f == 0x7f { f32::NAN.to_bits() } else { bits };
    f32::from_bits(bits | u32::from(code & 0x80) << 24)
}

/// From E5M2, exactly.
#[inline(always)]
pub fn e5m2_to_f32(code: u8) -> f32 {
    let magnitude = u32::from(code & 0x7f);
    // Above the largest: infinity, and what an `f32` with its exponent of ones calls no number.
    let bits = if magnitude > 0x7b { magnitude << 21 | 0x7f80_0000 } else { widen(magnitude, &E5M2) };
    f32::from_bits(bits | u32::from(code & 0x80) << 24)
}

/// Bits of a finite magnitude. Without branches or library calls, so that loops over it become vectors; subnormal codes
/// as integers, since an `f32` that is subnormal itself costs a trap of the processor.
#[inline(always)]
fn widen(magnitude: u32, kind: &Kind) -> u32 {
    let smallest = f32::from_bits((128 - kind.bias - kind.mantissa) << 23);
    let subnormal = (magnitude as f32 * smallest).to_bits();
    let normal = (magnitude << (23 - kind.mantissa)) + ((127 - kind.bias) << 23);
    if magnitude >> kind.mantissa == 0 { subnormal } else { normal }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::attention::{Element, PageView, widen_page};
    use half::f16;

    /// Code, bits of its value, and the smallest half float that rounds to it, as torch has them.
    fn table(name: &str) -> Vec<(u8, u32, Option<u16>)> {
        let lines = include_str!("../../../fixtures/formats/fp8.txt").lines();
        let parse = |line: &'static str| {
            let mut words = line.split(' ').skip(1);
            let code = u8::from_str_radix(words.next()?, 16).ok()?;
            let value = u32::from_str_radix(words.next()?, 16).ok()?;
            Some((code, value, words.next().and_then(|half| u16::from_str_radix(half, 16).ok())))
        };
        let table: Vec<_> = lines.filter(|line| line.starts_with(name)).filter_map(parse).collect();
        assert_eq!(table.len(), 256);
        table
    }

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    fn every_code_means_what_torch_says_on_every_isa() {
        for (name, element, decode) in
            [("e4m3", Element::E4m3, e4m3_to_f32 as fn(u8) -> f32), ("e5m2", Element::E5m2, e5m2_to_f32)]
        {
            let table = table(name);
            let codes: Vec<u8> = table.iter().map(|line| line.0).collect();
            for &(code, value, _) in &table {
                assert!(same(decode(code), f32::from_bits(value)), "{name} {code:02x}: {}", decode(code));
            }
            for isa in Isa::available() {
                let mut wide = vec![0.0; 256];
                let page = PageView { k: &codes, v: &[], k_element: element, v_element: element };
                widen_page(isa, page, &mut wide, &mut []);
                let wrong = table.iter().find(|line| !same(wide[usize::from(line.0)], f32::from_bits(line.1)));
                assert_eq!(wrong, None, "{name} on {isa}");
            }
        }
    }

    #[test]
    fn every_half_float_is_rounded_as_torch_rounds_it_and_saturates() {
        for (name, encode) in [("e4m3", e4m3_from_f32 as fn(f32) -> u8), ("e5m2", e5m2_from_f32)] {
            let first: Vec<u16> = table(name).iter().filter_map(|line| line.2).collect();
            for half in 0..=f16::INFINITY.to_bits() {
                let want = first.partition_point(|first| *first <= half) - 1;
                let x = f16::from_bits(half).to_f32();
                assert_eq!((encode(x), encode(-x)), (want as u8, want as u8 | 0x80), "{name} {x}");
            }
        }
    }

    #[test]
    fn what_half_floats_do_not_reach() {
        assert_eq!([e4m3_from_f32(f32::NAN), e5m2_from_f32(f32::NAN)].map(|code| code & 0x7f), [0x7f, 0x7f]);
        assert_eq!([f32::MAX, f32::INFINITY].map(e4m3_from_f32), [0x7e, 0x7e]);
        assert_eq!([f32::MAX, f32::INFINITY].map(e5m2_from_f32), [0x7b, 0x7b]);
        assert_eq!([f32::MIN_POSITIVE, -1e-45].map(e5m2_from_f32), [0, 0x80]);
        // Just above a tie that a half float cannot tell from the tie: 17/16 lies between 1 and 9/8.
        assert_eq!([1.0625, 1.0625 + 1e-6].map(e4m3_from_f32), [0x38, 0x39]);
    }
}
