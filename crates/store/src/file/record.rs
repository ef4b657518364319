//! One block as bytes: what a file, a tier and a transfer have in common. See `docs/kv-file.md`, *Record*.

use super::bytes::{crc, pad};
use super::head::{self, Entry, Head};
use crate::{Block, Codec, Page, StoreError};

/// Appends a block, its pages written by `codec`; pages that a codec without loss does not make smaller are left as
/// they are.
///
/// # Errors
/// [`StoreError::Refused`] where the block is none: no tokens or too many, pages out of order or not what was sealed.
/// What the codec says. `out` is as it was then.
pub fn write(block: &Block, codec: &dyn Codec, out: &mut Vec<u8>) -> Result<(), StoreError> {
    let from = out.len();
    let written = append(block, codec, out);
    if written.is_err() {
        out.truncate(from);
    }
    written
}

fn append(block: &Block, codec: &dyn Codec, out: &mut Vec<u8>) -> Result<(), StoreError> {
    let from = out.len();
    let refuse = |what: String| StoreError::Refused { place: format!("block {}", block.key()), what };
    head::check_place(block.parent, block.start, block.tokens.len()).map_err(refuse)?;
    let name = Some(codec.name()).filter(|name| name != "none");
    if name.as_ref().is_some_and(|name| name.is_empty() || name.contains('\n')) {
        return Err(refuse(format!("the codec's name is {name:?}")));
    }
    let codecs: Vec<String> = name.into_iter().collect();
    let names = codecs.iter().map(String::len).sum();
    let first = head::first_page(block.tokens.len(), names, block.pages.len());
    out.resize(from + first, 0);
    let mut pages = Vec::with_capacity(block.pages.len());
    for page in &block.pages {
        let header = head::check_page(block.start, block.tokens.len(), page.form, &page.bytes).map_err(refuse)?;
        let at = out.len();
        let mut number = 0;
        if !codecs.is_empty() {
            codec.encode(&page.bytes, out)?;
            number = 1;
        }
        if number == 0 || (codec.is_lossless() && out.len() - at >= page.bytes.len()) {
            out.truncate(at);
            out.extend_from_slice(&page.bytes);
            number = 0;
        }
        let stored = out.len() - at;
        let (stored32, len) = (u32::try_from(stored).ok(), u32::try_from(page.bytes.len()).ok());
        let (Some(stored), Some(len)) = (stored32, len) else {
            return Err(refuse(format!("a page of {stored} bytes")));
        };
        pages.push(Entry {
            layer: header.layer,
            head: header.head,
            form: page.form,
            codec: number,
            stored,
            len,
            crc: crc(&out[at..]),
            at: (at - from) as u64,
        });
        pad(out, from);
    }
    let head = Head {
        domain: block.domain,
        key: block.key(),
        parent: block.parent,
        start: block.start,
        tokens: block.tokens.clone(),
        codecs,
        pages,
        len: (out.len() - from) as u64,
    };
    head.check().map_err(refuse)?;
    let mut bytes = Vec::with_capacity(first);
    head.write(&mut bytes);
    // What is read back is what was counted on above; limits are the reader's own.
    head::bytes_of(&bytes).map_err(refuse)?;
    out[from..from + bytes.len()].copy_from_slice(&bytes);
    Ok(())
}

/// All but the pages, of bytes that begin with a record.
///
/// # Errors
/// [`StoreError::Corrupt`] for anything that [`write`] cannot have written.
pub fn head(bytes: &[u8]) -> Result<Head, StoreError> {
    Head::read(bytes).map_err(|what| corrupt("record", what))
}

/// The block of a whole record.
///
/// # Errors
/// [`StoreError::Corrupt`] for anything that [`write`] cannot have written, in every byte that matters;
/// [`StoreError::Codec`] where a page was written by a codec that is not among `codecs`.
pub fn read(bytes: &[u8], codecs: &[&dyn Codec]) -> Result<Block, StoreError> {
    read_at("record", bytes, codecs)
}

/// The same, with errors that say where.
pub(super) fn read_at(place: &str, bytes: &[u8], codecs: &[&dyn Codec]) -> Result<Block, StoreError> {
    let head = Head::read(bytes).map_err(|what| corrupt(place, what))?;
    if head.len != bytes.len() as u64 {
        return Err(corrupt(place, format!("{} bytes of a record of {}", bytes.len(), head.len)));
    }
    let page = |entry: &Entry| {
        // A head that was checked has its pages within its length.
        let stored = usize::try_from(entry.at).ok().and_then(|at| bytes.get(at..at + entry.stored as usize));
        page(place, &head, entry, stored.unwrap_or_default(), codecs)
    };
    let pages = head.pages.iter().map(page).collect::<Result<Vec<Page>, StoreError>>()?;
    let Head { domain, parent, start, tokens, .. } = head;
    Ok(Block { domain, parent, start, tokens, pages })
}

/// One page of a record, from the bytes as stored.
pub(super) fn page(
    place: &str,
    head: &Head,
    entry: &Entry,
    stored: &[u8],
    codecs: &[&dyn Codec],
) -> Result<Page, StoreError> {
    let place = format!("{place}, page of layer {} head {}", entry.layer, entry.head);
    if stored.len() != entry.stored as usize || crc(stored) != entry.crc {
        return Err(corrupt(&place, "checksum of the bytes as stored".to_owned()));
    }
    let bytes = match usize::from(entry.codec).checked_sub(1).and_then(|i| head.codecs.get(i)) {
        None => stored.to_vec(),
        Some(name) => match codecs.iter().find(|codec| codec.name() == *name) {
            Some(codec) => codec.decode(stored, entry.len as usize).map_err(|error| within(&place, error))?,
            None => {
                let known: Vec<String> = codecs.iter().map(|codec| codec.name()).collect();
                return Err(StoreError::Codec { place, codec: name.clone(), known: format!("{known:?}") });
            }
        },
    };
    if bytes.len() != entry.len as usize {
        return Err(corrupt(&place, format!("{} bytes, where {} were written", bytes.len(), entry.len)));
    }
    let header = head.check_page(entry.form, &bytes).map_err(|what| corrupt(&place, what))?;
    match (header.layer, header.head) == (entry.layer, entry.head) {
        true => Ok(Page { form: entry.form, bytes }),
        false => Err(corrupt(&place, format!("a page of layer {} head {}", header.layer, header.head))),
    }
}

/// A codec does not know which page it was given.
fn within(place: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::Corrupt { place: inner, what } => corrupt(&format!("{place}, {inner}"), what),
        other => other,
    }
}

pub(super) fn corrupt(place: &str, what: String) -> StoreError {
    StoreError::Corrupt { place: place.to_owned(), what }
}
