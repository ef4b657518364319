//! `cachalot batch` with the embedded model: answers in order, interrupted runs that go on, bad lines that stop nobody.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::{json as report, run, stderr_of_failure};

/// Two families of prompts, interleaved.
fn requests() -> Vec<Value> {
    let story = "The old whale dived into the dark water and thought about everything she had ever seen. ".repeat(8);
    let chat = |i: usize| {
        let messages = json!([
            { "role": "system", "content": "You answer in one word." },
            { "role": "user", "content": format!("What is {i} and {i}?") },
        ]);
        let body = json!({ "model": "calf", "messages": messages, "max_tokens": 4, "temperature": 0 });
        json!({ "custom_id": format!("sum-{i}"), "method": "POST", "url": "/v1/chat/completions", "body": body })
    };
    let text = |i: usize| json!({ "id": i, "prompt": format!("{story}Then {i}"), "max_tokens": 5, "temperature": 0 });
    (0..3).flat_map(|i| [chat(i), text(i)]).collect()
}

struct Files {
    dir: tempfile::TempDir,
    input: PathBuf,
    out: PathBuf,
}

fn files(lines: &[String]) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("prompts.jsonl"), dir.path().join("results.jsonl"));
    std::fs::write(&input, lines.join("\n")).unwrap();
    Files { dir, input, out }
}

impl Files {
    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let base = ["batch", self.input.to_str().unwrap(), "--out", self.out.to_str().unwrap(), "--json"];
        [&base[..], more].concat()
    }

    fn run(&self, more: &[&str]) -> Value {
        report(&self.arguments(more))
    }
}

