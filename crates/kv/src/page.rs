//! Page states as types: [`WritablePage`] → [`SealedPage`] → shared (`Arc<SealedPage>`). Transitions consume; dropping
//! any of them returns the bytes to the pool.
//!
//! A page is a header of [`HEADER`] bytes that describes it, the keys and the values.

use crate::KvError;
use crate::encode::codec::Hints;
use crate::encode::{KvFormat, write_keys, write_values};
use crate::plan::Body;
use crate::pool::PageBytes;
use cachalot_kernels::attention::{PAGE_TOKENS, PageView};
use std::ops::Range;
use std::sync::Arc;

/// Bytes before the keys of a page.
pub const HEADER: usize = 64;
const MAGIC: [u8; 4] = *b"KVPG";
const VERSION: u8 = 2;
/// Where the checksum lies in the header: 16 bytes of BLAKE3 over the header before it and all bytes after it.
const CHECKSUM: Range<usize> = 48..64;
/// Where the number of tokens lies in it.
const TOKENS: [usize; 4] = [24, 25, 26, 27];

/// How a page is written.
#[derive(Clone, Debug)]
pub enum PageFormat {
    /// In plain elements, token by token.
    Exact(KvFormat),
    /// By the pipelines of a recipe, all tokens at once.
    Body(Body),
}

/// What the first [`HEADER`] bytes of a sealed page say, all numbers little-endian: magic at 0, version at 4, 1 for a body
/// format at 5, layer at 8, head at 10, channels at 12, position at 16, tokens at 24, format at 32, checksum at 48.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether a recipe's pipelines wrote it; plain elements else.
    pub body: bool,
    /// Layer of the lane.
    pub layer: u16,
    /// KV head of the lane.
    pub head: u16,
    /// Channels of a head.
    pub dim: u32,
    /// Position of the first token.
    pub start: u64,
    /// Tokens in it; slots beyond them hold anything.
    pub tokens: u32,
    /// Element types of keys and values in its first two bytes, or a digest of the stages.
    pub format: [u8; 12],
}

impl Header {
    /// Of a page whose magic, version and checksum are right.
    pub fn verified(page: &[u8]) -> Option<Header> {
        Header::read(page).filter(|_| page[CHECKSUM] == checksum(page))
    }

    /// Of bytes that begin as a page does, whatever comes behind and whatever the checksum says.
    pub fn read(page: &[u8]) -> Option<Header> {
        let header = page.get(..HEADER)?;
        if header[..4] != MAGIC || header[4] != VERSION {
            return None;
        }
        let number = |at: Range<usize>| header[at].iter().rev().fold(0_u64, |n, &byte| n << 8 | u64::from(byte));
        let mut format = [0; 12];
        format.copy_from_slice(&header[32..44]);
        Some(Header {
            body: header[5] != 0,
            layer: number(8..10) as u16,
            head: number(10..12) as u16,
            dim: number(12..16) as u32,
            start: number(16..24),
            tokens: number(24..28) as u32,
            format,
        })
    }
}

/// Where a page belongs and how it is written.
#[derive(Clone, Debug)]
pub struct PageKind {
    /// Layer of the lane.
    pub layer: u16,
    /// KV head of the lane.
    pub head: u16,
    /// Channels of a head.
    pub dim: usize,
    /// How keys and values are written.
    pub format: PageFormat,
    /// Ends of keys and values: attention asks for every page.
    ends: [usize; 2],
}

impl PageKind {
    /// Pages of head `head` of layer `layer`.
    pub fn new(layer: u16, head: u16, dim: usize, format: PageFormat) -> PageKind {
        let [k, v] = match &format {
            PageFormat::Exact(format) => {
                let elements = PAGE_TOKENS * dim.next_multiple_of(cachalot_kernels::simd::LANES);
                [elements * format.k.bytes(), elements * format.v.bytes()]
            }
            PageFormat::Body(body) => [body.k.bytes(), body.v.bytes()],
        };
        PageKind { layer, head, dim, format, ends: [HEADER + k, HEADER + k + v] }
    }

    /// Channels as exact pages hold them: rounded up to a vector.
    pub fn width(&self) -> usize {
        self.dim.next_multiple_of(cachalot_kernels::simd::LANES)
    }

    /// Bytes of a page, header included; what the ledger counts for it.
    pub fn bytes(&self) -> usize {
        self.values().end.next_multiple_of(crate::pool::ALIGNMENT)
    }

    fn keys(&self) -> Range<usize> {
        HEADER..self.ends[0]
    }

    fn values(&self) -> Range<usize> {
        self.ends[0]..self.ends[1]
    }

    fn view<'a>(&self, format: KvFormat, bytes: &'a [u8]) -> PageView<'a> {
        let KvFormat { k: k_element, v: v_element } = format;
        PageView { k: &bytes[self.keys()], v: &bytes[self.values()], k_element, v_element }
    }

    /// Twelve bytes that tell formats apart: element types, or a digest of the stages.
    fn format_id(&self) -> [u8; 12] {
        let mut id = [0; 12];
        match &self.format {
            PageFormat::Exact(format) => id[..2].copy_from_slice(&[format.k as u8, format.v as u8]),
            PageFormat::Body(body) => id.copy_from_slice(&body.digest()[..12]),
        }
        id
    }
}

