//! Where tiles of products take their levels from: unpacked ones, or packed codes that are unpacked in registers.

use super::dot::Dot;
use super::pack::{Bits, VECTOR};

/// The entries of a matrix.
#[derive(Clone, Copy)]
pub enum Codes<'a> {
    /// Levels, a byte each.
    Levels(&'a [u8]),
    /// Codes as [`super::pack`] leaves them; see [`super::unpack`]. Only where [`super::reads_packed`].
    Packed {
        /// Bits of a code.
        bits: Bits,
        /// Packed codes.
        packed: &'a [u8],
        /// Levels by code, for at most four bits; without it codes are levels.
        table: Option<&'a [u8; 16]>,
    },
    /// Packed codes of four bits, two of which belong together; only where [`super::reads_packed`].
    Pairs {
        /// Packed codes.
        packed: &'a [u8],
        /// Bytes of unpacked codes from one of a pair to the other: one, or four.
        distance: usize,
        /// Levels by code.
        normal: &'a [u8; 16],
        /// Levels by code where the other one of the pair is `victim`.
        outlier: &'a [u8; 16],
        /// The code that says so.
        victim: u8,
    },
}

/// Levels by the number of their vector, of sixteen lanes of four.
pub(super) trait Source: Copy {
    /// Whether twos and fours of vectors are read from an even number or a multiple of four on only.
    const PACKED: bool;

    /// Vectors from `vector` on.
    ///
    /// # Safety
    /// As for [`crate::simd::Simd`]; they are there.
    unsafe fn read<S: Dot, const L: usize>(self, vector: usize) -> [S::Levels; L];
}

/// A byte each.
#[derive(Clone, Copy)]
pub(super) struct Unpacked(pub(super) *const u8);

impl Source for Unpacked {
    const PACKED: bool = false;

    #[inline(always)]
    unsafe fn read<S: Dot, const L: usize>(self, vector: usize) -> [S::Levels; L] {
        // SAFETY: the caller's contract.
        std::array::from_fn(|l| unsafe { S::levels(self.0.add((vector + l) * VECTOR)) })
    }
}

/// Codes of one to six `BITS`; `TABLE` where there are levels by code.
#[derive(Clone, Copy)]
pub(super) struct Packed<const BITS: u32, const TABLE: bool> {
    /// Where they lie.
    pub(super) from: *const u8,
    /// Bytes of a plane of one bit.
    pub(super) plane: usize,
    /// Sixteen levels, where there are.
    pub(super) table: *const u8,
}

impl<const BITS: u32, const TABLE: bool> Source for Packed<BITS, TABLE> {
    const PACKED: bool = true;

    #[inline(always)]
    unsafe fn read<S: Dot, const L: usize>(self, vector: usize) -> [S::Levels; L] {
        // SAFETY: the caller's contract; a plane of `p` bits takes `p` times the bytes of one of one bit.
        unsafe {
            let codes: [S::I; L] = match BITS {
                1 => one::<S, 0, L>(self.from, vector),
                2 => two::<S, 0, L>(self.from, vector),
                3 => {
                    let (low, high) = (self.from, self.from.add(2 * self.plane));
                    both::<S, L>(two::<S, 0, L>(low, vector), one::<S, 2, L>(high, vector))
                }
                4 => four::<S, L>(self.from, vector),
                5 => {
                    let (low, high) = (self.from, self.from.add(4 * self.plane));
                    both::<S, L>(four::<S, L>(low, vector), one::<S, 4, L>(high, vector))
                }
                _ => {
                    let (low, high) = (self.from, self.from.add(4 * self.plane));
                    both::<S, L>(four::<S, L>(low, vector), two::<S, 4, L>(high, vector))
                }
            };
            let table = S::load_table(if TABLE { self.table } else { NONE.as_ptr() });
            // A loop and no closure, which would be a function of its own without the instruction set's features.
            let mut levels = [S::of_bytes(S::isplat(0)); L];
            for (level, code) in levels.iter_mut().zip(codes) {
                *level = S::of_bytes(if TABLE { S::lookup(table, code) } else { code });
            }
            levels
        }
    }
}

