//! Packed codes to levels, a byte each.

use super::pack::{Bits, VECTOR, packed_bytes};
use crate::dispatch;
use crate::simd::Simd;

/// Unpacked vectors that whole vectors of every plane hold.
const BLOCK: usize = 8;

dispatch! {
    /// The levels of packed codes: `table[code]` (codes of at most four bits) or the codes themselves.
    ///
    /// # Panics
    /// If lengths disagree, or there is a table for more than four bits.
    pub fn unpack(bits: Bits, packed: &[u8], table: Option<&[u8; 16]>, levels: &mut [u8]) = unpack_body
}

#[inline(always)]
unsafe fn unpack_body<S: Simd>(bits: Bits, packed: &[u8], table: Option<&[u8; 16]>, levels: &mut [u8]) {
    assert!(levels.len().is_multiple_of(BLOCK * VECTOR) && packed.len() == packed_bytes(bits, levels.len()));
    assert!(table.is_none() || bits <= Bits::B4);
    let blocks = levels.len() / (BLOCK * VECTOR);
    let (from, to) = (packed.as_ptr(), levels.as_mut_ptr());
    // Loops written out by a macro: a closure would be a function of its own, without the instruction set's features.
    macro_rules! each {
        ($table:expr, |$block:ident| $unpacked:expr) => {
            match $table {
                Some(table) => {
                    let table = S::load_table(table.as_ptr());
                    for $block in 0..blocks {
                        let unpacked: [S::I; BLOCK] = $unpacked;
                        for (i, v) in unpacked.into_iter().enumerate() {
                            S::istore(to.add(($block * BLOCK + i) * VECTOR).cast(), S::lookup(table, v));
                        }
                    }
                }
                None => {
                    for $block in 0..blocks {
                        let unpacked: [S::I; BLOCK] = $unpacked;
                        for (i, v) in unpacked.into_iter().enumerate() {
                            S::istore(to.add(($block * BLOCK + i) * VECTOR).cast(), v);
                        }
                    }
                }
            }
        };
    }
    // SAFETY: a plane of `p` bits has `p` vectors a block; the planes follow each other, and their bits sum to the
    // bits of a code, so all of them lie in `packed`.
    unsafe {
        // Vectors `p * block` and on of the plane that follows planes of `before` bits.
        let plane = |before: usize, p: usize, block: usize| from.add((before * blocks + p * block) * VECTOR);
        let bare: Option<&[u8; 16]> = None;
        match bits {
            Bits::B1 => each!(table, |b| one::<S, 0>(plane(0, 1, b))),
            Bits::B2 => each!(table, |b| two::<S, 0>(plane(0, 2, b))),
            Bits::B3 => each!(table, |b| both::<S>(two::<S, 0>(plane(0, 2, b)), one::<S, 2>(plane(2, 1, b)))),
            Bits::B4 => each!(table, |b| four::<S>(plane(0, 4, b))),
            Bits::B5 => each!(bare, |b| both::<S>(four::<S>(plane(0, 4, b)), one::<S, 4>(plane(4, 1, b)))),
            Bits::B6 => each!(bare, |b| both::<S>(four::<S>(plane(0, 4, b)), two::<S, 4>(plane(4, 2, b)))),
            Bits::B8 => to.copy_from_nonoverlapping(from, levels.len()),
        }
    }
}

/// A block of a plane of one bit, which are bit `TO` of the codes.
#[inline(always)]
unsafe fn one<S: Simd, const TO: u32>(p: *const u8) -> [S::I; BLOCK] {
    // SAFETY: a vector lies there.
    unsafe {
        let a = S::load_bytes(p);
        [
            S::field::<0, 1, TO>(a),
            S::field::<1, 1, TO>(a),
            S::field::<2, 1, TO>(a),
            S::field::<3, 1, TO>(a),
            S::field::<4, 1, TO>(a),
            S::field::<5, 1, TO>(a),
            S::field::<6, 1, TO>(a),
            S::field::<7, 1, TO>(a),
        ]
    }
}

/// A block of a plane of two bits, which are the bits from `TO` of the codes.
#[inline(always)]
unsafe fn two<S: Simd, const TO: u32>(p: *const u8) -> [S::I; BLOCK] {
    // SAFETY: two vectors lie there.
    unsafe {
        let (a, b) = (S::load_bytes(p), S::load_bytes(p.add(VECTOR)));
        [
            S::field::<0, 2, TO>(a),
            S::field::<2, 2, TO>(a),
            S::field::<4, 2, TO>(a),
            S::field::<6, 2, TO>(a),
            S::field::<0, 2, TO>(b),
            S::field::<2, 2, TO>(b),
            S::field::<4, 2, TO>(b),
            S::field::<6, 2, TO>(b),
        ]
    }
}

/// A block of a plane of four bits, the low ones of the codes.
#[inline(always)]
unsafe fn four<S: Simd>(p: *const u8) -> [S::I; BLOCK] {
    // SAFETY: four vectors lie there.
    unsafe {
        let [a, b, c, d] = std::array::from_fn(|i| S::load_bytes(p.add(i * VECTOR)));
        [
            S::low_nibbles(a),
            S::high_nibbles(a),
            S::low_nibbles(b),
            S::high_nibbles(b),
            S::low_nibbles(c),
            S::high_nibbles(c),
            S::low_nibbles(d),
            S::high_nibbles(d),
        ]
    }
}

/// The codes of two planes.
#[inline(always)]
unsafe fn both<S: Simd>(a: [S::I; BLOCK], b: [S::I; BLOCK]) -> [S::I; BLOCK] {
    // SAFETY: the features are the dispatcher's business.
    std::array::from_fn(|i| unsafe { S::or(a[i], b[i]) })
}
