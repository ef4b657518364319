//! The first and the last bytes of a file.

use super::VERSION;
use super::bytes::{Fields, crc};

/// Bytes of preamble and footer each.
pub(super) const FRAME: usize = 64;
/// The most that an identity may have.
pub(super) const MAX_IDENTITY: u32 = 16 << 20;
const MAGIC: &[u8; 8] = b"\x89CKV\r\n\x1a\n";
const FOOTER: &[u8; 8] = b"CKVFOOT1";
const WRITER: &str = concat!("cachalot ", env!("CARGO_PKG_VERSION"));

/// What the first bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Preamble {
    /// Nothing that is known.
    Unknown,
    /// A KV file whose first bytes are damaged.
    Damaged,
    /// Another version.
    Version { found: u16, writer: String },
    /// This version.
    Right { identity_len: u32, identity_crc: u32, writer: String },
}

/// Where the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) index_at: u64,
    pub(super) index_len: u64,
    pub(super) index_crc: u32,
    pub(super) blocks: u32,
    pub(super) file_len: u64,
}

/// Fills up a frame and ends it with its checksum.
fn close(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(FRAME - 4, 0);
    let sum = crc(&frame);
    frame.extend_from_slice(&sum.to_le_bytes());
    frame
}

/// All but the checksum, where that is right.
fn opened(frame: &[u8]) -> Option<&[u8]> {
    let (body, sum) = frame.split_last_chunk::<4>()?;
    (frame.len() == FRAME && crc(body) == u32::from_le_bytes(*sum)).then_some(body)
}

pub(super) fn preamble(identity: &[u8]) -> Vec<u8> {
    let mut frame = MAGIC.to_vec();
    [VERSION, 0].iter().for_each(|n| frame.extend_from_slice(&n.to_le_bytes()));
    [identity.len() as u32, crc(identity), 0].iter().for_each(|n| frame.extend_from_slice(&n.to_le_bytes()));
    frame.extend(WRITER.bytes().take(32));
    close(frame)
}

impl Preamble {
    pub(super) fn read(frame: &[u8]) -> Preamble {
        if !frame.starts_with(MAGIC) {
            return Preamble::Unknown;
        }
        opened(frame).and_then(Preamble::fields).unwrap_or(Preamble::Damaged)
    }

    fn fields(body: &[u8]) -> Option<Preamble> {
        let mut fields = Fields(body);
        fields.slice(MAGIC.len())?;
        let (found, _revision) = (fields.u16()?, fields.u16()?);
        let (identity_len, identity_crc, _) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let writer = fields.slice(32)?.iter().take_while(|&&byte| byte != 0);
        // What is printed of a strange file must not move the cursor.
        let writer = writer.map(|&byte| if (32..127).contains(&byte) { byte as char } else { '?' }).collect();
        Some(match found {
            VERSION => Preamble::Right { identity_len, identity_crc, writer },
            _ => Preamble::Version { found, writer },
        })
    }
}

impl Footer {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut frame = FOOTER.to_vec();
        [self.index_at, self.index_len].iter().for_each(|n| frame.extend_from_slice(&n.to_le_bytes()));
        [self.index_crc, self.blocks].iter().for_each(|n| frame.extend_from_slice(&n.to_le_bytes()));
        frame.extend_from_slice(&self.file_len.to_le_bytes());
        close(frame)
    }

    pub(super) fn read(frame: &[u8]) -> Option<Footer> {
        let mut fields = Fields(opened(frame)?);
        if fields.slice(FOOTER.len())? != FOOTER {
            return None;
        }
        let (index_at, index_len) = (fields.u64()?, fields.u64()?);
        let (index_crc, blocks) = (fields.u32()?, fields.u32()?);
        Some(Footer { index_at, index_len, index_crc, blocks, file_len: fields.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_says_who_wrote_it() {
        let mut frame = preamble(b"{}");
        assert!(matches!(Preamble::read(&frame), Preamble::Right { identity_len: 2, .. }));
        frame[8] = 9;
        assert_eq!(Preamble::read(&frame), Preamble::Damaged);
        let sum = crc(&frame[..60]).to_le_bytes();
        frame[60..].copy_from_slice(&sum);
        assert_eq!(Preamble::read(&frame), Preamble::Version { found: 9, writer: WRITER.to_owned() });
        assert_eq!(Preamble::read(b"PK\x03\x04"), Preamble::Unknown);
    }

    #[test]
    fn a_footer_is_read_back_or_not_at_all() {
        let footer = Footer { index_at: 640, index_len: 100, index_crc: 7, blocks: 3, file_len: 832 };
        let frame = footer.write();
        assert_eq!(Footer::read(&frame), Some(footer));
        for at in 0..FRAME {
            let mut frame = frame.clone();
            frame[at] ^= 1;
            assert_eq!(Footer::read(&frame), None);
        }
    }
}
