//! Committed KV files, their records and coded pages with changes that a seed chooses: whatever the bytes, an error or what is
//! intact.
//!
//! `KV_COPIES=100000 cargo test -p cachalot-store --test mutations` tries more of them. `fuzz/` looks further from the same
//! beginnings, which it gets by `KV_CORPUS=$PWD/fuzz/corpus cargo test -p cachalot-store --test mutations -- --ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod checks;
#[path = "../tiers_simulation/rng.rs"]
mod rng;

use std::path::Path;

use cachalot_store::codec::Plain;
use cachalot_store::file::{KvFile, record};

use rng::Rng;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/kv-file");
/// Changed copies of each beginning.
fn copies_of_each() -> usize {
    std::env::var("KV_COPIES").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

/// The committed files, damaged ones too.
fn files() -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "ckv")).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Their blocks, written by every codec that can write them.
fn records() -> Vec<Vec<u8>> {
    let (codecs, mut records) = (checks::codecs(), Vec::new());
    for name in ["v1-plain", "v1-recipe", "v1-sliding"] {
        let file = KvFile::open(Path::new(FOLDER).join(name).with_extension("ckv")).unwrap();
        let blocks = (0..file.blocks().len()).filter_map(|i| file.read(i, &[&Plain]).ok());
        for block in blocks {
            for codec in &codecs {
                let mut bytes = Vec::new();
                if record::write(&block, &**codec, &mut bytes).is_ok() {
                    records.push(bytes);
                }
            }
        }
    }
    records
}

/// Their pages, coded, with what [`checks::codec`] wants before them.
fn pages() -> Vec<Vec<u8>> {
    let (codecs, mut pages) = (checks::codecs(), Vec::new());
    for bytes in records() {
        let Ok(block) = record::read(&bytes, &[&Plain]) else { continue };
        for page in block.pages {
            for (which, codec) in codecs.iter().enumerate() {
                let len = u16::try_from(page.bytes.len()).unwrap().to_le_bytes();
                let mut coded = vec![which as u8, len[0], len[1]];
                if codec.encode(&page.bytes, &mut coded).is_ok() {
                    pages.push(coded);
                }
            }
        }
    }
    pages.sort();
    pages.dedup();
    pages
}

/// A copy with one to four changes: bits, bytes, numbers at their edges, parts that are missing, doubled or of another.
fn changed(rng: &mut Rng, all: &[Vec<u8>], of: usize) -> Vec<u8> {
    let mut bytes = all[of].clone();
    for _ in 0..1 + rng.below(4) {
        let (at, len) = (rng.below(bytes.len()), 1 + rng.below(64));
        let end = (at + len).min(bytes.len());
        match rng.below(8) {
            _ if bytes.is_empty() => bytes.push(0),
            0 | 1 => bytes[at] ^= 1 << rng.below(8),
            2 => bytes[at] = rng.next() as u8,
            3 => {
                let edges = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 32, u64::MAX];
                let edge = edges[rng.below(edges.len())].to_le_bytes();
                let wide = [2, 4, 8][rng.below(3)].min(bytes.len() - at);
                bytes[at..at + wide].copy_from_slice(&edge[..wide]);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..end)),
            6 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let other = &all[rng.below(all.len())];
                let from = rng.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

fn copies(all: &[Vec<u8>], seed: u64, mut see: impl FnMut(&[u8])) {
    let mut rng = Rng(seed);
    for of in 0..all.len() {
        (0..copies_of_each()).for_each(|_| see(&changed(&mut rng, all, of)));
    }
}

#[test]
fn files_with_any_change_give_what_is_intact() {
    let files = files();
    assert!(files.len() >= 6 && files.iter().any(|bytes| checks::file(bytes) >= 2));
    let mut survived = 0;
    copies(&files, 1, |bytes| survived += usize::from(checks::file(bytes) > 0));
    // A change that leaves nothing to be had would test little.
    assert!(survived > files.len() * copies_of_each() / 4, "{survived}");
}

#[test]
fn records_with_any_change_are_refused_or_whole() {
    let records = records();
    assert!(records.len() > 20 && records.iter().all(|bytes| checks::record(bytes)));
    let mut read = 0;
    copies(&records, 2, |bytes| read += usize::from(checks::record(bytes)));
    // Other bytes of a coded page may be another page; nothing else that is changed is believed.
    assert!(read > 0, "no change reached what lies behind the checksums");
}

#[test]
fn coded_pages_with_any_change_give_their_length_or_an_error() {
    let pages = pages();
    assert!(pages.len() > 30 && pages.iter().all(|bytes| checks::codec(bytes)));
    let mut decoded = 0;
    copies(&pages, 3, |bytes| decoded += usize::from(checks::codec(bytes)));
    assert!(decoded > 0, "no change reached what lies behind the checksums");
}

/// Where the fuzz targets begin.
#[test]
#[ignore = "writes files: KV_CORPUS=FOLDER"]
fn corpora() {
    let folder = std::env::var("KV_CORPUS").expect("KV_CORPUS=FOLDER");
    for (target, seeds) in [("kv_file", files()), ("kv_record", records()), ("kv_codec", pages())] {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder).unwrap();
        for seed in seeds {
            let name = blake3::hash(&seed).to_hex()[..16].to_owned();
            std::fs::write(folder.join(name), seed).unwrap();
        }
    }
}
