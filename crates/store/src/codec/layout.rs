//! Where keys and values lie in a page of plain elements.

use crate::StoreError;
use cachalot_kernels::attention::{Element, PAGE_TOKENS};
use cachalot_kernels::simd::LANES;
use cachalot_kv::page::{HEADER, Header};
use std::ops::Range;

/// Channels of a head beyond which a header is not believed.
const MAX_DIM: usize = 1 << 16;

/// Keys or values of a page: `rows` of `width` elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    /// Its bytes in the page.
    pub range: Range<usize>,
    /// Type of its elements.
    pub element: Element,
    /// Whether rows are channels (keys) or tokens (values).
    pub by_channel: bool,
    /// Channels, with the padding.
    pub channels: usize,
}

impl Side {
    /// Elements.
    pub fn len(&self) -> usize {
        self.channels * PAGE_TOKENS
    }
}

/// Keys and values of a page in plain elements; what is behind them is padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Keys, `[channels][tokens]`.
    pub keys: Side,
    /// Values, `[tokens][channels]`.
    pub values: Side,
}

impl Layout {
    /// Of a page of `len` bytes; none where a recipe wrote it, or the length is not that of such a page.
    pub fn of(header: &Header, len: usize) -> Option<Layout> {
        let element = |byte: u8| Element::ALL.into_iter().find(|&element| element as u8 == byte);
        let (k, v) = (element(header.format[0])?, element(header.format[1])?);
        let dim = header.dim as usize;
        if header.body || dim == 0 || dim > MAX_DIM {
            return None;
        }
        let channels = dim.next_multiple_of(LANES);
        let middle = HEADER + PAGE_TOKENS * channels * k.bytes();
        let end = middle + PAGE_TOKENS * channels * v.bytes();
        (end <= len).then_some(Layout {
            keys: Side { range: HEADER..middle, element: k, by_channel: true, channels },
            values: Side { range: middle..end, element: v, by_channel: false, channels },
        })
    }
}

/// The header of a page, or the error of a codec that was given something else.
pub(crate) fn header_of(page: &[u8]) -> Result<Header, StoreError> {
    Header::verified(page).ok_or_else(|| corrupt("no page: magic, version or checksum are not those of one"))
}

/// [`StoreError::Corrupt`] of a page; whoever knows the file says so.
pub(crate) fn corrupt(what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { place: "page".to_owned(), what: what.into() }
}

/// Bytes that are taken from the front.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Of all of them.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// The next `n`.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], StoreError> {
        let (head, rest) = self.0.split_at_checked(n).ok_or_else(|| corrupt("the coded page ends too early"))?;
        self.0 = rest;
        Ok(head)
    }

    /// The next one.
    pub fn byte(&mut self) -> Result<u8, StoreError> {
        Ok(self.take(1)?[0])
    }

    /// The next two, little-endian.
    pub fn short(&mut self) -> Result<usize, StoreError> {
        let bytes = self.take(2)?;
        Ok(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    }

    /// All that are left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// That there are none left.
    pub fn end(self) -> Result<(), StoreError> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(corrupt(format!("{more} bytes too many in the coded page"))),
        }
    }
}

/// Appends a page's header without its zeros: a bitmap of the other bytes, then these.
pub(crate) fn put_header(page: &[u8], out: &mut Vec<u8>) {
    let header = &page[..HEADER];
    let bitmap = header.iter().enumerate().fold(0_u64, |map, (i, &byte)| map | u64::from(byte != 0) << i);
    out.extend_from_slice(&bitmap.to_le_bytes());
    out.extend(header.iter().filter(|&&byte| byte != 0));
}

/// Reads what [`put_header`] wrote to the front of a page.
pub(crate) fn take_header(from: &mut Reader<'_>, page: &mut [u8]) -> Result<Header, StoreError> {
    let mut bitmap = [0; 8];
    bitmap.copy_from_slice(from.take(8)?);
    let bitmap = u64::from_le_bytes(bitmap);
    let bytes = from.take(bitmap.count_ones() as usize)?;
    let page = page.get_mut(..HEADER).ok_or_else(|| corrupt("a page shorter than its header"))?;
    let set = page.iter_mut().enumerate().filter(|(i, _)| bitmap >> i & 1 == 1);
    set.zip(bytes).for_each(|((_, to), &byte)| *to = byte);
    Header::read(page).ok_or_else(|| corrupt("the coded page has the header of something else"))
}
