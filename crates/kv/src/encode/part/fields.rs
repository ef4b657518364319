//! Small numbers of one to sixteen bits in planes, and half floats, in page bytes.

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kernels::simd::{LANES, Simd};
use cachalot_kernels::{Isa, dispatch};
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
    if let (1..=8, Ok(fields)) = (bits, <&mut [u16; PAGE_TOKENS]>::try_from(&mut *fields)) {
        *fields = unpack_page(bits, from);
        return;
    }
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

/// Fields of the same width of one thing after the other.
#[derive(Clone, Copy)]
pub(crate) struct Runs {
    /// Bytes from the beginning of a run to that of the next.
    pub stride: usize,
    /// Fields of a run.
    pub tokens: usize,
}

/// Runs of fields, one behind the other.
pub(crate) fn unpack_runs(isa: Isa, bits: usize, from: &[u8], tokens: usize, fields: &mut [u16]) {
    unpack_spaced(isa, bits, from, Runs { stride: bytes(bits, tokens), tokens }, 0, fields);
}

dispatch! {
    /// Runs of fields. Where `shift` is not zero, they are put above the bits that are there.
    pub(crate) fn unpack_spaced(bits: usize, from: &[u8], runs: Runs, shift: usize, fields: &mut [u16]) = unpack_spaced_body
}

// The set only says which features the loops are compiled with.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn unpack_spaced_body<S: Simd>(bits: usize, from: &[u8], runs: Runs, shift: usize, fields: &mut [u16]) {
    for (from, fields) in from.chunks(runs.stride).zip(fields.chunks_exact_mut(runs.tokens)) {
        let Some(fields) = fields.first_chunk_mut::<PAGE_TOKENS>() else {
            let mut run = [0u16; PAGE_TOKENS];
            unpack(bits, &from[..self::bytes(bits, runs.tokens)], &mut run[..runs.tokens]);
            if shift == 0 {
                fields.fill(0);
            }
            fields.iter_mut().zip(&run).for_each(|(to, from)| *to |= from << shift);
            continue;
        };
        let run = match bits {
            1 => unpack_page(1, from),
            2 => unpack_page(2, from),
            3 => unpack_page(3, from),
            4 => unpack_page(4, from),
            5 => unpack_page(5, from),
            6 => unpack_page(6, from),
            8 => unpack_page(8, from),
            12 => unpack_wide(12, from),
            0..8 => unpack_page(bits, from),
            bits => unpack_wide(bits, from),
        };
        if shift == 0 {
            *fields = run;
        } else {
            fields.iter_mut().zip(&run).for_each(|(to, from)| *to |= from << shift);
        }
    }
}

/// The fields, of at most eight bits, of a whole page's tokens.
#[inline(always)]
fn unpack_page(bits: usize, from: &[u8]) -> [u16; PAGE_TOKENS] {
    let mut fields = [0; PAGE_TOKENS];
    if bits >= 8 {
        add_plane::<8, 64>(from, 0, &mut fields);
        return fields;
    }
    let (mut from, mut shift) = (from, 0);
    if bits & 4 != 0 {
        from = add_plane::<4, 32>(from, shift, &mut fields);
        shift += 4;
    }
    if bits & 2 != 0 {
        from = add_plane::<2, 16>(from, shift, &mut fields);
        shift += 2;
    }
    if bits & 1 != 0 {
        add_plane::<1, 8>(from, shift, &mut fields);
    }
    fields
}

/// As [`unpack_page`], of more than eight bits.
#[inline(always)]
fn unpack_wide(bits: usize, from: &[u8]) -> [u16; PAGE_TOKENS] {
    let (low, high) = from.split_at(PAGE_TOKENS);
    let (mut fields, high) = (unpack_page(8, low), unpack_page(bits - 8, high));
    fields.iter_mut().zip(&high).for_each(|(field, high)| *field |= high << 8);
    fields
}

/// Puts the bits of a plane of [`PAGE_TOKENS`] fields where they belong. Returns the bytes after its `N`.
#[inline(always)]
fn add_plane<'a, const PLANE: usize, const N: usize>(
    bytes: &'a [u8],
    shift: usize,
    fields: &mut [u16; PAGE_TOKENS],
) -> &'a [u8] {
    let mask = ((1u32 << PLANE) - 1) as u16;
    let (bytes, rest) = bytes.split_at(N);
    for (j, fields) in fields.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        for (field, &byte) in fields.iter_mut().zip(bytes) {
            *field |= ((u16::from(byte) >> (j * PLANE)) & mask) << shift;
        }
    }
    rest
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

dispatch! {
    /// Reads half floats as [`halves`] does, as many as `to` has room for.
    ///
    /// # Panics
    /// If there are less.
    pub(crate) fn read_halves(from: &[u8], to: &mut [f32]) = read_halves_body
}

#[inline(always)]
unsafe fn read_halves_body<S: Simd>(from: &[u8], to: &mut [f32]) {
    let from = &from[..2 * to.len()];
    let whole = to.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        // SAFETY: there are sixteen half floats from twice as many bytes on, and room for them.
        unsafe {
            let x = S::load_f16(from.as_ptr().add(2 * i).cast());
            let finite = S::lt(S::abs(x), S::splat(f32::INFINITY));
            S::store(to.as_mut_ptr().add(i), S::select(finite, x, S::splat(0.0)));
        }
    }
    to[whole..].iter_mut().zip(halves(&from[2 * whole..])).for_each(|(to, x)| *to = x);
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
                for isa in Isa::available() {
                    back.fill(0xffff);
                    unpack_runs(isa, bits, &packed, n, &mut back);
                    assert_eq!(back, fields, "{isa}: {bits} bits, {n}");
                }
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
        let all: Vec<u8> = (0..=u16::MAX).step_by(7).flat_map(u16::to_le_bytes).collect();
        let expected: Vec<u32> = halves(&all).map(f32::to_bits).collect();
        for isa in Isa::available() {
            let mut read = vec![f32::NAN; all.len() / 2];
            read_halves(isa, &all, &mut read);
            assert_eq!(read.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected, "{isa}");
        }
    }
}