fn results(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lines() -> Vec<String> {
    requests().iter().map(Value::to_string).collect()
}

#[test]
fn answers_come_in_order_and_are_those_of_single_runs() {
    let files = files(&lines());
    let summary = files.run(&[]);
    assert_eq!((&summary["prompts"], &summary["answered"], &summary["refused"]), (&json!(6), &json!(6), &json!(0)));
    assert_eq!(summary["groups"], 2);
    let results = results(&files.out);
    let ids: Vec<&str> = results.iter().map(|result| result["custom_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["sum-0", "0", "sum-1", "1", "sum-2", "2"]);
    // Two of each family are spared its prefix: more than two thirds of the texts' tokens.
    let bodies: Vec<&Value> = results.iter().map(|result| &result["response"]["body"]).collect();
    let tokens = |i: usize| bodies[i]["usage"]["prompt_tokens"].as_u64().unwrap();
    let all: u64 = (0..6).map(tokens).sum();
    assert_eq!(summary["prompt_tokens"], all);
    let shared = summary["shared_tokens"].as_u64().unwrap();
    assert!(shared < all && shared > (tokens(1) - 8) * 2, "{shared} of {all}");
    // The engine finds whole pages of 64 tokens of the texts' prefix for all but the first that it computes.
    let cached: Vec<u64> =
        bodies.iter().map(|body| body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()).collect();
    assert_eq!(summary["cached_tokens"], cached.iter().sum::<u64>());
    let whole = (tokens(1) - 8) / 64 * 64;
    assert!(whole > 0 && cached.iter().filter(|&&tokens| tokens >= whole).count() == 2, "{whole}: {cached:?}");
    assert_eq!(bodies[0]["object"], "chat.completion");
    assert_eq!(bodies[0]["choices"][0]["message"]["role"], "assistant");
    for i in [1, 3, 5] {
        let prompt = requests()[i]["prompt"].as_str().unwrap().to_owned();
        let alone = report(&["run", "--json", "-n", "5", "-T", "0", "-p", &prompt]);
        assert_eq!(bodies[i]["choices"][0]["text"], alone["text"]);
        assert_eq!(bodies[i]["usage"]["completion_tokens"], alone["usage"]["completion_tokens"]);
    }
    // In the order of the file: the same answers.
    let in_order = self::files(&lines());
    in_order.run(&["--in-order", "--max-batch", "1"]);
    let answer = |result: &Value| (result["custom_id"].clone(), result["response"]["body"]["choices"].clone());
    let other = self::results(&in_order.out);
    assert!(other.iter().map(answer).eq(results.iter().map(answer)));
}

#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let files = files(&lines());
    files.run(&[]);
    let whole = std::fs::read_to_string(&files.out).unwrap();
    // As they might have come, the third cut off; the first is marked, to be seen again.
    let kept: Vec<&str> = whole.lines().collect();
    let marked = kept[4].replacen("\"status_code\":200", "\"status_code\":201", 1);
    assert_ne!(marked, kept[4]);
    std::fs::write(&files.out, format!("{marked}\n{}\n{}", kept[1], &kept[0][..30])).unwrap();
    let summary = files.run(&[]);
    assert_eq!((&summary["were_there"], &summary["answered"]), (&json!(2), &json!(4)));
    let again = std::fs::read_to_string(&files.out).unwrap();
    let again: Vec<&str> = again.lines().collect();
    assert_eq!(again.len(), 6);
    assert_eq!(again[4], marked);
    let ids = |lines: &[&str]| -> Vec<Value> {
        lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["custom_id"].clone()).collect()
    };
    assert_eq!(ids(&again), ids(&kept));
    // Once complete, nothing is computed.
    assert_eq!(files.run(&[])["answered"], 0);
}

#[test]
fn other_inputs_and_settings_are_refused() {
    let mut files = files(&lines()[..1]);
    files.run(&[]);
    let before = std::fs::read(&files.out).unwrap();
    let message = stderr_of_failure(&files.arguments(&["--kv", "int8"]), 1);
    assert!(message.contains("--kv was \"f16\"") && message.contains("int8"), "{message}");
    files.input = files.dir.path().join("other.jsonl");
    std::fs::write(&files.input, lines()[1].clone()).unwrap();
    let message = stderr_of_failure(&files.arguments(&[]), 1);
    assert!(message.contains("another input file"), "{message}");
    assert_eq!(std::fs::read(&files.out).unwrap(), before);
    // A file that is no result of ours stays as it is.
    std::fs::remove_file(files.dir.path().join("results.jsonl.run")).unwrap();
    let message = stderr_of_failure(&files.arguments(&[]), 1);
    assert!(message.contains("choose another --out"), "{message}");
    assert_eq!(std::fs::read(&files.out).unwrap(), before);
}

#[test]
fn bad_lines_are_named_and_the_others_answered() {
    let good = json!({ "id": "good", "prompt": "The whale", "max_tokens": 2 }).to_string();
    let long = "whale ".repeat(20_000);
    let bad = [
        ("{".to_owned(), "not valid JSON"),
        ("[1]".to_owned(), "a JSON object"),
        (json!({ "id": "neither" }).to_string(), "`messages` or `prompt`"),
        (json!({ "prompt": "x", "temperature": "hot" }).to_string(), "temperature"),
        (json!({ "prompt": "x", "kv": "no-such-recipe" }).to_string(), "no-such-recipe"),
        (json!({ "prompt": "x", "stream": true }).to_string(), "stream"),
        (json!({ "prompt": ["x", "y"] }).to_string(), "one prompt"),
        (json!({ "id": "good", "prompt": "x" }).to_string(), "line 1"),
        (json!({ "url": "/v1/embeddings", "body": {} }).to_string(), "/v1/completions"),
        (json!({ "messages": [] }).to_string(), "messages"),
        (json!({ "prompt": long }).to_string(), "context"),
    ];
    let mut lines = vec![good, String::new()];
    lines.extend(bad.iter().map(|(line, _)| line.clone()));
    let files = files(&lines);
    let output = run(&files.arguments(&[]));
    let warnings = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{warnings}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&summary["answered"], &summary["refused"]), (&json!(1), &json!(bad.len())));
    let results = results(&files.out);
    assert_eq!(results[0]["error"], Value::Null);
    for (i, ((_, word), result)) in bad.iter().zip(&results[1..]).enumerate() {
        assert_eq!(result["response"], Value::Null);
        let (line, message) = (i + 3, result["error"]["message"].as_str().unwrap());
        assert_eq!(result["error"]["line"], line);
        assert!(message.contains(word), "{message}");
        assert!(warnings.contains(&format!("line {line}")) || warnings.contains("and 1 more"), "{line}: {warnings}");
    }
    // Where no line can be answered, there is a result all the same.
    let none = self::files(&["{".to_owned()]);
    assert_eq!(none.run(&[])["refused"], 1);
    let empty = self::files(&[]);
    assert!(stderr_of_failure(&empty.arguments(&[]), 1).contains("no requests"));
}
