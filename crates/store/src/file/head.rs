//! What stands before the pages of a record: names, tokens, and where which page lies.

use super::VERSION;
use super::bytes::{ALIGN, Fields, crc, padded, put_tokens};
use crate::{BlockKey, Domain, Form};
use cachalot_kv::page::{HEADER, Header};

/// First bytes of a record.
pub(super) const MAGIC: &[u8; 8] = b"CKVBLOCK";
/// Bytes before the tokens.
pub(super) const FIXED: usize = 144;
/// Tokens of a whole block.
pub(super) const BLOCK_TOKENS: usize = 64;
/// The most that is believed of anything read from outside.
pub(super) const MAX_PAGES: usize = 1 << 18;
const MAX_NAMES: usize = 4096;
const MAX_PAGE: usize = 16 << 20;
const ENTRY: usize = 32;
const HAS_PARENT: u16 = 1;

/// A page of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Layer of the lane.
    pub layer: u16,
    /// KV head of the lane.
    pub head: u16,
    /// How it stands there.
    pub form: Form,
    /// 0 for bytes as they are, else the codec of this number in [`Head::codecs`], counted from 1.
    pub codec: u8,
    /// Bytes in the record.
    pub stored: u32,
    /// Bytes of the page.
    pub len: u32,
    /// Of the bytes in the record.
    pub crc: u32,
    /// Where they are, from the start of the record.
    pub at: u64,
}

/// All of a record but its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose the block is.
    pub domain: Domain,
    /// Its name; right for all that it depends on.
    pub key: BlockKey,
    /// The block before it.
    pub parent: Option<BlockKey>,
    /// Position of its first token.
    pub start: u64,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Codecs of its pages.
    pub codecs: Vec<String>,
    /// Its pages, in the order of layers, heads and forms.
    pub pages: Vec<Entry>,
    /// Bytes of the whole record.
    pub len: u64,
}

impl Entry {
    fn order(&self) -> (u16, u16, Form) {
        (self.layer, self.head, self.form)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.layer.to_le_bytes());
        out.extend_from_slice(&self.head.to_le_bytes());
        out.extend_from_slice(&[self.form as u8, self.codec, 0, 0]);
        [self.stored, self.len, self.crc, 0].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        out.extend_from_slice(&self.at.to_le_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Entry> {
        let (layer, head) = (fields.u16()?, fields.u16()?);
        let [form, codec, ..] = fields.array::<4>()?;
        let form = match form {
            0 => Form::Kept,
            1 => Form::Exact,
            _ => return None,
        };
        let (stored, len, crc, _) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        Some(Entry { layer, head, form, codec, stored, len, crc, at: fields.u64()? })
    }
}

/// Bytes before the pages, without padding.
fn bytes(tokens: usize, names: usize, pages: usize) -> usize {
    FIXED + 4 * tokens + names + ENTRY * pages + 4
}

/// Where the pages of a block begin.
pub(super) fn first_page(tokens: usize, names: usize, pages: usize) -> usize {
    bytes(tokens, names, pages).next_multiple_of(ALIGN as usize)
}

/// Bytes of the head whose first [`FIXED`] bytes these are.
pub(super) fn bytes_of(fixed: &[u8]) -> Result<usize, String> {
    let mut fields = Fields(fixed);
    let short = || format!("{} bytes where the head of a block has {FIXED} and more", fixed.len());
    if fields.slice(MAGIC.len()).ok_or_else(short)? != MAGIC {
        return Err("no block begins here".to_owned());
    }
    let (version, _flags) = (fields.u16().ok_or_else(short)?, fields.u16().ok_or_else(short)?);
    if version != VERSION {
        return Err(format!("a block of version {version}, where {VERSION} is read"));
    }
    let tokens = fields.u32().ok_or_else(short)? as usize;
    let _start = fields.u64().ok_or_else(short)?;
    let (pages, names) = (fields.u32().ok_or_else(short)? as usize, fields.u32().ok_or_else(short)? as usize);
    if tokens == 0 || tokens > BLOCK_TOKENS || pages > MAX_PAGES || names > MAX_NAMES {
        return Err(format!("a head of {tokens} tokens, {pages} pages and {names} bytes of names"));
    }
    Ok(bytes(tokens, names, pages))
}

impl Head {
    /// The head that `bytes` begin with.
    pub(super) fn read(bytes: &[u8]) -> Result<Head, String> {
        let len = bytes_of(bytes)?;
        let cut = || format!("{} bytes of a head of {len}", bytes.len());
        let (body, sum) = bytes.get(..len).and_then(|head| head.split_last_chunk::<4>()).ok_or_else(cut)?;
        if crc(body) != u32::from_le_bytes(*sum) {
            return Err("checksum of the head of a block".to_owned());
        }
        let head = Head::fields(body).ok_or("a head with a right checksum and wrong fields")?;
        head.check().map(|()| head)
    }

