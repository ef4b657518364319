//! The program as people and scripts meet it: exit codes, messages and JSON, with the embedded model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use cachalot_kv::Profile;
use serde_json::Value;
use std::io::Write;
use std::process::{Output, Stdio};
use support::{cachalot, failure, json, run, stderr_of_failure, stdout};

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
fn an_impossible_kv_recipe_is_wrong_usage_and_says_what_was_meant() {
    for (bad, said) in [
        ("f17", "did you mean `f16`?"),
        ("kivi2", "did you mean `kivi-2`?"),
        ("no such thing", "column 4"),
        ("", "expected the name of a recipe"),
        ("k=f16,v=nope", "`cachalot kv list` shows what there is"),
        ("kivi-2 + q4_0", "`kivi-2` and `q4_0` clash"),
        ("kivi-2(windw=3)", "did you mean `window`?"),
        ("nowhere.toml", "nowhere.toml"),
    ] {
        let message = stderr_of_failure(&["run", "-p", "x", "--kv", bad], 2);
        assert!(message.contains(said), "{bad:?}: {message}");
    }
}

#[test]
fn a_recipe_file_with_a_mistake_is_cited_by_line_and_column() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, "name = \"mine\"\n[encode]\nwindow = 64\nk = [\"uniform(bits=4)\", \"unifrom(bits=4)\"]\n")
        .unwrap();
    let path = path.to_str().unwrap();
    let message = stderr_of_failure(&["run", "-p", "x", "--kv", path], 2);
    assert!(message.contains(&format!("{path}:4:25: unknown stage `unifrom`, did you mean `uniform`?")), "{message}");
    // What only the model can tell.
    std::fs::write(path, "[encode]\nk = [\"uniform(bits=9)\"]\n").unwrap();
    let message = stderr_of_failure(&["run", "-p", "x", "--kv", path], 1);
    assert!(message.contains(&format!("{path}:2:6: recipe {path}, keys of layer 0, head 0: ")), "{message}");
    assert!(message.contains("`bits=9` is out of range; 1 to 8 are possible"), "{message}");
}

