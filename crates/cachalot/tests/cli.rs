//! The program as people and scripts meet it: exit codes, messages and JSON, with the embedded model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn cachalot(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachalot"));
    command.args(arguments).stdin(Stdio::null());
    // The embedded model is laid out in a folder of the tests', and nobody's settings leak in.
    command.env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    for name in ["CACHALOT_MODEL", "CACHALOT_ISA", "CACHALOT_LOG"] {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    cachalot(arguments).output().unwrap()
}

/// Standard output of a run that must succeed.
fn stdout(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(arguments)).unwrap()
}

/// Standard error of a run that must fail with this code, and say nothing on standard output.
fn stderr_of_failure(arguments: &[&str], code: i32) -> String {
    failure(run(arguments), code)
}

fn failure(output: Output, code: i32) -> String {
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    message
}

fn with_stdin(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = cachalot(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn ids(report: &Value) -> Vec<u64> {
    report["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

const WHALE: [&str; 6] = ["run", "-p", "The whale", "-n", "5", "--ignore-eos"];

/// Five tokens after the same words, whatever else is asked.
fn whale(more: &[&str]) -> Value {
    json(&[&WHALE[..], &["--json"], more].concat())
}

#[test]
fn run_reports_tokens_that_repeat() {
    let first = whale(&[]);
    assert_eq!(ids(&first).len(), 5);
    assert_eq!(first["model"], "calf");
    assert_eq!(first["finish_reason"], "length");
    assert_eq!(first["usage"]["completion_tokens"], 5);
    let prompt = first["prompt_token_ids"].as_array().unwrap();
    assert_eq!(first["usage"]["prompt_tokens"], prompt.len());
    // Again, with one thread, and with the plainest instructions: the same tokens.
    for more in [&[][..], &["--threads", "1"], &["--isa", "portable"]] {
        assert_eq!(ids(&whale(more)), ids(&first), "{more:?}");
    }
    // Without --json, standard output is the answer and nothing else.
    let text = first["text"].as_str().unwrap();
    assert_eq!(stdout(&WHALE).trim_end_matches('\n'), text.trim_end_matches('\n'));
}

#[test]
fn a_seed_repeats_a_sampled_answer() {
    let say = |seed| ids(&whale(&["-T", "1.5", "--seed", seed]));
    let first = say("1");
    assert_eq!(say("1"), first);
    assert!(["2", "3", "4"].into_iter().any(|seed| say(seed) != first));
}

#[test]
fn run_reads_piped_prompts() {
    let piped = with_stdin(&["run", "-n", "5", "--ignore-eos", "--json"], b"The whale");
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    let piped: Value = serde_json::from_slice(&piped.stdout).unwrap();
    assert_eq!(ids(&piped), ids(&whale(&[])));
}

#[test]
fn an_unknown_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["nowhere.gguf", "nowhere"] {
        let path = dir.path().join(name);
        let path = path.to_str().unwrap();
        let message = stderr_of_failure(&["run", "-m", path, "-p", "x"], 1);
        assert!(message.starts_with("error: ") && message.contains(path), "{message}");
    }
}

#[test]
fn a_damaged_model_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0").unwrap();
    let path = path.to_str().unwrap();
    let message = stderr_of_failure(&["info", path], 1);
    assert!(message.contains(path), "{message}");
}

#[test]
fn an_unknown_kv_recipe_is_wrong_usage_and_lists_those_there_are() {
    for bad in ["f17", "", "k=f16", "k=f16,v=nope"] {
        let message = stderr_of_failure(&["run", "-p", "x", "--kv", bad], 2);
        for name in ["f32", "f16", "bf16"] {
            assert!(message.contains(name), "{bad:?}: {message}");
        }
    }
}

#[test]
fn a_prompt_beyond_the_context_names_both_numbers() {
    let prompt = "The whale swims on. ".repeat(20);
    let tokens = json(&["run", "-p", &prompt, "-n", "1", "--json"])["prompt_token_ids"].as_array().unwrap().len();
    assert!(tokens > 33);
    let message = stderr_of_failure(&["run", "-p", &prompt, "-n", "1", "-c", "33"], 1);
    assert!(message.contains(&format!("{tokens} tokens")) && message.contains("33 tokens"), "{message}");
}

#[test]
fn an_empty_prompt_is_refused() {
    for output in [run(&["run", "-p", ""]), run(&["run"]), with_stdin(&["run", "--json"], b"")] {
        let message = failure(output, 1);
        assert!(message.contains("the prompt is empty"), "{message}");
    }
}

#[test]
fn a_prompt_that_is_no_text_is_refused_with_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("prompt.bin");
    std::fs::write(&path, b"whale \xff\xfe").unwrap();
    let path = path.to_str().unwrap();
    let message = stderr_of_failure(&["run", "--file", path], 1);
    assert!(message.contains(path) && message.contains("byte 6"), "{message}");
    let message = failure(with_stdin(&["run"], b"\xc3"), 1);
    assert!(message.contains("standard input") && message.contains("byte 0"), "{message}");
    let missing = dir.path().join("missing.txt");
    let missing = missing.to_str().unwrap();
    assert!(stderr_of_failure(&["run", "--file", missing], 1).contains(missing));
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    for bad in [
        &["dance"][..],
        &["run", "--temperature", "hot"],
        &["run", "-p", "x", "--file", "y"],
        &["serve", "--kv-budget", "4 parsecs"],
        &["run", "-t", "0"],
    ] {
        stderr_of_failure(bad, 2);
    }
    let message = stderr_of_failure(&["run", "-p", "x", "-T", "-1"], 2);
    assert!(message.contains("-1"), "{message}");
    // A number that only the engine can judge.
    let message = stderr_of_failure(&["run", "-p", "x", "--top-p", "1.5"], 1);
    assert!(message.contains("top_p") && message.contains("1.5"), "{message}");
    assert!(stdout(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_budget_too_small_for_the_prompt_is_an_error() {
    let prompt = "The whale swims on. ".repeat(40);
    let message = stderr_of_failure(&["run", "-p", &prompt, "--kv-budget", "64KiB"], 1);
    assert!(message.contains("65536"), "{message}");
}

#[test]
fn info_describes_the_model_and_what_its_cache_costs() {
    let report = json(&["info", "--json"]);
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/calf/config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    assert_eq!(report["name"], "calf");
    for (ours, theirs) in [("vocab", "vocab_size"), ("hidden", "hidden_size"), ("context", "max_position_embeddings")] {
        assert_eq!(report["spec"][ours], config[theirs], "{ours}");
    }
    assert_eq!(
        report["spec"]["layers"].as_array().map(Vec::len),
        config["num_hidden_layers"].as_u64().map(|n| n as usize)
    );
    let kv = report["kv"].as_array().unwrap();
    let cost = |recipe: &str| {
        let entry = kv.iter().find(|entry| entry["recipe"] == recipe).unwrap();
        entry["bytes_per_token"].as_f64().unwrap()
    };
    // Keys and values of every layer's heads, two bytes each.
    let number = |name: &str| config[name].as_f64().unwrap();
    let plain = 2.0 * 2.0 * number("num_hidden_layers") * number("num_key_value_heads") * number("head_dim");
    assert!((cost("f16") / plain - 1.0).abs() < 0.02, "{} against {plain}", cost("f16"));
    assert!((cost("f32") / cost("f16") - 2.0).abs() < 0.02);
    let text = stdout(&["info"]);
    assert!(text.starts_with("calf") && text.contains("key-value cache"), "{text}");
}

#[test]
fn bench_measures_the_depths_it_was_asked_for() {
    let report = json(&["bench", "--depths", "64,1000000", "--decode", "4", "--repeat", "1", "--json"]);
    let depths = report["depths"].as_array().unwrap();
    assert_eq!(depths.len(), 1);
    assert_eq!(depths[0]["depth"], 64);
    for name in ["prefill_tokens_per_second", "decode_tokens_per_second", "bytes_per_token", "kv_bytes"] {
        assert!(depths[0][name].as_f64().unwrap() > 0.0, "{name}: {report}");
    }
    assert!(depths[0]["bytes_per_token"].as_u64() > depths[0]["kv_bytes"].as_u64());
    let message = stderr_of_failure(&["bench", "--depths", "1000000"], 1);
    assert!(message.contains("nothing to measure"), "{message}");
}

#[test]
fn bench_takes_recipes_in_turn() {
    let report = json(&["bench", "--kv", "f16,f32", "--depths", "640", "--decode", "2", "--repeat", "1", "--json"]);
    let rows = report["depths"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| &row["kv"]).collect::<Vec<_>>(), ["f16", "f32"]);
    for row in rows {
        // 642 tokens take 11 pages of 64, all there at the end.
        assert_eq!(row["kv_bytes"], row["kv_predicted_bytes"], "{row}");
    }
    assert!(stderr_of_failure(&["bench", "--kv", "f17"], 1).contains("did you mean `f16`"));
}

/// Sentences that differ, enough for a few windows.
fn prose(dir: &std::path::Path) -> String {
    let line = |i: usize| {
        format!("Ship {i} came into the harbour with {} sailors and a cargo of {}.\n\n", i % 37, i * i % 101)
    };
    let path = dir.join("prose.txt");
    std::fs::write(&path, (0..200).map(line).collect::<String>()).unwrap();
    path.display().to_string()
}

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
    // Two runs; each two recipes on two windows, three caches asked two questions, three outcomes.
    assert_eq!([of("run"), of("window"), of("answer"), of("quality")].map(|l| l.len()), [2, 8, 12, 6]);
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
