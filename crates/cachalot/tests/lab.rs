//! The laboratory on the command line, with the embedded model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use support::{prose, stderr_of_failure, stdout};

#[test]
fn lab_leaves_a_table_and_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (text, out) = (prose(dir.path()), dir.path().join("results").display().to_string());
    let quality = |more: &[&str]| {
        let fixed =
            ["lab", "quality", "--text", &text, "--window", "200", "--windows", "2", "--chunk", "64", "--needles"];
        stdout(&[&fixed[..], &["2", "--needle-tokens", "300", "--decode", "2", "--recipes", "f16,bf16"], more].concat())
    };
    let table = quality(&["--out", &out]);
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 5, "{table}");
    let name = |row: &str| row.split('|').nth(1).unwrap().trim().to_owned();
    assert_eq!(rows[2..].iter().map(|row| name(row)).collect::<Vec<_>>(), ["f16 (reference)", "f16", "bf16"]);
    assert!(rows[3].contains("| 0 [0, 0] | 0 | 0 | 100.00 [100.00, 100.00] | 100.00 |"), "{table}");
    assert!(!rows[4].contains("| 0 [0, 0]"), "{table}");

    quality(&["--out", &out, "--seed", "2"]);
    let lines = std::fs::read_to_string(dir.path().join("results/quality.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).collect::<Vec<_>>();
    // Two runs; each three caches on two windows and a text with two questions, three outcomes.
    assert_eq!([of("run"), of("record"), of("quality")].map(|l| l.len()), [2, 2 * 3 * 3, 6]);
    let answers = of("record").into_iter().filter_map(|record| record["answers"].as_array());
    assert_eq!(answers.map(Vec::len).sum::<usize>(), 12);
    let run = of("run")[0];
    assert_eq!(run["text"]["digest"], blake3::hash(&std::fs::read(&text).unwrap()).to_hex().as_str());
    assert_eq!(run["settings"]["window"], 200);
    assert!(run["command"].as_array().unwrap().iter().any(|word| word == "--recipes"));
    assert!(run["model"]["digest"].as_str().unwrap().len() == 64 && run["machine"]["processor"].is_string());
    let scores = |run: &Value| {
        let own = of("quality").into_iter().filter(|line| line["run"] == run["run"]);
        own.map(|line| line["scores"]["kl_mean"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    // The text does not depend on the seed, and no number on the machine's mood.
    assert_eq!(scores(run), scores(of("run")[1]));
    assert_eq!(scores(run)[1], 0.0);
}

#[test]
fn lab_says_what_it_cannot_measure() {
    let dir = tempfile::tempdir().unwrap();
    let text = prose(dir.path());
    let fails = |more: &[&str]| stderr_of_failure(&[&["lab", "quality", "--recipes", "bf16"], more].concat(), 1);
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        dir.path().join(name).display().to_string()
    };
    assert!(fails(&["--text", &file("empty.txt", b" \n")]).contains("empty.txt: is empty"));
    assert!(fails(&["--text", &file("binary.txt", b"\x7fELF\xff\xfe")]).contains("not UTF-8"));
    assert!(fails(&["--text", "no/such.txt"]).contains("no/such.txt"));
    // The embedded model has a context of 2,048.
    assert!(fails(&["--text", &text]).contains("context of 2048"));
    let short = fails(&["--text", &text, "--window", "2000", "--windows", "9", "--needles", "0"]);
    assert!(short.contains("part 1 of 9") && short.contains("a window 2000"), "{short}");
    let unknown = stderr_of_failure(&["lab", "quality", "--text", &text, "--recipes", "f16,q17"], 1);
    assert!(unknown.contains("q17"), "{unknown}");
    let path = file("x.profile", b"nothing");
    assert!(fails(&["--text", &text, "--kv-profile", &path]).contains("x.profile is damaged"));
}

#[test]
fn a_sweep_leaves_a_report_and_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let (text, out) = (prose(dir.path()), dir.path().join("sweep").display().to_string());
    let sweep = |recipes: &str| {
        let fixed = ["lab", "sweep", "--text", &text, "--depths", "200,300", "--tasks", "perplexity,passkey,attention"];
        let small = ["--windows", "1", "--questions", "2", "--decode", "2", "--out", &out, "--recipes", recipes];
        stdout(&[&fixed[..], &small].concat())
    };
    // A window, two texts with a question each and one look at attention, at two lengths, of two caches.
    assert!(sweep("q8_0").contains("16 results are new, 0 were there"));
    assert!(sweep("q8_0,q4_0").contains("8 results are new, 16 were there"));
    assert!(sweep("q4_0").contains("0 results are new, 24 were there"));
    let read = |name: &str| std::fs::read_to_string(dir.path().join("sweep").join(name)).unwrap();
    let (html, csv) = (read("report.html"), read("results.csv"));
    for recipe in ["f16", "q8_0", "q4_0"] {
        assert!(html.contains(recipe) && csv.contains(recipe) && read("report.md").contains(recipe), "{recipe}");
    }
    std::fs::remove_file(dir.path().join("sweep/report.html")).unwrap();
    stdout(&["lab", "report", &out, "--title", "Once <more>"]);
    assert!(read("report.html").contains("Once &lt;more&gt;"));
}

#[test]
fn sweeps_say_what_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let (text, out) = (prose(dir.path()), dir.path().join("sweep").display().to_string());
    let fails =
        |more: &[&str]| stderr_of_failure(&[&["lab", "sweep", "--text", &text, "--out", &out], more].concat(), 1);
    assert!(fails(&["--recipes", "q8_0", "--depths", "4096"]).contains("context of 2048"));
    assert!(fails(&["--recipes", "q8_0", "--tasks", "needles"]).contains("perplexity, generation, attention, needle"));
    let none = fails(&["--recipes", "q8_0", "--tasks", "needle", "--depths", "20"]);
    assert!(none.contains("needle has at least"), "{none}");
    assert!(fails(&["--recipes", "q17"]).contains("q17"));
    std::fs::write(dir.path().join("broken.jsonl"), "{\"prompt\": 1}\nnot json\n").unwrap();
    let broken =
        fails(&["--recipes", "q8_0", "--tasks", &format!("jsonl:{}", dir.path().join("broken.jsonl").display())]);
    assert!(broken.contains("broken.jsonl") && broken.contains("line 1"), "{broken}");
    let empty = stderr_of_failure(&["lab", "report", &dir.path().display().to_string()], 1);
    assert!(empty.contains("results.jsonl"), "{empty}");
}

#[test]
fn a_recipe_that_was_tuned_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (text, out) = (prose(dir.path()), dir.path().join("mine.toml").display().to_string());
    let small = ["--depth", "160", "--windows", "1", "--spend", "4000", "--keep", "streamingllm", "--text", &text];
    let shown = stdout(&[&["lab", "tune", "--max-kl", "0.05", "--out", &out], &small[..]].concat());
    assert!(shown.contains("Wanted: the smallest cache at 2048 tokens with a mean KL of at most 0.05."), "{shown}");
    let evidence = std::fs::read_to_string(dir.path().join("mine.json")).unwrap();
    let evidence: Value = serde_json::from_str(&evidence).unwrap();
    assert!(evidence["evidence"]["held"]["kl"].as_f64().unwrap() <= 0.05);
    assert!(!stdout(&["run", "--kv", &out, "-p", "The harbour", "-n", "4"]).is_empty());
    let error = stderr_of_failure(&[&["lab", "tune", "--max-kl", "1e-15", "--out", &out], &small[..]].concat(), 1);
    assert!(error.contains("nothing that was tried meets the goal"), "{error}");
    let loss = [&["lab", "tune", "--max-kl", "0.05", "--max-loss", "needle", "--out", &out], &small[..]].concat();
    assert!(stderr_of_failure(&loss, 1).contains("needle=1%"));
}
