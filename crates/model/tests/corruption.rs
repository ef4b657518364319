//! Damaged and dishonest files: a clear error that names the place, never a panic, never memory that the file's size
//! does not justify.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use cachalot_model::gguf::{self, Header};
use cachalot_model::load::safetensors_header;
use cachalot_model::{ModelError, load_weights};
use common::gguf_file::{Meta, Random, llama, string, text, unsigned};
use common::{fixtures, options};
use proptest::prelude::*;

/// Counts the bytes that each thread holds, and the most it ever held.
struct Counting;

thread_local! {
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // During the end of a thread there is nothing left to count in.
    let _ = HELD.try_with(|h| {
        let held = h.get().0 + bytes;
        h.set((held, h.get().1.max(held)));
    });
}

// SAFETY: hands everything to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f`, and tells how many bytes it held at most beyond those held before.
fn most_held<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|h| {
        h.set((h.get().0, h.get().0));
        h.get().0
    });
    let result = f();
    (result, HELD.with(|h| h.get().1 - before) as usize)
}

/// What parsing `len` bytes may cost: buffers, and metadata that is wider in memory than in the file.
fn allowance(len: usize) -> usize {
    (64 << 10) + 64 * len
}

fn parse_gguf(bytes: &[u8]) -> Result<Header, ModelError> {
    let (result, held) = most_held(|| gguf::parse(bytes, bytes.len() as u64, Path::new("test.gguf")));
    assert!(held <= allowance(bytes.len()), "{held} bytes held for a file of {}", bytes.len());
    result
}

fn parse_safetensors(bytes: &[u8]) -> Result<usize, ModelError> {
    let path = Path::new("test.safetensors");
    let (result, held) = most_held(|| safetensors_header(bytes, bytes.len() as u64, path).map(|h| h.tensors()));
    assert!(held <= allowance(bytes.len()), "{held} bytes held for a file of {}", bytes.len());
    result
}

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(path)).unwrap()
}

/// The first word of the section that a truncation names.
fn section(error: &ModelError, len: usize) -> String {
    match error {
        ModelError::Truncated { section, offset, len: told, .. } => {
            assert!(*told == len as u64 && *offset > len as u64, "{error}");
            section.split([',', '(']).next().unwrap().trim().to_owned()
        }
        other => panic!("at {len} bytes: {other}"),
    }
}

#[test]
fn gguf_cut_anywhere_names_section_and_offset() {
    let bytes = fixture("gemma3/model.gguf");
    let head = gguf::parse(&bytes[..], bytes.len() as u64, Path::new("x")).unwrap().data_offset as usize;
    let mut sections = Vec::new();
    // Every length of the header, and some within the data.
    for len in (0..head).chain((head..bytes.len()).step_by(4099)).chain([bytes.len() - 1]) {
        let found = section(&parse_gguf(&bytes[..len]).unwrap_err(), len);
        if sections.last() != Some(&found) {
            sections.push(found);
        }
    }
    assert_eq!(sections, ["magic", "version", "header", "metadata", "tensor list", "tensor data"]);
}

#[test]
fn safetensors_cut_anywhere_names_section_and_offset() {
    let bytes = fixture("llama-tied-mha/model.safetensors");
    let head = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut sections = Vec::new();
    for len in (0..head).chain((head..bytes.len()).step_by(1013)).chain([bytes.len() - 1]) {
        let found = section(&parse_safetensors(&bytes[..len]).unwrap_err(), len);
        if sections.last() != Some(&found) {
            sections.push(found);
        }
    }
    assert_eq!(sections, ["header length", "header", "tensor data"]);
}

#[test]
fn whole_models_cut_anywhere_do_not_load() {
    let folder = copy("llama-tied-mha");
    let file = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let mut random = Random(5);
    for _ in 0..30 {
        std::fs::write(&file, &bytes[..random.below(bytes.len())]).unwrap();
        assert!(matches!(load(folder.path()), Err(ModelError::Truncated { .. })));
    }
    let file = folder.path().join("cut.gguf");
    let bytes = fixture("qwen2/model.gguf");
    for _ in 0..30 {
        std::fs::write(&file, &bytes[..random.below(bytes.len())]).unwrap();
        assert!(matches!(load(&file), Err(ModelError::Truncated { .. })));
    }
}

