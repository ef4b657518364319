//! Writing and reading whole files.

use crate::fixtures::about;
use crate::model::{self, F16, Runs};
use cachalot_store::codec::Plain;
use cachalot_store::file::{About, FileError, KvFile, KvFileWriter};
use cachalot_store::{Block, Form, Identity};

fn blocks(identity: &Identity) -> Vec<Block> {
    model::chain(identity.domain(), 150, &|start| model::plain(start, &[(2, 16)], [F16, F16]))
}

#[test]
fn a_file_gives_back_its_blocks_and_pages_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.ckv");
    let identity = model::identity();
    let blocks = blocks(&identity);
    let mut writer = KvFileWriter::create(&path, &identity, about("chat", Vec::new())).unwrap();
    let codec = Runs { lossless: false };
    writer.add(&blocks[0], &Plain).unwrap();
    writer.add(&blocks[1], &codec).unwrap();
    writer.add(&blocks[2], &Plain).unwrap();
    writer.finish().unwrap();

    let file = KvFile::open(&path).unwrap();
    assert!(file.damage().is_empty() && file.check(&[]).unwrap().is_empty());
    assert_eq!(file.domain(), Some(identity.domain()));
    assert!(file.writer().unwrap().starts_with("cachalot "));
    for (i, block) in blocks.iter().enumerate() {
        let info = &file.blocks()[i];
        assert_eq!((info.key, info.parent, info.start), (block.key(), block.parent, block.start));
        assert_eq!(info.tokens, block.tokens);
        assert_eq!(file.read(i, &[&codec]).unwrap(), *block);
        for (head, page) in block.pages.iter().enumerate() {
            let in_place = file.page_in_place(i, 0, head as u16, Form::Kept);
            assert_eq!(in_place, (i != 1).then_some(&page.bytes[..]), "coded pages are not pages");
            assert!(in_place.is_none_or(|bytes| (bytes.as_ptr() as usize).is_multiple_of(64)));
        }
        assert_eq!(file.page_in_place(i, 0, 0, Form::Exact), None);
        assert_eq!(file.page(i, (1, 0, Form::Kept), &[]).unwrap(), None);
    }
    assert_eq!(file.missing(2).unwrap(), None, "nothing is said of the layers");
    assert!(file.read(3, &[]).is_err());
    assert!(!std::fs::read(&path).unwrap().windows(3).any(|w| w == b"Ada"), "the tenant in clear");
}

#[test]
fn a_writer_that_is_given_up_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.ckv");
    std::fs::write(&path, b"before").unwrap();
    let identity = model::identity();
    let mut writer = KvFileWriter::create(&path, &identity, About::default()).unwrap();
    writer.add(&blocks(&identity)[0], &Plain).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), b"before");

    KvFileWriter::create(&path, &identity, About::default()).unwrap().finish().unwrap();
    assert!(KvFile::open(&path).unwrap().blocks().is_empty());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("no/such.ckv");
    assert!(matches!(KvFileWriter::create(nowhere, &identity, About::default()), Err(FileError::Io { .. })));
}

#[test]
fn blocks_of_others_and_blocks_twice_are_refused_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.ckv");
    let identity = model::identity();
    let mine = blocks(&identity);
    let other = blocks(&Identity { tenant: "Grace".into(), ..identity.clone() });
    let mut broken = mine[1].clone();
    broken.pages[0].bytes[70] ^= 1;
    let mut writer = KvFileWriter::create(&path, &identity, About::default()).unwrap();
    writer.add(&mine[0], &Plain).unwrap();
    assert!(matches!(writer.add(&other[1], &Plain), Err(FileError::Refused { .. })));
    assert!(matches!(writer.add(&mine[0], &Plain), Err(FileError::Refused { .. })));
    assert!(matches!(writer.add(&broken, &Plain), Err(FileError::Block(_))));
    writer.add(&mine[1], &Plain).unwrap();
    writer.finish().unwrap();
    let file = KvFile::open(&path).unwrap();
    assert_eq!((0..2).map(|i| file.read(i, &[]).unwrap()).collect::<Vec<_>>(), mine[..2]);
}

#[test]
fn errors_name_the_file_and_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.ckv");
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        KvFile::open(&path).err().unwrap().to_string()
    };
    for bytes in [&b""[..], b"\x89CKV\n\x1a\n", b"a text"] {
        let text = error(bytes);
        assert!(text.contains("chat.ckv: no KV file") && text.contains("save the session again"), "{text}");
    }
    KvFileWriter::create(&path, &model::identity(), About::default()).unwrap().finish().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 7;
    let sum = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&sum);
    let text = error(&bytes);
    assert!(text.contains("version 7") && text.contains("`cachalot ") && text.contains("reads version 1"), "{text}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(KvFile::open(&path), Err(FileError::Io { .. })));
}
