//! Codes of one to eight bits in planes of one, two, four and eight bits.

/// Bits of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bits {
    /// Signs.
    B1 = 1,
    /// One plane of two.
    B2 = 2,
    /// A plane of two and one of one.
    B3 = 3,
    /// One plane of four.
    B4 = 4,
    /// A plane of four and one of one.
    B5 = 5,
    /// A plane of four and one of two.
    B6 = 6,
    /// Bytes.
    B8 = 8,
}

impl Bits {
    /// How many.
    pub const fn count(self) -> usize {
        self as usize
    }

    /// Codes of so many bits, where there are such.
    pub const fn new(bits: usize) -> Option<Bits> {
        Some(match bits {
            1 => Bits::B1,
            2 => Bits::B2,
            3 => Bits::B3,
            4 => Bits::B4,
            5 => Bits::B5,
            6 => Bits::B6,
            8 => Bits::B8,
            _ => return None,
        })
    }

    /// The planes, low bits first.
    fn planes(self) -> &'static [usize] {
        match self {
            Bits::B1 => &[1],
            Bits::B2 => &[2],
            Bits::B3 => &[2, 1],
            Bits::B4 => &[4],
            Bits::B5 => &[4, 1],
            Bits::B6 => &[4, 2],
            Bits::B8 => &[8],
        }
    }
}

/// Codes in one packed vector of the kernels.
pub(super) const VECTOR: usize = 64;

/// Bytes of so many codes, a multiple of 512.
pub const fn packed_bytes(bits: Bits, codes: usize) -> usize {
    codes / 8 * bits.count()
}

/// Packs codes, one a byte. A plane of `p` bits is cut into vectors of 64 bytes; byte `i` of vector `j` holds, low bits
/// first, the codes `i` of the `8/p` unpacked vectors from `8/p * j`.
///
/// # Panics
/// If the number of codes is no multiple of 512 or `to` is not [`packed_bytes`] long.
pub fn pack(bits: Bits, codes: &[u8], to: &mut [u8]) {
    assert!(codes.len().is_multiple_of(8 * VECTOR) && to.len() == packed_bytes(bits, codes.len()));
    to.fill(0);
    let (mut at, mut shift) = (0, 0);
    for &plane in bits.planes() {
        let per = 8 / plane;
        for (i, &code) in codes.iter().enumerate() {
            let (vector, byte) = (i / VECTOR, i % VECTOR);
            let part = (u32::from(code) >> shift) & ((1 << plane) - 1);
            to[at + vector / per * VECTOR + byte] |= (part << (vector % per * plane)) as u8;
        }
        at += codes.len() / per;
        shift += plane;
    }
}
