//! Committed files of every version, as we read them and as Python does.

use crate::model::{self, BF16, F16, F32, Runs};
use crate::report::report;
use cachalot_store::codec::Plain;
use cachalot_store::file::{About, KvFile, KvFileWriter, Layer, record};
use cachalot_store::{Block, Codec, Form, Identity, Page};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/kv-file");

pub fn about(session: &str, layers: Vec<Layer>) -> About {
    let meta = json!({"session": session, "turns": 2, "created": "2026-01-01T00:00:00Z"});
    About {
        model: "made up".to_owned(),
        tokenizer: "made up, too".to_owned(),
        template: Some([0x44; 32]),
        layers,
        meta: meta.as_object().unwrap().clone(),
    }
}

pub fn whole(identity: &Identity, about: About, blocks: &[Block], codec: &dyn Codec) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ckv");
    let mut writer = KvFileWriter::create(&path, identity, about).unwrap();
    blocks.iter().for_each(|block| writer.add(block, codec).unwrap());
    writer.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// Two layers of two and one heads in half floats.
fn plain() -> Vec<u8> {
    let identity = model::identity();
    let blocks = model::chain(identity.domain(), 100, &|start| model::plain(start, &[(2, 6), (1, 6)], [F16, F16]));
    let layer = |heads| Layer { dim: 6, encoded: vec![false; heads], ..Layer::default() };
    whole(&identity, about("plain", vec![layer(2), layer(1)]), &blocks, &Plain)
}

/// A layer with a sliding window, of which only what the next token sees is there: from 128, where a token more would need
/// the page before it.
fn sliding() -> Vec<u8> {
    let identity = Identity { dtype: "k=bf16,v=f32".into(), tenant: String::new(), ..model::identity() };
    let pages = |start| {
        let mut pages = model::plain(start, &[(1, 6), (1, 6)], [BF16, F32]);
        pages.truncate(if start < 128 { 1 } else { 2 });
        pages
    };
    let blocks = model::chain(identity.domain(), 200, &pages);
    let layer = |sliding| Layer { dim: 6, sliding, encoded: vec![false], ..Layer::default() };
    whole(&identity, about("sliding", vec![layer(None), layer(Some(73))]), &blocks, &Plain)
}

/// A recipe with sinks and a window, and one exact page too few.
fn recipe() -> Vec<u8> {
    let identity = Identity { adapter: Some([0x55; 32]), recipe: "made up".into(), ..model::identity() };
    let pages = |start| {
        let mut pages = Vec::new();
        let mut page = |form, bytes| pages.push(Page { form, bytes });
        for head in 0..2 {
            match start {
                64 => page(Form::Kept, model::encoded(0, head, 6, start)),
                128 if head == 1 => {}
                0 => page(Form::Kept, model::page(0, head, 6, start, [F16, F16])),
                _ => page(Form::Exact, model::page(0, head, 6, start, [F16, F16])),
            }
        }
        pages
    };
    let blocks = model::chain(identity.domain(), 200, &pages);
    let layer = Layer { dim: 6, sliding: None, sinks: 64, exact: 64, encoded: vec![true; 2] };
    whole(&identity, about("recipe", vec![layer]), &blocks, &Runs { lossless: true })
}

/// Where the records of a file are, by a look for their magic.
fn records(file: &[u8]) -> Vec<usize> {
    (0..file.len()).step_by(64).filter(|&at| file[at..].starts_with(b"CKVBLOCK")).collect()
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    let plain = plain();
    let [first, second] = records(&plain)[..] else { panic!("two blocks") };
    let flipped = |at: usize| {
        let mut file = plain.clone();
        file[at] ^= 0x10;
        file
    };
    let page = record::head(&plain[first..]).unwrap().pages[1].at as usize;
    vec![
        ("v1-cut", plain[..second + 3000].to_vec()),
        ("v1-flipped-head", flipped(first + 150)),
        ("v1-flipped-page", flipped(first + page + 1000)),
        ("v1-plain", plain.clone()),
        ("v1-recipe", recipe()),
        ("v1-sliding", sliding()),
    ]
}