/// A page that is being filled. Only its owner reads it.
pub struct WritablePage {
    kind: Arc<PageKind>,
    format: KvFormat,
    bytes: PageBytes,
}

/// A page that will not change any more. Behind an `Arc`, sequences share it.
///
/// As small as it can be: there is one for every page of every head.
pub struct SealedPage {
    kind: Arc<PageKind>,
    start: u64,
    bytes: PageBytes,
}

/// A sealed page as attention reads it.
#[derive(Clone, Copy)]
pub enum SealedView<'a> {
    /// Plain elements.
    Exact(PageView<'a>),
    /// Keys and values as the pipelines of the body wrote them.
    Body {
        /// Bytes of the keys.
        k: &'a [u8],
        /// Bytes of the values.
        v: &'a [u8],
    },
}

impl WritablePage {
    /// An empty page in plain elements over bytes of [`PageKind::bytes`].
    pub(crate) fn new(kind: Arc<PageKind>, format: KvFormat, bytes: PageBytes) -> WritablePage {
        debug_assert!(bytes.len() >= kind.bytes());
        WritablePage { kind, format, bytes }
    }

    /// As attention reads it; slots not yet written hold anything.
    pub fn view(&self) -> PageView<'_> {
        self.kind.view(self.format, self.bytes.bytes())
    }

    /// Writes consecutive tokens, `k` and `v` of `[tokens][width]`, to the slots from `slot`.
    ///
    /// # Safety
    /// No other thread writes the same slots or reads them meanwhile. (Several writers fill one page side by side,
    /// which is why this takes a shared reference.)
    pub(crate) unsafe fn write(&self, k: &[f32], v: &[f32], slot: usize) {
        let width = self.kind.width();
        assert!(k.len() == v.len() && slot + k.len() / width <= PAGE_TOKENS);
        let part = |range: Range<usize>| {
            // SAFETY: the range lies within the page; slots are disjoint between writers by the contract.
            unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr().add(range.start), range.len()) }
        };
        write_keys(self.format.k, part(self.kind.keys()), k, width, slot);
        write_values(self.format.v, part(self.kind.values()), v, width, slot);
    }

    /// A copy over other bytes of the same length.
    pub(crate) fn copy_to(&self, mut bytes: PageBytes) -> WritablePage {
        bytes.bytes_mut().copy_from_slice(self.bytes.bytes());
        WritablePage { kind: self.kind.clone(), format: self.format, bytes }
    }

    /// See [`PageBytes::consolidate`].
    pub(crate) fn consolidate(&mut self) {
        self.bytes.consolidate();
    }

    /// Ends writing: the first `tokens` slots hold the tokens from position `start`.
    pub(crate) fn seal(self, start: u64, tokens: usize) -> SealedPage {
        seal(self.kind, start, tokens, self.bytes)
    }

    /// The bytes, for the next page of this size.
    pub(crate) fn into_bytes(self) -> PageBytes {
        self.bytes
    }
}

impl SealedPage {
    /// Encodes keys and values of a page, `[tokens][dim]` each, in the body format of `kind`. Returns with the page how
    /// many of them were not finite.
    pub(crate) fn encode(
        kind: Arc<PageKind>,
        mut bytes: PageBytes,
        k: &[f32],
        v: &[f32],
        hints: Hints<'_>,
    ) -> (Self, usize) {
        let (keys, values) = (kind.keys(), kind.values());
        let mut odd = 0;
        if let PageFormat::Body(body) = &kind.format {
            let bytes = bytes.bytes_mut();
            odd += body.k.encode(k, hints, &mut bytes[keys]);
            odd += body.v.encode(v, hints, &mut bytes[values.clone()]);
            bytes[values.end..].fill(0);
        }
        (seal(kind, hints.start as u64, PAGE_TOKENS, bytes), odd)
    }

    /// A page that was sealed elsewhere, over `to` of the same length; its header has been verified. `None` where it is not of
    /// this kind.
    pub(crate) fn adopt(kind: Arc<PageKind>, header: &Header, from: &[u8], mut to: PageBytes) -> Option<SealedPage> {
        to.bytes_mut().copy_from_slice(from);
        let page = SealedPage { start: header.start, kind, bytes: to };
        page.is_of(&page.kind).then_some(page)
    }

