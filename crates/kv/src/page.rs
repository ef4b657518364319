//! Page states as types: [`WritablePage`] → [`SealedPage`] → shared (`Arc<SealedPage>`). Transitions consume; dropping
//! any of them returns the bytes to the pool.
//!
//! A page is a header of [`HEADER`] bytes that describes it, the keys and the values.

use crate::KvError;
use crate::encode::{KvFormat, write_keys, write_values};
use crate::pool::PageBytes;
use cachalot_kernels::attention::{PAGE_TOKENS, PageView};

/// Bytes before the keys of a page.
pub const HEADER: usize = 64;
const MAGIC: [u8; 4] = *b"KVPG";
const VERSION: u8 = 1;
/// Where the checksum lies in the header: 16 bytes of BLAKE3 over the header before it and all bytes after it.
const CHECKSUM: std::ops::Range<usize> = 48..64;

/// Where a page belongs and how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageKind {
    /// Layer of the lane.
    pub layer: u16,
    /// KV head of the lane.
    pub head: u16,
    /// Channels, rounded up to a vector.
    pub width: usize,
    /// Element types.
    pub format: KvFormat,
}

impl PageKind {
    /// Bytes of a page, header included; what the ledger counts for it.
    pub fn bytes(&self) -> usize {
        (HEADER + PAGE_TOKENS * self.format.token_bytes(self.width)).next_multiple_of(crate::pool::ALIGNMENT)
    }

    fn keys(&self) -> std::ops::Range<usize> {
        HEADER..HEADER + PAGE_TOKENS * self.width * self.format.k.bytes()
    }

    fn values(&self) -> std::ops::Range<usize> {
        let from = self.keys().end;
        from..from + PAGE_TOKENS * self.width * self.format.v.bytes()
    }

    fn view<'a>(&self, bytes: &'a [u8]) -> PageView<'a> {
        let PageKind { format: KvFormat { k: k_element, v: v_element }, .. } = *self;
        PageView { k: &bytes[self.keys()], v: &bytes[self.values()], k_element, v_element }
    }
}

/// A page that is being filled. Only its owner reads it.
pub struct WritablePage {
    kind: PageKind,
    bytes: PageBytes,
}

/// A page that will not change any more. Behind an `Arc`, sequences share it.
pub struct SealedPage {
    kind: PageKind,
    start: u64,
    bytes: PageBytes,
}

impl WritablePage {
    /// An empty page over bytes of [`PageKind::bytes`].
    pub(crate) fn new(kind: PageKind, bytes: PageBytes) -> WritablePage {
        debug_assert!(bytes.len() >= kind.bytes());
        WritablePage { kind, bytes }
    }

    /// As attention reads it; slots not yet written hold anything.
    pub fn view(&self) -> PageView<'_> {
        self.kind.view(self.bytes.bytes())
    }

    /// Writes consecutive tokens, `k` and `v` of `[tokens][width]`, to the slots from `slot`.
    ///
    /// # Safety
    /// No other thread writes the same slots or reads them meanwhile. (Several writers fill one page side by side,
    /// which is why this takes a shared reference.)
    pub(crate) unsafe fn write(&self, k: &[f32], v: &[f32], slot: usize) {
        let width = self.kind.width;
        assert!(k.len() == v.len() && slot + k.len() / width <= PAGE_TOKENS);
        let part = |range: std::ops::Range<usize>| {
            // SAFETY: the range lies within the page; slots are disjoint between writers by the contract.
            unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr().add(range.start), range.len()) }
        };
        write_keys(self.kind.format.k, part(self.kind.keys()), k, width, slot);
        write_values(self.kind.format.v, part(self.kind.values()), v, width, slot);
    }

    /// A copy over other bytes of the same length.
    pub(crate) fn copy_to(&self, bytes: PageBytes) -> WritablePage {
        copy(self.kind, &self.bytes, bytes)
    }

    /// Ends writing: the page holds the tokens from position `start`.
    pub(crate) fn seal(mut self, start: u64) -> SealedPage {
        let PageKind { layer, head, width, format } = self.kind;
        let header = &mut self.bytes.bytes_mut()[..HEADER];
        header.fill(0);
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&[VERSION, format.k as u8, format.v as u8, 0]);
        header[8..10].copy_from_slice(&layer.to_le_bytes());
        header[10..12].copy_from_slice(&head.to_le_bytes());
        header[12..16].copy_from_slice(&(width as u32).to_le_bytes());
        header[16..24].copy_from_slice(&start.to_le_bytes());
        header[24..28].copy_from_slice(&(PAGE_TOKENS as u32).to_le_bytes());
        let sum = checksum(self.bytes.bytes());
        self.bytes.bytes_mut()[CHECKSUM].copy_from_slice(&sum);
        SealedPage { kind: self.kind, start, bytes: self.bytes }
    }
}

impl SealedPage {
    /// As attention reads it.
    pub fn view(&self) -> PageView<'_> {
        self.kind.view(self.bytes.bytes())
    }

    /// Position of the first token.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Whether the bytes are those that were sealed.
    ///
    /// # Errors
    /// [`KvError::Corrupt`] names the page.
    pub fn verify(&self) -> Result<(), KvError> {
        let bytes = self.bytes.bytes();
        if bytes[CHECKSUM] == checksum(bytes) {
            return Ok(());
        }
        Err(KvError::Corrupt { layer: self.kind.layer, head: self.kind.head, start: self.start })
    }

    /// Writable again, with the same content.
    pub(crate) fn reopen(self) -> WritablePage {
        WritablePage { kind: self.kind, bytes: self.bytes }
    }

    /// A writable copy over other bytes of the same length.
    pub(crate) fn copy_to(&self, bytes: PageBytes) -> WritablePage {
        copy(self.kind, &self.bytes, bytes)
    }
}

fn copy(kind: PageKind, from: &PageBytes, mut to: PageBytes) -> WritablePage {
    to.bytes_mut().copy_from_slice(from.bytes());
    WritablePage { kind, bytes: to }
}

fn checksum(page: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&page[..CHECKSUM.start]).update(&page[CHECKSUM.end..]);
    let mut sum = [0; 16];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    #[test]
    fn a_changed_byte_anywhere_is_found() {
        let kind = PageKind { layer: 3, head: 1, width: 16, format: KvFormat::default() };
        let pool = Pool::new(1 << 20);
        let bytes = pool.take(kind.bytes(), 1).unwrap().pop().unwrap();
        let page = WritablePage::new(kind, bytes);
        let row: Vec<f32> = (0..16 * 64).map(|i| i as f32).collect();
        // SAFETY: nobody else has the page.
        unsafe { page.write(&row, &row, 0) };
        let mut sealed = page.seal(128);
        assert_eq!(sealed.verify(), Ok(()));
        for at in (0..kind.bytes()).step_by(97) {
            sealed.bytes.bytes_mut()[at] ^= 4;
            assert_eq!(sealed.verify(), Err(KvError::Corrupt { layer: 3, head: 1, start: 128 }), "byte {at}");
            sealed.bytes.bytes_mut()[at] ^= 4;
        }
        assert_eq!(sealed.verify(), Ok(()));
    }
}