fn python(file: &Path) -> String {
    let output = Command::new("python3").arg(Path::new(FOLDER).join("read.py")).arg(file).output();
    let output = output
        .expect("cannot run `python3`, which reads KV files independently: install Python 3 (apt install python3)");
    assert!(output.status.success(), "read.py {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

/// Reasons are every reader's own.
fn without_reasons(report: &str) -> String {
    let line = |line: &str| match line.strip_prefix("damage at byte ").and_then(|rest| rest.split_once(':')) {
        Some((at, _)) => format!("damage at byte {at}\n"),
        None => format!("{line}\n"),
    };
    report.lines().map(line).collect()
}

/// Files are written with `CACHALOT_BLESS=1` once, and never again for a version that has been released. Every test that
/// reads them waits for it.
static BLESSED: LazyLock<()> = LazyLock::new(|| {
    for (name, file) in files().iter().filter(|_| std::env::var_os("CACHALOT_BLESS").is_some()) {
        let path = PathBuf::from(FOLDER).join(format!("{name}.ckv"));
        std::fs::write(&path, file).unwrap();
        std::fs::write(path.with_extension("txt"), python(&path)).unwrap();
    }
});

#[test]
fn committed_files_are_those_that_are_written_today_but_for_the_name_of_the_program() {
    LazyLock::force(&BLESSED);
    for (name, file) in files() {
        let path = PathBuf::from(FOLDER).join(format!("{name}.ckv"));
        let committed = std::fs::read(&path).unwrap();
        let same = committed.len() == file.len() && committed[..24] == file[..24] && committed[64..] == file[64..];
        assert!(
            same,
            "{name}.ckv: the writer has changed; a format that changes needs a new version, see docs/kv-file.md"
        );
    }
}

#[test]
fn python_reads_of_the_committed_files_what_we_read() {
    LazyLock::force(&BLESSED);
    let mut count = 0;
    for entry in std::fs::read_dir(FOLDER).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "ckv") {
            continue;
        }
        let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        let python = python(&path);
        assert_eq!(python, expected, "{}", path.display());
        assert_eq!(without_reasons(&python), report(&path), "{}", path.display());
        count += 1;
    }
    assert!(count >= 6, "{count} files");
}

/// Facts about the files that neither reader decides.
#[test]
fn the_files_show_what_they_are_named_for() {
    LazyLock::force(&BLESSED);
    let open = |name: &str| KvFile::open(Path::new(FOLDER).join(name)).unwrap();
    let plain = open("v1-plain.ckv");
    assert_eq!(plain.identity().unwrap().differences(&model::identity()), Vec::<&str>::new());
    assert_eq!(plain.meta().unwrap()["session"], "plain");
    assert_eq!((plain.blocks().len(), plain.missing(1).unwrap()), (2, Some(vec![])));
    // The sum of the keys of layer 1, head 0, in the first block, from the formula of the model.
    let expected = std::fs::read_to_string(Path::new(FOLDER).join("v1-plain.txt")).unwrap();
    let slots = || (0..64).flat_map(|position| (0..6).map(move |channel| (position, channel)));
    let sum = |key| slots().map(|(p, c)| f64::from(model::element(key, 1, 0, p, c))).sum::<f64>();
    let line = format!("  layer 1 head 0 kept: keys f16 sum {:.4}, values f16 sum {:.4}", sum(true), sum(false));
    assert_eq!(expected.lines().find(|found| found.starts_with("  layer 1")), Some(&line[..]));

    let sliding = open("v1-sliding.ckv");
    assert_eq!(sliding.missing(3).unwrap(), Some(vec![]));
    assert!(!sliding.missing(1).unwrap().unwrap().is_empty(), "one cannot go back to 128");
    assert!(sliding.check(&[]).unwrap().is_empty());

    let recipe = open("v1-recipe.ckv");
    assert_eq!(recipe.missing(3).unwrap().unwrap().len(), 1);
    assert!(recipe.read(0, &[]).is_err());
    assert_eq!(recipe.read(0, &[&Runs { lossless: true }]).unwrap().pages.len(), 2);

    for (name, intact) in [("v1-cut.ckv", 0), ("v1-flipped-page.ckv", 1), ("v1-flipped-head.ckv", 1)] {
        let file = open(name);
        let readable = (0..file.blocks().len()).filter_map(|i| file.read(i, &[]).ok()).collect::<Vec<_>>();
        let original = plain.read(intact, &[]).unwrap();
        assert_eq!(readable, [original], "{name}");
        assert!(!file.check(&[]).unwrap().is_empty());
    }
}
