//! The plain element types a page's keys or values can be written in.

use crate::simd::Simd;
use std::fmt;
use std::str::FromStr;

/// A floating-point element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Element {
    /// IEEE single precision: exact.
    F32 = 0,
    /// IEEE half precision, rounded to nearest even.
    #[default]
    F16 = 1,
    /// bfloat16, rounded to nearest even.
    Bf16 = 2,
    /// Eight bits, three of them mantissa; see [`crate::float8`].
    E4m3 = 3,
    /// Eight bits, two of them mantissa; see [`crate::float8`].
    E5m2 = 4,
}

impl Element {
    /// All of them.
    pub const ALL: [Element; 5] = [Element::F32, Element::F16, Element::Bf16, Element::E4m3, Element::E5m2];

    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::E4m3 | Element::E5m2 => 1,
        }
    }

    /// The name users write.
    pub const fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F16 => "f16",
            Element::Bf16 => "bf16",
            Element::E4m3 => "fp8-e4m3",
            Element::E5m2 => "fp8-e5m2",
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Element {
    type Err = ();

    fn from_str(s: &str) -> Result<Element, ()> {
        Element::ALL.into_iter().find(|e| e.name() == s).ok_or(())
    }
}

/// Loads sixteen elements of one type, widened exactly.
pub(super) trait Load: Copy {
    /// Bytes of one element.
    const BYTES: usize;
    /// # Safety
    /// `base` points to at least `index + 16` elements, and `S`'s instructions are present.
    unsafe fn load<S: Simd>(base: *const u8, index: usize) -> S::F;
}

#[derive(Clone, Copy)]
pub(super) struct F32;
#[derive(Clone, Copy)]
pub(super) struct F16;
#[derive(Clone, Copy)]
pub(super) struct Bf16;
#[derive(Clone, Copy)]
pub(super) struct E4m3;
#[derive(Clone, Copy)]
pub(super) struct E5m2;

impl Load for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(base: *const u8, index: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load(base.cast::<f32>().add(index)) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(base: *const u8, index: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_f16(base.cast::<u16>().add(index)) }
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(base: *const u8, index: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_bf16(base.cast::<u16>().add(index)) }
    }
}

impl Load for E4m3 {
    const BYTES: usize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(base: *const u8, index: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_e4m3(base.add(index)) }
    }
}

impl Load for E5m2 {
    const BYTES: usize = 1;
    #[inline(always)]
    unsafe fn load<S: Simd>(base: *const u8, index: usize) -> S::F {
        // SAFETY: the caller's contract.
        unsafe { S::load_e5m2(base.add(index)) }
    }
}

/// Evaluates an expression with the loader of a runtime element type.
macro_rules! with_element {
    ($element:expr, $load:ident => $e:expr) => {
        match $element {
            $crate::attention::Element::F32 => {
                type $load = $crate::attention::element::F32;
                $e
            }
            $crate::attention::Element::F16 => {
                type $load = $crate::attention::element::F16;
                $e
            }
            $crate::attention::Element::Bf16 => {
                type $load = $crate::attention::element::Bf16;
                $e
            }
            $crate::attention::Element::E4m3 => {
                type $load = $crate::attention::element::E4m3;
                $e
            }
            $crate::attention::Element::E5m2 => {
                type $load = $crate::attention::element::E5m2;
                $e
            }
        }
    };
}

pub(super) use with_element;