    fn fields(body: &[u8]) -> Option<Head> {
        let mut fields = Fields(body);
        fields.slice(10)?;
        let (flags, tokens, start) = (fields.u16()?, fields.u32()? as usize, fields.u64()?);
        let (pages, names, len, _) = (fields.u32()? as usize, fields.u32()? as usize, fields.u64()?, fields.u64()?);
        let (domain, key, parent) = (Domain(fields.array()?), BlockKey(fields.array()?), BlockKey(fields.array()?));
        let parent = (flags & HAS_PARENT != 0).then_some(parent);
        let tokens = fields.tokens(tokens)?;
        let names = std::str::from_utf8(fields.slice(names)?).ok()?;
        let codecs = if names.is_empty() { Vec::new() } else { names.split('\n').map(str::to_owned).collect() };
        let pages = (0..pages).map(|_| Entry::read(&mut fields)).collect::<Option<Vec<Entry>>>()?;
        Some(Head { domain, key, parent, start, tokens, codecs, pages, len })
    }

    /// Whether a writer can have written it.
    pub(super) fn check(&self) -> Result<(), String> {
        check_place(self.parent, self.start, self.tokens.len())?;
        if self.key != self.domain.key(self.parent, &self.tokens) {
            return Err("a key that is not that of its tokens".to_owned());
        }
        if !self.pages.is_sorted_by(|a, b| a.order() < b.order()) {
            return Err("pages that are not in the order of layers, heads and forms, or twice".to_owned());
        }
        let mut at = first_page(self.tokens.len(), self.names().len(), self.pages.len()) as u64;
        for page in &self.pages {
            let (stored, len) = (page.stored as usize, page.len as usize);
            let plain = page.codec == 0 && stored != len;
            if page.at != at || plain || !(HEADER..=MAX_PAGE).contains(&len) || stored > 2 * MAX_PAGE {
                return Err(format!("a page of {len} bytes, {stored} of them stored, at {}", page.at));
            }
            if usize::from(page.codec) > self.codecs.len() {
                return Err(format!("a page with codec {} of {}", page.codec, self.codecs.len()));
            }
            at = padded(at + u64::from(page.stored)).ok_or("pages beyond all measure")?;
        }
        match self.len == at {
            true => Ok(()),
            false => Err(format!("a record of {} bytes whose pages end at {at}", self.len)),
        }
    }

    /// Whether a page says of itself what the record says of it.
    pub(super) fn check_page(&self, form: Form, page: &[u8]) -> Result<Header, String> {
        check_page(self.start, self.tokens.len(), form, page)
    }

    pub(super) fn names(&self) -> String {
        self.codecs.join("\n")
    }

    /// Everything up to the padding before the first page.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let (from, names) = (out.len(), self.names());
        out.extend_from_slice(MAGIC);
        let flags = if self.parent.is_some() { HAS_PARENT } else { 0 };
        [VERSION, flags].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        out.extend_from_slice(&(self.tokens.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.start.to_le_bytes());
        [self.pages.len(), names.len()].iter().for_each(|&n| out.extend_from_slice(&(n as u32).to_le_bytes()));
        [self.len, 0].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        let parent = self.parent.map_or([0; 32], |key| key.0);
        [self.domain.0, self.key.0, parent].iter().for_each(|digest| out.extend_from_slice(digest));
        put_tokens(&self.tokens, out);
        out.extend_from_slice(names.as_bytes());
        self.pages.iter().for_each(|page| page.write(out));
        let sum = crc(&out[from..]);
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

/// Whether a block can stand there.
pub(super) fn check_place(parent: Option<BlockKey>, start: u64, tokens: usize) -> Result<(), String> {
    if tokens == 0 || tokens > BLOCK_TOKENS {
        return Err(format!("a block of {tokens} tokens; it has 1 to {BLOCK_TOKENS}"));
    }
    if !start.is_multiple_of(BLOCK_TOKENS as u64) || (start == 0) != parent.is_none() || start > u64::MAX / 2 {
        return Err(format!(
            "a block at position {start} {} a parent",
            if parent.is_some() { "with" } else { "without" }
        ));
    }
    Ok(())
}

/// Whether these bytes are a page of a block at `start`.
pub(super) fn check_page(start: u64, tokens: usize, form: Form, page: &[u8]) -> Result<Header, String> {
    if page.len() > MAX_PAGE {
        return Err(format!("a page of {} bytes; the most is {MAX_PAGE}", page.len()));
    }
    let header = Header::verified(page).ok_or("a page that is not what was sealed (its own checksum)")?;
    if header.start != start || (header.tokens as usize) < tokens || (header.body && form == Form::Exact) {
        return Err(format!("a page of another place or form in a block of {tokens} tokens at {start}: {header:?}"));
    }
    Ok(header)
}