/// Codes of four bits in pairs, whose other is `DISTANCE` bytes away.
#[derive(Clone, Copy)]
pub(super) struct Pairs<const DISTANCE: usize> {
    /// Where they lie.
    pub(super) from: *const u8,
    pub(super) normal: *const u8,
    pub(super) outlier: *const u8,
    pub(super) victim: u8,
}

impl<const DISTANCE: usize> Source for Pairs<DISTANCE> {
    const PACKED: bool = true;

    #[inline(always)]
    unsafe fn read<S: Dot, const L: usize>(self, vector: usize) -> [S::Levels; L] {
        // SAFETY: the caller's contract; tables have sixteen bytes.
        unsafe {
            let codes = four::<S, L>(self.from, vector);
            let (normal, outlier) = (S::load_table(self.normal), S::load_table(self.outlier));
            let mut levels = [S::of_bytes(S::isplat(0)); L];
            for (level, code) in levels.iter_mut().zip(codes) {
                *level = S::of_bytes(S::of_pairs::<DISTANCE>(code, normal, outlier, self.victim));
            }
            levels
        }
    }
}

static NONE: [u8; 16] = [0; 16];

/// Vectors of a plane of four bits: two of them lie in one.
#[inline(always)]
unsafe fn four<S: Dot, const L: usize>(plane: *const u8, vector: usize) -> [S::I; L] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut codes = [S::isplat(0); L];
        if L == 1 {
            let a = S::load_bytes(plane.add(vector / 2 * VECTOR));
            codes[0] = if vector.is_multiple_of(2) { S::low_nibbles(a) } else { S::high_nibbles(a) };
        }
        for i in 0..L / 2 {
            let a = S::load_bytes(plane.add((vector / 2 + i) * VECTOR));
            (codes[2 * i], codes[2 * i + 1]) = (S::low_nibbles(a), S::high_nibbles(a));
        }
        codes
    }
}

/// Vectors of a plane of two bits, four of which lie in one: the bits from `TO` of the codes.
#[inline(always)]
unsafe fn two<S: Dot, const TO: u32, const L: usize>(plane: *const u8, vector: usize) -> [S::I; L] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut codes = [S::isplat(0); L];
        let a = S::load_bytes(plane.add(vector / 4 * VECTOR));
        let a = if L == 4 { a } else { S::shr(a, 2 * (vector as u32 % 4)) };
        codes[0] = S::field::<0, 2, TO>(a);
        if L > 1 {
            codes[1] = S::field::<2, 2, TO>(a);
        }
        if L == 4 {
            (codes[2], codes[3]) = (S::field::<4, 2, TO>(a), S::field::<6, 2, TO>(a));
        }
        codes
    }
}

/// Vectors of a plane of one bit, eight of which lie in one: bit `TO` of the codes.
#[inline(always)]
unsafe fn one<S: Dot, const TO: u32, const L: usize>(plane: *const u8, vector: usize) -> [S::I; L] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut codes = [S::isplat(0); L];
        let a = S::shr(S::load_bytes(plane.add(vector / 8 * VECTOR)), vector as u32 % 8);
        codes[0] = S::field::<0, 1, TO>(a);
        if L > 1 {
            codes[1] = S::field::<1, 1, TO>(a);
        }
        if L == 4 {
            (codes[2], codes[3]) = (S::field::<2, 1, TO>(a), S::field::<3, 1, TO>(a));
        }
        codes
    }
}

/// The codes of two planes.
#[inline(always)]
unsafe fn both<S: Dot, const L: usize>(a: [S::I; L], b: [S::I; L]) -> [S::I; L] {
    // SAFETY: the caller's contract.
    std::array::from_fn(|i| unsafe { S::or(a[i], b[i]) })
}