    /// As attention reads it.
    pub fn view(&self) -> SealedView<'_> {
        let bytes = self.bytes.bytes();
        match &self.kind.format {
            PageFormat::Exact(format) => SealedView::Exact(self.kind.view(*format, bytes)),
            PageFormat::Body(_) => SealedView::Body { k: &bytes[self.kind.keys()], v: &bytes[self.kind.values()] },
        }
    }

    /// Position of the first token.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Tokens in it; slots beyond them hold anything.
    pub fn tokens(&self) -> usize {
        let tokens = u32::from_le_bytes(TOKENS.map(|i| self.bytes.bytes()[i]));
        // Whatever memory that has gone bad says.
        (tokens as usize).min(PAGE_TOKENS)
    }

    /// All bytes, header included.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.bytes()
    }

    pub(crate) fn kind(&self) -> &PageKind {
        &self.kind
    }

    /// Whether it belongs to this place and is written in this format.
    pub(crate) fn is_of(&self, kind: &PageKind) -> bool {
        let own = &*self.kind;
        let dim = u32::from_le_bytes([12, 13, 14, 15].map(|i| self.bytes.bytes()[i]));
        (own.layer, own.head, own.dim) == (kind.layer, kind.head, kind.dim)
            && self.bytes.bytes()[32..44] == kind.format_id()
            && dim as usize == kind.dim
    }

    /// Bytes of the page.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a page has a header.
    pub fn is_empty(&self) -> bool {
        false
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

    /// See [`PageBytes::consolidate`].
    pub(crate) fn consolidate(&mut self) {
        self.bytes.consolidate();
    }

    /// The bytes, for other pages of this size.
    pub(crate) fn into_bytes(self) -> PageBytes {
        self.bytes
    }

    /// Writable again, with the same content; a page of a body format cannot be.
    pub(crate) fn reopen(self) -> Result<WritablePage, SealedPage> {
        match self.kind.format {
            PageFormat::Exact(format) => Ok(WritablePage { kind: self.kind, format, bytes: self.bytes }),
            PageFormat::Body(_) => Err(self),
        }
    }

    /// A writable copy over other bytes of the same length, where [`SealedPage::reopen`] would succeed.
    pub(crate) fn copy_to(&self, mut bytes: PageBytes) -> Option<WritablePage> {
        let PageFormat::Exact(format) = self.kind.format else { return None };
        bytes.bytes_mut().copy_from_slice(self.bytes.bytes());
        Some(WritablePage { kind: self.kind.clone(), format, bytes })
    }

    /// Flips one bit, as failing memory would: for tests of what follows.
    #[doc(hidden)]
    pub fn damage(&self, byte: usize) {
        // SAFETY: not sound against concurrent readers; tests call it between steps.
        unsafe { *self.bytes.as_ptr().add(byte % self.bytes.len()) ^= 4 };
    }
}

fn seal(kind: Arc<PageKind>, start: u64, tokens: usize, mut bytes: PageBytes) -> SealedPage {
    let header = &mut bytes.bytes_mut()[..HEADER];
    header.fill(0);
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&[VERSION, u8::from(matches!(kind.format, PageFormat::Body(_)))]);
    header[8..10].copy_from_slice(&kind.layer.to_le_bytes());
    header[10..12].copy_from_slice(&kind.head.to_le_bytes());
    header[12..16].copy_from_slice(&(kind.dim as u32).to_le_bytes());
    header[16..24].copy_from_slice(&start.to_le_bytes());
    header[24..28].copy_from_slice(&(tokens as u32).to_le_bytes());
    header[32..44].copy_from_slice(&kind.format_id());
    let sum = checksum(bytes.bytes());
    bytes.bytes_mut()[CHECKSUM].copy_from_slice(&sum);
    SealedPage { kind, start, bytes }
}

/// Gives a page whose bytes were put together elsewhere the checksum that is right for them. Fewer than [`HEADER`] bytes stay
/// as they are.
pub fn reseal(page: &mut [u8]) {
    if page.len() >= HEADER {
        let sum = checksum(page);
        page[CHECKSUM].copy_from_slice(&sum);
    }
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
        let format = KvFormat::default();
        let kind = Arc::new(PageKind::new(3, 1, 16, PageFormat::Exact(format)));
        let pool = Pool::new(1 << 20);
        let bytes = pool.take(kind.bytes(), 1).unwrap().pop().unwrap();
        let page = WritablePage::new(kind.clone(), format, bytes);
        let row: Vec<f32> = (0..16 * 64).map(|i| i as f32).collect();
        // SAFETY: nobody else has the page.
        unsafe { page.write(&row, &row, 0) };
        let sealed = page.seal(128, PAGE_TOKENS);
        assert_eq!(sealed.verify(), Ok(()));
        let header = Header::verified(sealed.bytes.bytes()).unwrap();
        assert_eq!((header.body, header.layer, header.head, header.dim), (false, 3, 1, 16));
        assert_eq!((header.start, header.tokens, header.format), (128, 64, kind.format_id()));
        let mut copy = sealed.bytes.bytes().to_vec();
        copy[100] ^= 1;
        assert!(Header::verified(&copy).is_none() && Header::read(&copy) == Some(header));
        reseal(&mut copy);
        assert_eq!(Header::verified(&copy), Some(header));
        for at in (0..kind.bytes()).step_by(97) {
            sealed.damage(at);
            assert_eq!(sealed.verify(), Err(KvError::Corrupt { layer: 3, head: 1, start: 128 }), "byte {at}");
            sealed.damage(at);
        }
        assert_eq!(sealed.verify(), Ok(()));
    }
}
