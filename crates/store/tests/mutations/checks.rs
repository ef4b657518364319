//! What must hold of any bytes that are read as a KV file, as one of its records, or as a page that a codec wrote. The fuzz
//! targets of `fuzz/` are these functions.

use std::io::Write;

use cachalot_store::codec::{Codec, Plain, named};
use cachalot_store::file::{KvFile, record};

/// Every codec there is without a profile.
pub fn codecs() -> Vec<Box<dyn Codec>> {
    let names = ["none", "lossless", "zstd", "cachegen-1", "cachegen-2", "cachegen-3"];
    names.iter().map(|name| named(name, &[]).expect("a codec of this name")).collect()
}

/// Bytes of a record's head before its tokens, and of each page in it; see `docs/kv-file.md`, *Record*.
const FIXED: usize = 144;
const ENTRY: usize = 32;

/// The record with checksums that are right for what it says: few changes get past those.
fn repaired(data: &[u8]) -> Option<Vec<u8>> {
    let number = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let (tokens, pages, names) = (number(data, 12)?, number(data, 24)?, number(data, 28)?);
    let first = FIXED.checked_add(tokens.checked_mul(4)?)?.checked_add(names)?;
    let end = first.checked_add(pages.checked_mul(ENTRY)?)?;
    let mut bytes = data.to_vec();
    bytes.get(end..end.checked_add(4)?)?;
    for entry in (first..end).step_by(ENTRY) {
        let (stored, at) = (number(data, entry + 8)?, number(data, entry + 24)?);
        if let Some(page) = at.checked_add(stored).and_then(|end| data.get(at..end)) {
            bytes[entry + 16..entry + 20].copy_from_slice(&crc32fast::hash(page).to_le_bytes());
        }
    }
    let sum = crc32fast::hash(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&sum.to_le_bytes());
    Some(bytes)
}

/// A record, as it is and with checksums that are right: an error, or a block that is written and read back as it is. Whether
/// either was a block.
pub fn record(data: &[u8]) -> bool {
    let with_right_sums = repaired(data).is_some_and(|bytes| one_record(&bytes));
    one_record(data) || with_right_sums
}

fn one_record(data: &[u8]) -> bool {
    let codecs = codecs();
    let codecs: Vec<&dyn Codec> = codecs.iter().map(|codec| &**codec).collect();
    let Ok(block) = record::read(data, &codecs) else { return false };
    let mut again = Vec::new();
    record::write(&block, &Plain, &mut again).expect("what was read can be written");
    assert_eq!(record::read(&again, &[&Plain]).expect("and read"), block);
    true
}

/// A whole file: an error, or blocks of which each can be had or not, by every way there is, with the same bytes.
pub fn file(data: &[u8]) -> usize {
    let mut at = tempfile::NamedTempFile::new().expect("a temporary file");
    at.write_all(data).expect("room for it");
    let Ok(file) = KvFile::open(at.path()) else { return 0 };
    let codecs = codecs();
    let codecs: Vec<&dyn Codec> = codecs.iter().map(|codec| &**codec).collect();
    let mut whole = 0;
    for i in 0..file.blocks().len() {
        let read = file.read(i, &codecs);
        if let Ok(block) = &read {
            assert_eq!(block.key(), file.blocks()[i].key);
            whole += 1;
        }
        let Ok(head) = file.head(i) else {
            assert!(read.is_err());
            continue;
        };
        let mut all = true;
        for entry in &head.pages {
            let place = (entry.layer, entry.head, entry.form);
            let page = file.page(i, place, &codecs);
            if let Some(bytes) = file.page_in_place(i, entry.layer, entry.head, entry.form) {
                assert!(page.as_ref().is_ok_and(|page| page.as_ref().is_some_and(|page| page.bytes == bytes)));
            }
            all &= page.is_ok();
        }
        assert!(read.is_err() || all, "a block of pages that cannot be had");
        let _ = file.missing(i);
    }
    file.check(&codecs).expect("only the disk can fail here");
    whole
}

/// A page as a codec wrote it, behind a byte that says which and two of its length: an error, or that many bytes.
pub fn codec(data: &[u8]) -> bool {
    let [which, low, high, coded @ ..] = data else { return false };
    let (codecs, len) = (codecs(), usize::from(u16::from_le_bytes([*low, *high])));
    let page = codecs[usize::from(*which) % codecs.len()].decode(coded, len);
    assert!(page.as_ref().is_err() || page.as_ref().is_ok_and(|page| page.len() == len));
    page.is_ok()
}