#[test]
fn longer_files_and_wrong_beginnings_are_refused() {
    let mut bytes = fixture("llama-tied-mha/model.safetensors");
    bytes.push(0);
    assert!(matches!(parse_safetensors(&bytes), Err(ModelError::Malformed { .. })));
    bytes[..4].copy_from_slice(b"GGUF");
    assert!(matches!(parse_safetensors(&bytes), Err(ModelError::BadMagic { .. })));
    assert!(matches!(parse_safetensors(b"\x04\0\0\0\0\0\0\0abcd"), Err(ModelError::BadMagic { .. })));
    let error = parse_gguf(b"PK\x03\x04 a zip file, not a model").unwrap_err();
    assert!(matches!(error, ModelError::BadMagic { .. }) && error.to_string().contains("PK"), "{error}");
    let mut bytes = llama(32, 2, 2, 32, 1).to_bytes();
    bytes[4] = 1;
    assert!(parse_gguf(&bytes).unwrap_err().to_string().contains("version 1"));
    bytes[4..8].copy_from_slice(&3u32.to_be_bytes());
    assert!(parse_gguf(&bytes).unwrap_err().to_string().contains("big-endian"));
}

#[test]
fn huge_declared_lengths_cost_nothing() {
    for huge in [1u64 << 33, 1 << 60, u64::MAX] {
        let patch = |at: usize| {
            let mut bytes = llama(32, 2, 2, 32, 1).to_bytes();
            bytes[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            parse_gguf(&bytes).unwrap_err()
        };
        // Tensor count, key count, length of the first key.
        for at in [8, 16, 24] {
            assert!(matches!(patch(at), ModelError::Malformed { .. } | ModelError::Truncated { .. }));
        }
        let array = |kind: u32| [&kind.to_le_bytes()[..], &huge.to_le_bytes()].concat();
        for kind in [0, 5, 6, 8, 12] {
            let bytes = llama(32, 2, 2, 32, 1).set("array", Meta(9, array(kind))).to_bytes();
            let error = parse_gguf(&bytes).unwrap_err();
            assert!(matches!(error, ModelError::Malformed { .. } | ModelError::Truncated { .. }), "{kind}: {error}");
        }
        let bytes = llama(32, 2, 2, 32, 1).set("text", Meta(8, huge.to_le_bytes().to_vec())).to_bytes();
        assert!(matches!(parse_gguf(&bytes), Err(ModelError::Truncated { .. })));
        let bytes = llama(32, 2, 2, 32, 1).tensor("t", &[huge, huge], 0, vec![0; 4]).to_bytes();
        assert!(parse_gguf(&bytes).is_err());
        let mut bytes = fixture("llama-tied-mha/model.safetensors");
        bytes[..8].copy_from_slice(&huge.to_le_bytes());
        assert!(parse_safetensors(&bytes).is_err());
    }
    // The largest header that is read at all, in a file of a few bytes.
    let bytes = [&99_999_999u64.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(parse_safetensors(&bytes), Err(ModelError::Truncated { .. })));
}

#[test]
fn contradictions_in_gguf_headers_are_named() {
    let expect = |file: &mut common::gguf_file::GgufFile, named: &str| {
        let error = parse_gguf(&file.to_bytes()).unwrap_err();
        assert!(matches!(error, ModelError::Malformed { .. } | ModelError::Config { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    };
    let mut twice = llama(32, 2, 2, 32, 1);
    twice.meta.push(("llama.block_count".into(), unsigned(2)));
    expect(&mut twice, "llama.block_count");
    expect(llama(32, 2, 2, 32, 1).floats("t", &[1], &[1.0]).floats("t", &[1], &[1.0]), "listed twice");
    expect(llama(32, 2, 2, 32, 1).tensor("t", &[2, 33], 8, vec![0; 100]), "whole blocks");
    expect(llama(32, 2, 2, 32, 1).set("nested", Meta(9, [9u32.to_le_bytes(), [0; 4]].concat())), "arrays");
    expect(llama(32, 2, 2, 32, 1).set("strange", Meta(77, vec![])), "77");
    expect(llama(32, 2, 2, 32, 1).set("flag", Meta(7, vec![3])), "boolean");
    expect(llama(32, 2, 2, 32, 1).set("general.alignment", unsigned(7)), "general.alignment");
    let bad_text = [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat();
    expect(llama(32, 2, 2, 32, 1).set("text", Meta(8, bad_text)), "UTF-8");
    expect(llama(32, 2, 2, 32, 1).tensor("t", &[1, 1, 1, 1, 1], 0, vec![0; 4]), "5 dimensions");
}

#[test]
fn overlapping_tensors_are_refused() {
    let mut file = llama(32, 2, 2, 32, 1);
    file.floats("first", &[64], &[0.0; 64]).floats("second", &[8], &[0.0; 8]);
    let mut bytes = file.to_bytes();
    // The offset of the second is the last thing before its data.
    let at = bytes.windows(14).position(|w| w == string("second")).unwrap() + 14 + 4 + 8 + 4;
    bytes[at..at + 8].copy_from_slice(&32u64.to_le_bytes());
    assert!(parse_gguf(&bytes).unwrap_err().to_string().contains("overlaps"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mutated_headers_never_panic_or_take_memory(seed: u64, bytes in 1usize..6) {
        let mut random = Random(seed);
        let mutate = |original: &[u8], within: usize, random: &mut Random| {
            let mut copy = original.to_vec();
            for _ in 0..bytes {
                copy[random.below(within)] = random.next() as u8;
            }
            copy
        };
        let gguf = fixture("llama-llama3/model.gguf");
        let _ = parse_gguf(&mutate(&gguf, 2500, &mut random));
        let safetensors = fixture("llama-tied-mha/model.safetensors");
        let head = 8 + u64::from_le_bytes(safetensors[..8].try_into().unwrap()) as usize;
        let _ = parse_safetensors(&mutate(&safetensors, head, &mut random));
    }
}

#[test]
fn mutated_models_load_or_say_why() {
    let folder = copy("llama-tied-mha");
    let mut random = Random(11);
    let mut loaded = 0;
    for name in ["config.json", "model.safetensors"] {
        let file = folder.path().join(name);
        let bytes = std::fs::read(&file).unwrap();
        for _ in 0..60 {
            let mut copy = bytes.clone();
            copy[random.below(bytes.len())] = random.next() as u8;
            std::fs::write(&file, copy).unwrap();
            loaded += usize::from(load(folder.path()).is_ok());
        }
        std::fs::write(&file, bytes).unwrap();
    }
    let file = folder.path().join("mutated.gguf");
    let bytes = fixture("gemma3/model.gguf");
    for _ in 0..60 {
        let mut copy = bytes.clone();
        copy[random.below(3000)] = random.next() as u8;
        std::fs::write(&file, copy).unwrap();
        loaded += usize::from(load(&file).is_ok());
    }
    // A bit of a weight may flip unnoticed here; most of the rest may not.
    assert!(loaded > 0 && loaded < 160, "{loaded}");
}

fn load(path: &Path) -> Result<cachalot_model::Model, ModelError> {
    load_weights(path, &options()).map(|(model, _)| model)
}

/// A fixture in a folder that may be spoilt.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixtures().join(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn a_model_split_over_gguf_files_says_how_to_join_them() {
    let mut file = llama(32, 2, 2, 32, 1);
    file.set("split.count", unsigned(3)).set("general.name", text("part"));
    let error = parse_gguf(&file.to_bytes()).unwrap_err();
    assert!(error.to_string().contains("--merge"), "{error}");
}
