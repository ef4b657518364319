//! Files that are not what was written give what is intact, or an error; never another block.

use crate::fixtures::{about, whole};
use crate::model::{self, Runs};
use cachalot_store::codec::Plain;
use cachalot_store::file::{FileError, KvFile, Layer};
use cachalot_store::{Block, Form, Page};
use proptest::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

const RUNS: Runs = Runs { lossless: true };

/// A small file: pages of 192 bytes, four blocks.
static FILE: LazyLock<(Vec<Block>, Vec<u8>)> = LazyLock::new(|| {
    let identity = model::identity();
    let pages =
        |start| (0..2).map(|head| Page { form: Form::Kept, bytes: model::encoded(0, head, 6, start) }).collect();
    let blocks = model::chain(identity.domain(), 200, &pages);
    let layer = Layer { dim: 6, encoded: vec![true; 2], ..Layer::default() };
    let bytes = whole(&identity, about("damage", vec![layer]), &blocks, &Plain);
    (blocks, bytes)
});

/// Reads all that can be read of `bytes`; how many blocks that were, and whether any damage was seen.
fn survivors(folder: &Path, bytes: &[u8], original: &[Block]) -> (usize, bool) {
    let path = folder.join("damaged.ckv");
    std::fs::write(&path, bytes).unwrap();
    let file = match KvFile::open(&path) {
        Ok(file) => file,
        Err(FileError::NotKvFile { .. } | FileError::Version { .. }) => return (0, true),
        Err(error) => panic!("{error}"),
    };
    let by_key: HashMap<_, _> = original.iter().map(|block| (block.key(), block)).collect();
    let mut count = 0;
    for (i, info) in file.blocks().iter().enumerate() {
        let block = by_key[&info.key];
        assert_eq!((info.parent, info.start, &info.tokens), (block.parent, block.start, &block.tokens));
        if let Ok(read) = file.read(i, &[&RUNS]) {
            assert_eq!(&&read, &block);
            count += 1;
        }
        for page in &block.pages {
            let header = page.header().unwrap();
            if let Ok(Some(read)) = file.page(i, (header.layer, header.head, page.form), &[&RUNS]) {
                assert_eq!(read, *page);
            }
            if let Some(bytes) = file.page_in_place(i, header.layer, header.head, page.form) {
                assert_eq!(bytes, page.bytes);
            }
        }
        file.missing(i).unwrap();
    }
    (count, !file.check(&[&RUNS]).unwrap().is_empty())
}

#[test]
fn one_changed_byte_costs_one_block_at_most() {
    let (blocks, bytes) = &*FILE;
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(survivors(folder.path(), bytes, blocks), (4, false));
    let mut unseen = 0;
    // Every third, which meets every field, and every bit of a byte.
    for at in (0..bytes.len()).step_by(3) {
        let mut broken = bytes.clone();
        broken[at] ^= 1 << (at / 3 % 8);
        let (count, seen) = survivors(folder.path(), &broken, blocks);
        // The magic of the whole file alone has nothing beside it that could tell.
        assert!(count >= if at < 8 { 0 } else { 3 }, "byte {at}: {count} blocks");
        assert!(count == 4 || seen, "byte {at}: a block was lost in silence");
        unseen += usize::from(!seen);
    }
    // Padding: behind identity, heads and index. (These pages have none.)
    assert!(unseen < 6 * 64 / 3, "{unseen}");
}

#[test]
fn a_file_that_was_cut_gives_the_blocks_before_the_cut() {
    let (blocks, bytes) = &*FILE;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("whole.ckv");
    std::fs::write(&path, bytes).unwrap();
    let ends: Vec<usize> = KvFile::open(&path).unwrap().blocks().iter().map(|b| (b.at + b.len) as usize).collect();
    for len in (0..bytes.len()).step_by(7).chain(ends.iter().flat_map(|&end| [end - 1, end])) {
        let (count, seen) = survivors(folder.path(), &bytes[..len], blocks);
        assert_eq!(count, ends.iter().filter(|&&end| end <= len).count(), "cut at {len}");
        assert!(seen);
    }
}

/// Every 64 bytes what could be the head of a block of all bytes behind it.
#[test]
fn a_file_of_nothing_but_beginnings_is_given_up() {
    let mut bytes = FILE.1[..64].to_vec();
    while bytes.len() < 2 << 20 {
        let from = bytes.len();
        bytes.extend_from_slice(b"CKVBLOCK\x01\0\0\0\x40\0\0\0");
        bytes.resize(from + 24, 0);
        bytes.extend_from_slice(&10_000_u32.to_le_bytes());
        bytes.resize(from + 64, 0);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("beginnings.ckv");
    std::fs::write(&path, bytes).unwrap();
    let file = KvFile::open(&path).unwrap();
    assert!(file.blocks().is_empty());
    assert!(file.damage().iter().any(|damage| damage.what.contains("too much")));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Bytes overwritten, taken out, put in, and moved about.
    #[test]
    fn nothing_that_happens_to_a_file_makes_another_block(
        changes in proptest::collection::vec((0..4_u8, any::<prop::sample::Index>(), 0..300_usize, any::<u8>()), 1..4),
        coded in any::<bool>(),
    ) {
        let (blocks, plain) = &*FILE;
        let mut bytes = plain.clone();
        if coded {
            bytes = whole(&model::identity(), about("coded", Vec::new()), blocks, &RUNS);
        }
        for (kind, at, len, fill) in changes {
            let at = at.index(bytes.len().max(1));
            let end = (at + len).min(bytes.len());
            match kind {
                0 => bytes[at..end].iter_mut().for_each(|byte| *byte = fill),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, std::iter::repeat_n(fill, len))),
                _ => {
                    let from = usize::from(fill) * 16 % bytes.len().max(1);
                    let copy = bytes[from..(from + len).min(bytes.len())].to_vec();
                    drop(bytes.splice(at..end, copy));
                }
            }
        }
        survivors(tempfile::tempdir().unwrap().path(), &bytes, blocks);
    }
}
