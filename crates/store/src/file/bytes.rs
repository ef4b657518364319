//! Little-endian fields, padding and checksums.

/// Everything that has a size starts at a multiple of this.
pub(super) const ALIGN: u64 = 64;

/// As in zlib.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Up to the next multiple of [`ALIGN`]; `None` beyond what a file can be.
pub(super) fn padded(len: u64) -> Option<u64> {
    len.checked_next_multiple_of(ALIGN)
}

/// Appends zeros until what lies behind `from` is a multiple of [`ALIGN`].
pub(super) fn pad(out: &mut Vec<u8>, from: usize) {
    out.resize(from + (out.len() - from).next_multiple_of(ALIGN as usize), 0);
}

/// Tokens as they are written.
pub(super) fn put_tokens(tokens: &[u32], out: &mut Vec<u8>) {
    tokens.iter().for_each(|token| out.extend_from_slice(&token.to_le_bytes()));
}

/// Reads field after field.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (slice, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(slice)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn tokens(&mut self, count: usize) -> Option<Vec<u32>> {
        let bytes = self.slice(count.checked_mul(4)?)?;
        Some(bytes.as_chunks().0.iter().map(|&token| u32::from_le_bytes(token)).collect())
    }
}