#[test]
fn recipes_are_listed_and_shown() {
    let list = json(&["kv", "list", "--head-dim", "64", "--json"]);
    let card = |name: &str| list.as_array().unwrap().iter().find(|card| card["name"] == name).cloned().unwrap();
    assert_eq!((card("f16")["k_bits"].as_f64(), card("f16")["v_bits"].as_f64()), (Some(16.0), Some(16.0)));
    assert_eq!((card("kivi-2")["k_bits"].as_f64(), card("q8_0")["v_bits"].as_f64()), (Some(3.0), Some(8.5)));
    assert_eq!((&card("kvquant-3")["needs"], &card("kvquant-3")["available"]), (&"profile".into(), &false.into()));

    let info = json(&["info", "--json"]);
    let (model, dim) = (info["source"].as_str().unwrap().to_owned(), info["spec"]["head_dim"].as_u64().unwrap());
    let shown = json(&["kv", "show", "k=kivi-2,v=q8_0", "-m", &model, "--json"]);
    assert_eq!((shown["k_bits"].as_f64(), shown["v_bits"].as_f64()), (Some(3.0), Some(8.5)));
    let keys = &shown["lanes"][0]["keys"];
    let bytes: u64 =
        keys["breakdown"].as_array().unwrap().iter().map(|item| item["page_bytes"].as_u64().unwrap()).sum();
    assert_eq!(8 * bytes, 3 * 64 * dim, "the breakdown adds up to the bits");

    let text = stdout(&["kv", "show", "kivi-2(window=64)"]);
    for said in ["kivi-2(window=64)", "the last 64 tokens", "3.000 bits", "2.000 bits  codes", "differs from the paper"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    for name in ["kivi-2", "saw-int4", "int4"] {
        assert!(stdout(&["kv", "list"]).lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
    }
    assert!(stdout(&["kv", "stages"]).contains("hadamard"));
    let message = stderr_of_failure(&["kv", "show", "kivi-3"], 1);
    assert!(message.contains("did you mean `kivi-"), "{message}");
}

#[test]
fn a_profile_is_made_once_and_serves_its_model_and_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (text, first, second) = (file("text.txt"), file("first"), file("second"));
    std::fs::write(&text, "The whale swims on, and the sea is wide. ".repeat(60)).unwrap();
    let make = |recipe: &str, output: &str, seed: &str| {
        let args = ["calibrate", "--recipe", recipe, "--text", &text, "--tokens", "300", "--seed", seed, "-o", output];
        stdout(&args);
        std::fs::read(output).unwrap()
    };
    let bytes = make("kvquant-2", &first, "7");
    assert_eq!(bytes, make("kvquant-2", &second, "7"), "the same for a seed");

    let run = |recipe: &'static str, profile: &str| {
        let profile = profile.to_owned();
        move |check: &dyn Fn(&[&str]) -> String| {
            check(&["run", "-p", "The whale", "-n", "2", "--kv", recipe, "--kv-profile", &profile])
        }
    };
    let fails = |arguments: &[&str]| stderr_of_failure(arguments, 1);
    run("kvquant-2(window=64)", &first)(&stdout);
    let message = stderr_of_failure(&["run", "-p", "x", "--kv", "kvquant-2"], 1);
    assert!(message.contains("needs a profile of this model; make one with `cachalot calibrate"), "{message}");
    let message = run("kvquant-3", &first)(&fails);
    assert!(message.contains("made for the recipe kvquant-2, whose keys differ from those of kvquant-3"), "{message}");
    let message = run("kvquant-2", &file("nowhere"))(&fails);
    assert!(message.contains("cannot read the profile"), "{message}");
    std::fs::write(&second, &bytes[..bytes.len() - 1]).unwrap();
    let message = run("kvquant-2", &second)(&fails);
    assert!(message.contains("is damaged"), "{message}");
    let mut origin = Profile::read(first.as_ref()).unwrap().origin().clone();
    origin.model = "0".repeat(64);
    Profile::new(origin, []).write(second.as_ref()).unwrap();
    let message = run("kvquant-2", &second)(&fails);
    assert!(message.contains("was made for the model calf (000000000000…)"), "{message}");

    let none = ["calibrate", "--recipe", "kivi-2", "--text", &text, "-o", &second];
    assert!(stderr_of_failure(&none, 1).contains("kivi-2 needs no profile"));
    std::fs::write(&text, "too short").unwrap();
    let short = ["calibrate", "--recipe", "kvquant-2", "--text", &text, "-o", &second];
    assert!(stderr_of_failure(&short, 1).contains("calibration needs at least 256"));
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
fn bench_decodes_for_many_requests_after_one_prompt() {
    let many = ["bench", "--kv", "f16,int4", "--depths", "640", "--decode", "2", "--repeat", "1", "--json"];
    let report = json(&[&many[..], &["--requests", "5", "--share", "together,alone,copies"]].concat());
    let rows = report["depths"].as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for of_recipe in rows.chunks_exact(3) {
        let [together, alone, copies] = of_recipe else { panic!("{report}") };
        for (row, share) in of_recipe.iter().zip(["together", "alone", "copies"]) {
            assert_eq!((&row["share"], &row["requests"]), (&share.into(), &5.into()));
            assert!(row["decode_tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
        }
        let bytes = |row: &serde_json::Value, name: &str| row[name].as_u64().unwrap();
        // One page of each request's own beside ten that are held once or five times.
        assert_eq!(bytes(together, "kv_bytes"), bytes(alone, "kv_bytes"));
        assert_eq!(bytes(copies, "kv_bytes"), 5 * bytes(copies, "kv_predicted_bytes"));
        assert!(bytes(copies, "kv_bytes") > 2 * bytes(together, "kv_bytes"), "{report}");
        assert!(bytes(alone, "bytes_per_token") > bytes(together, "bytes_per_token"), "{report}");
        assert_eq!(bytes(alone, "bytes_per_token"), bytes(copies, "bytes_per_token"));
    }
    let odd = ["bench", "--depths", "100", "--decode", "1", "--requests", "2", "--share", "copies"];
    assert!(stderr_of_failure(&odd, 1).contains("multiples of 64"));
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
