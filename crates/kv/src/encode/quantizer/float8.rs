//! Floating-point numbers of one byte: E4M3 and E5M2 of the OCP eight-bit formats, and powers of two (E8M0).

use cachalot_kernels::float8;

/// An eight-bit float with a sign bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float8 {
    /// Four exponent bits with bias 7, three mantissa bits; largest 448; no infinities.
    E4m3,
    /// Five exponent bits with bias 15, two mantissa bits; largest finite 57344.
    E5m2,
}

impl Float8 {
    /// Largest finite value.
    pub const fn largest(self) -> f32 {
        match self {
            Float8::E4m3 => 448.0,
            Float8::E5m2 => 57344.0,
        }
    }

    /// Exponent of the largest value: what the OCP block formats subtract.
    pub const fn largest_exponent(self) -> i32 {
        match self {
            Float8::E4m3 => 8,
            Float8::E5m2 => 15,
        }
    }

    /// As recipes name it.
    pub const fn name(self) -> &'static str {
        match self {
            Float8::E4m3 => "e4m3",
            Float8::E5m2 => "e5m2",
        }
    }

    /// To the nearest, ties to even; beyond the largest saturates.
    pub fn encode(self, x: f32) -> u8 {
        match self {
            Float8::E4m3 => float8::e4m3_from_f32(x),
            Float8::E5m2 => float8::e5m2_from_f32(x),
        }
    }

    /// Exact. Codes of NaN and infinities, which [`Float8::encode`] never writes of finite numbers, are just that.
    pub fn decode(self, code: u8) -> f32 {
        match self {
            Float8::E4m3 => float8::e4m3_to_f32(code),
            Float8::E5m2 => float8::e5m2_to_f32(code),
        }
    }
}

/// `floor(log2 x)` of a normal `x > 0`, -127 of subnormals and zero.
pub fn exponent(x: f32) -> i32 {
    ((x.to_bits() >> 23) & 0xff) as i32 - 127
}

/// `2^e`, exact from -149 to 127, the nearest such outside.
pub fn power_of_two(e: i32) -> f32 {
    let e = e.clamp(-149, 127);
    f32::from_bits(if e < -126 { 1 << (e + 149) } else { ((e + 127) as u32) << 23 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition of the formats, not by the bit trick.
    fn value(kind: Float8, code: u8) -> f64 {
        let (m, bias) = if kind == Float8::E4m3 { (3, 7.0) } else { (2, 15.0) };
        let (sign, rest) = (if code >= 128 { -1.0 } else { 1.0 }, i32::from(code & 127));
        let (e, f) = (f64::from(rest >> m), f64::from(rest & ((1 << m) - 1)) / f64::from(1 << m));
        sign * if e == 0.0 { 2f64.powf(1.0 - bias) * f } else { 2f64.powf(e - bias) * (1.0 + f) }
    }

    #[test]
    fn every_finite_code_decodes_to_its_value_and_back() {
        for (kind, finite) in [(Float8::E4m3, 0x7e), (Float8::E5m2, 0x7b)] {
            assert_eq!(value(kind, finite), f64::from(kind.largest()));
            for code in (0..=finite).chain(0x80..=0x80 | finite) {
                assert_eq!(f64::from(kind.decode(code)), value(kind, code), "{kind:?} {code:#x}");
                assert_eq!(kind.encode(kind.decode(code)), code, "{kind:?}");
            }
        }
        assert_eq!(Float8::E4m3.decode(1), 2f32.powi(-9));
        assert_eq!(Float8::E5m2.decode(1), 2f32.powi(-16));
    }

    #[test]
    fn between_codes_the_nearest_is_taken_and_ties_go_to_even() {
        for (kind, finite) in [(Float8::E4m3, 0x7e_u8), (Float8::E5m2, 0x7b)] {
            for code in 0..finite {
                let (a, b) = (kind.decode(code), kind.decode(code + 1));
                let middle = (a + b) / 2.0;
                assert_eq!(kind.encode(middle), code + code % 2, "{kind:?} {middle}");
                assert_eq!(kind.encode(f32::from_bits(middle.to_bits() + 1)), code + 1);
                assert_eq!(kind.encode(-f32::from_bits(middle.to_bits() - 1)), code | 0x80);
            }
            assert_eq!(kind.encode(65504.0), finite, "saturates");
            assert_eq!(kind.encode(-1e30), 0x80 | finite);
            assert_eq!(kind.encode(1e-40), 0);
        }
    }

    #[test]
    fn powers_of_two_down_to_the_smallest_float() {
        assert_eq!([-149, -127, -126, 0, 127].map(power_of_two), [-149, -127, -126, 0, 127].map(|e| 2f32.powi(e)));
        assert_eq!([1.0, 1.99, 2.0, 0.75, 0.0].map(exponent), [0, 0, 1, -1, -127]);
    }
}
