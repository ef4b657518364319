//! Small numbers of one to sixteen bits in planes, and half floats, in page bytes.

use half::f16;

/// The planes of a field, low bits first: eight, four, two and one bit wide, none narrower before one wider.
fn planes(bits: usize) -> impl Iterator<Item = usize> {
    [8, 8, 4, 2, 1].into_iter().scan(bits, |left, plane| {
        let here = if *left >= plane && !(plane == 8 && *left < 8) { plane } else { 0 };
        *left -= here;
        Some(here)
    })
}

/// Bytes of `n` fields, a multiple of sixteen.
pub(crate) const fn bytes(bits: usize, n: usize) -> usize {
    n / 8 * bits
}

/// Packs fields. A plane of `p` bits has `n * p / 8` bytes; byte `i` holds, low bits first, the fields `i`, `i +` that
/// many, and so on.
pub(crate) fn pack(bits: usize, fields: &[u16], to: &mut [u8]) {
    to.fill(0);
    let (mut at, mut shift) = (0, 0);
    for plane in planes(bits).filter(|&plane| plane > 0) {
        let length = fields.len() * plane / 8;
        for (i, &field) in fields.iter().enumerate() {
            let part = (field >> shift) & ((1u32 << plane) - 1) as u16;
            to[at + i % length] |= (part << (i / length * plane)) as u8;
        }
        at += length;
        shift += plane;
    }
}

/// The fields of packed bytes.
pub(crate) fn unpack(bits: usize, from: &[u8], fields: &mut [u16]) {
    let (mut at, mut shift) = (0, 0);
    for plane in planes(bits).filter(|&plane| plane > 0) {
        let length = fields.len() * plane / 8;
        let bytes = &from[at..at + length];
        match plane {
            8 => unpack_plane::<8>(bytes, shift, fields),
            4 => unpack_plane::<4>(bytes, shift, fields),
            2 => unpack_plane::<2>(bytes, shift, fields),
            _ => unpack_plane::<1>(bytes, shift, fields),
        }
        at += length;
        shift += plane;
    }
}

/// Puts a plane's bits where they belong; the lowest plane comes first and clears the others.
#[inline(always)]
fn unpack_plane<const PLANE: usize>(bytes: &[u8], shift: usize, fields: &mut [u16]) {
    let mask = ((1u32 << PLANE) - 1) as u16;
    for (j, fields) in fields.chunks_exact_mut(bytes.len()).enumerate() {
        let part = |byte: u8| ((u16::from(byte) >> (j * PLANE)) & mask) << shift;
        if shift == 0 {
            fields.iter_mut().zip(bytes).for_each(|(field, &byte)| *field = part(byte));
        } else {
            fields.iter_mut().zip(bytes).for_each(|(field, &byte)| *field |= part(byte));
        }
    }
}

/// The nearest finite half float.
pub(crate) fn half(x: f32) -> f16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0))
}

/// Writes half floats, as many as there is room for, zeros where `from` ends early.
pub(crate) fn put_halves(to: &mut [u8], from: impl Iterator<Item = f32>) {
    let mut from = from.fuse();
    for to in to.chunks_exact_mut(2) {
        to.copy_from_slice(&half(from.next().unwrap_or(0.0)).to_le_bytes());
    }
}

/// Reads half floats; what is not finite (bytes may be anything) is read as zero.
pub(crate) fn halves(from: &[u8]) -> impl Iterator<Item = f32> {
    from.chunks_exact(2).map(|b| {
        let x = f16::from_le_bytes([b[0], b[1]]).to_f32();
        if x.is_finite() { x } else { 0.0 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back() {
        for bits in 1..=16 {
            for n in [16, 48, 64] {
                let fields: Vec<u16> =
                    (0..n as u32).map(|i| (i * 40_503 + 7) as u16 & ((1u32 << bits) - 1) as u16).collect();
                let mut packed = vec![0xff; bytes(bits, n)];
                pack(bits, &fields, &mut packed);
                let mut back = vec![0xffff; n];
                unpack(bits, &packed, &mut back);
                assert_eq!(back, fields, "{bits} bits, {n}");
            }
        }
        assert_eq!(planes(11).filter(|&p| p > 0).collect::<Vec<_>>(), [8, 2, 1]);
    }

    #[test]
    fn halves_are_finite() {
        let mut bytes = [0u8; 8];
        put_halves(&mut bytes, [1e9, -1e9, 1e-9].into_iter());
        assert_eq!(halves(&bytes).collect::<Vec<_>>(), [65504.0, -65504.0, 0.0, 0.0]);
        assert_eq!(halves(&[0xff; 2]).collect::<Vec<_>>(), [0.0]);
    }
}
