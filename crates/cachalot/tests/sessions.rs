//! Sessions through the program: saved by one process, gone on with by another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use support::{cachalot, json, stderr_of_failure, stdout};

const SYSTEM: &str = "You are the keeper of a lighthouse. Ships pass in the night, and you count them. ";

struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn folder(&self) -> String {
        self.path("sessions")
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// `cachalot session ARGUMENTS --dir ..`.
    fn all(&self, arguments: &[&str]) -> Vec<String> {
        let folder = self.folder();
        let all = [&["session"], arguments, &["--dir", &folder]].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let all = self.all(&[arguments, &["--json"]].concat());
        json(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let all = self.all(arguments);
        stdout(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let all = self.all(arguments);
        stderr_of_failure(&all.iter().map(String::as_str).collect::<Vec<_>>(), code)
    }

    /// A system's turn of some hundred tokens under the name `keeper`.
    fn keeper(&self, more: &[&str]) -> Value {
        let messages = json!([{"role": "system", "content": SYSTEM.repeat(12)}]).to_string();
        let messages = self.write("messages.json", &messages);
        self.json(&[&["save", "keeper", "--messages", &messages], more].concat())
    }

    fn files(&self) -> Vec<PathBuf> {
        files(Path::new(&self.folder()))
    }

    fn chat(&self, lines: &str, more: &[&str]) -> Output {
        let folder = self.folder();
        let fixed = ["chat", "--session", "talk", "-n", "12", "-T", "0", "--dir", &folder];
        let mut child = cachalot(&[&fixed[..], more].concat());
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// What the program answers to the same conversation without any session.
fn without(prompt: &str, kv: &str) -> Value {
    let system = SYSTEM.repeat(12);
    json(&["run", "--chat", "--system", &system, "-p", prompt, "-n", "10", "-T", "0", "--kv", kv, "--json"])
}

const QUESTION: &str = "How many ships passed last night?";

#[test]
fn another_process_goes_on_where_the_first_one_ended() {
    for kv in ["f16", "int8(window=64)"] {
        let desk = Desk::new();
        let saved = desk.keeper(&["--kv", kv]);
        let tokens = saved["tokens"].as_u64().unwrap();
        assert!(tokens > 200 && saved["saved_tokens"] == tokens, "{saved}");
        let loaded = desk.json(&["load", "keeper", "--prompt", QUESTION, "-n", "10"]);
        assert_eq!((&loaded["restored_tokens"], &loaded["recompute_tokens"]), (&json!(tokens), &json!(0)), "{loaded}");
        assert_eq!(loaded["recipe"], kv);
        let expected = without(QUESTION, kv);
        assert_eq!(loaded["answer"]["token_ids"], expected["token_ids"], "{kv}");
        let usage = &loaded["answer"]["usage"];
        assert_eq!(usage["prompt_tokens"], expected["usage"]["prompt_tokens"]);
        assert_eq!(expected["usage"]["cached_tokens"], 0);
        let cached = usage["cached_tokens"].as_u64().unwrap();
        // All but the beginning of the assistant's turn, where the user's came instead; with a window, from the last place that
        // was provided for.
        let behind = if kv == "f16" { 8 } else { 64 + 8 };
        assert!(cached + behind > tokens, "{kv}: {cached} of {tokens}");
    }
}

#[test]
fn a_flipped_byte_costs_what_lies_behind_it() {
    let desk = Desk::new();
    desk.keeper(&[]);
    let path = desk.files().pop().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = bytes.windows(8).enumerate().filter(|(_, w)| w == b"CKVBLOCK").map(|(i, _)| i).collect();
    bytes[places[2] + 30_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let loaded = desk.json(&["load", "keeper", "--prompt", QUESTION, "-n", "10"]);
    assert_eq!(loaded["restored_tokens"], 128, "{loaded}");
    assert_eq!(loaded["recompute_tokens"], loaded["tokens"].as_u64().unwrap() - 128);
    assert_eq!(loaded["answer"]["usage"]["cached_tokens"], 128);
    assert!(loaded["notes"][0].as_str().unwrap().contains("checksum"), "{loaded}");
    assert_eq!(loaded["answer"]["token_ids"], without(QUESTION, "f16")["token_ids"]);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let desk = Desk::new();
    desk.keeper(&[]);
    let message = desk.fails(&["load", "keeper", "--kv", "int8(window=64)"], 1);
    assert!(message.contains("`keeper` was kept by the model calf with the recipe f16"), "{message}");
    assert!(message.contains("different recipe or profile"), "{message}");
    // The embedded model with another number in its configuration is another model.
    let calf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
    for file in std::fs::read_dir(calf).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        std::fs::copy(&file, desk.path(file.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let config = std::fs::read_to_string(desk.path("config.json")).unwrap();
    desk.write("config.json", &config.replace("1e-05", "2e-05"));
    let message = desk.fails(&["load", "keeper", "-m", &desk.path("")], 1);
    assert!(message.contains("different model;"), "{message}");
    assert!(desk.fails(&["load", "nobody"], 1).contains("no session `nobody`"));
    for bad in ["../x", "a/b", "a b", "", ".x"] {
        let message = desk.fails(&["show", bad], 2);
        assert!(message.contains("cannot be the name of a session"), "{bad:?}: {message}");
    }
    let text = desk.write("text.txt", "The whale");
    let message = desk.fails(&["save", "keeper", "--file", &text], 1);
    assert!(message.contains("there is a session `keeper` already"), "{message}");
    assert_eq!(desk.json(&["save", "keeper", "--file", &text, "--replace"])["turns"], 1);
    desk.fails(&["save", "other"], 2);
}

#[test]
fn a_plain_prompt_is_gone_on_with_as_text() {
    let desk = Desk::new();
    let text = desk.write("text.txt", &"The whale swims on, and the sea is wide. ".repeat(12));
    let saved = desk.json(&["save", "sea", "--file", &text]);
    let loaded = desk.json(&["load", "sea", "--prompt", "The", "-n", "6"]);
    assert_eq!(loaded["restored_tokens"], saved["tokens"]);
    assert_eq!(loaded["answer"]["usage"]["cached_tokens"], saved["tokens"]);
    assert!(desk.ok(&["show", "sea"]).starts_with("--- turn 1, text, "));
}

#[test]
fn sessions_are_listed_forked_rewound_and_removed_with_every_byte() {
    let desk = Desk::new();
    assert_eq!(desk.json(&["list"]), json!([]));
    let messages = json!([
        {"role": "system", "content": SYSTEM}, {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "I, the keeper."}, {"role": "user", "content": SYSTEM.repeat(4)},
    ]);
    let messages = desk.write("messages.json", &messages.to_string());
    desk.json(&["save", "one", "--messages", &messages]);
    desk.ok(&["fork", "one", "two", "--turn", "3"]);
    desk.ok(&["fork", "one", "three"]);
    let shown = |name: &str| desk.json(&["show", name]);
    let contents = |shown: &Value| -> Vec<Value> {
        shown["messages"].as_array().unwrap().iter().map(|message| message["content"].clone()).collect()
    };
    let (one, two) = (shown("one"), shown("two"));
    assert_eq!(contents(&two), contents(&one)[..3]);
    assert_eq!(two["tokens"], one["messages"][2]["tokens"][1]);
    // The turns lie one behind the other, and the text of each is in its tokens: longer texts, more tokens.
    let ends: Vec<u64> = (0..4).map(|i| one["messages"][i]["tokens"][1].as_u64().unwrap()).collect();
    assert!(ends.is_sorted_by(|a, b| a + 3 < *b), "{ends:?}");
    assert!(ends[3] - ends[2] > 2 * ends[0], "{ends:?}");
    desk.ok(&["rewind", "three", "1"]);
    assert_eq!(shown("three")["tokens"], ends[0]);
    assert!(desk.fails(&["rewind", "three", "2"], 1).contains("between 0 and 1"));
    assert!(desk.fails(&["fork", "one", "two"], 1).contains("already"));
    let listed = desk.json(&["list"]);
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "three", "two"]);
    assert!(desk.ok(&["list"]).lines().any(|line| line.starts_with("two ") && line.ends_with("f16")));
    // What was rewound is gone from the file, too.
    assert!(desk.ok(&["load", "three"]).is_empty());
    for name in names {
        desk.ok(&["rm", name]);
    }
    assert_eq!(desk.files(), Vec::<PathBuf>::new());
    assert!(desk.fails(&["rm", "one"], 1).contains("no session `one`"));
}

#[test]
fn a_chat_goes_on_in_another_process() {
    let desk = Desk::new();
    let first = "Tell me of the sea and of all the ships that you have seen on it, and of their names.\n";
    let said = |output: Output| {
        assert!(output.status.success());
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (answer, log) = said(desk.chat(first, &["--system", SYSTEM]));
    assert!(log.contains("talk: a new session"), "{log}");
    let (next, log) = said(desk.chat("And then?\n", &[]));
    let shown = desk.json(&["show", "talk"]);
    let roles: Vec<&str> =
        shown["messages"].as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    let before = shown["messages"][2]["tokens"][1].as_u64().unwrap();
    // The last token of an answer is computed by nobody.
    assert!(log.contains(&format!("talk: {} of {before} tokens restored", before - 1)), "{log}");
    assert!(
        log.contains(" 1 to be computed again") && log.contains(&format!("{} not computed again", before - 1)),
        "{log}"
    );
    // The same in one process, without any restart.
    let other = Desk::new();
    let (both, _) = said(other.chat(&format!("{first}And then?\n"), &["--system", SYSTEM]));
    assert_eq!(format!("{answer}{next}"), both);
    assert_eq!(other.json(&["show", "talk"])["messages"], shown["messages"]);
}

/// A block of a tenant as the disk tier names it; what is in it does not matter to who removes it.
fn block(disk: &Path, tenant: &str) -> PathBuf {
    let folder = disk.join(cachalot_store::tier::Tenant::named(tenant).to_string()).join("ab");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("ab".repeat(32));
    std::fs::write(&file, [7; 500]).unwrap();
    file
}

#[test]
fn a_stopped_servers_folders_forget_one_and_keep_the_others() {
    let desk = Desk::new();
    desk.keeper(&[]);
    let (folder, disk) = (desk.folder(), desk.path("disk"));
    let own = block(Path::new(&disk), "");
    let other = block(Path::new(&disk), &cachalot_server::tenant_of_key(b"sk-other"));
    let forget = |more: &[&str]| json(&[&["kv", "forget", "--json", "--kv-disk", &disk], more].concat());
    let nobody = forget(&["--api-key", "sk-nobody", "--kv-sessions", &folder]);
    assert_eq!((&nobody["deleted"], &nobody["places"][0]["removed"]), (&json!(true), &json!(0)));
    assert!(own.exists() && other.exists() && desk.files().len() == 1);
    let all = forget(&["--no-api-key", "--kv-sessions", &folder]);
    assert_eq!(all["deleted"], true);
    for (place, bytes) in all["places"].as_array().unwrap().iter().zip([500, 501]) {
        assert_eq!((&place["removed"], &place["left"]), (&json!(1), &json!(0)), "{place}");
        assert!(place["removed_bytes"].as_u64() >= Some(bytes), "{place}");
    }
    assert!(!own.exists() && other.exists() && desk.files().is_empty());
    assert_eq!(
        forget(&["--api-key", "sk-other"])["places"],
        json!([{
            "place": "disk", "removed": 1, "removed_bytes": 500, "left": 0, "left_bytes": 0, "foreign_files": 0, "fault": null,
        }])
    );
    assert!(!other.exists());
    let table = stdout(&["kv", "forget", "--api-key", "sk-other", "--kv-disk", &disk]);
    assert!(table.starts_with("PLACE") && table.lines().count() == 2, "{table}");
    stderr_of_failure(&["kv", "forget", "--kv-disk", &disk], 2);
    for (wrong, why) in [(&["--kv-disk", "/no/such"][..], "no such folder"), (&[], "--kv-sessions")] {
        let error = stderr_of_failure(&[&["kv", "forget", "--no-api-key"], wrong].concat(), 1);
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_text_in_the_middle_of_a_session_is_replaced_and_the_session_goes_on() {
    let desk = Desk::new();
    let lines: String =
        (0..30).map(|i| format!("On day {i} the ship lay in the harbour of port {}. ", i % 7)).collect();
    let text = desk.write("log.txt", &lines);
    let made = desk.json(&["save", "log", "--file", &text]);
    let number = |json: &Value, field: &str| json[field].as_u64().unwrap();
    let (find, replace) = ("On day 12 the ship", "On the twelfth day the old ship");
    let said = desk.json(&["edit", "log", "--find", find, "--replace", replace, "--reuse", "cacheblend(share=0.3)"]);
    assert_eq!((&said["reuse"], &said["exact"]), (&json!("cacheblend(share=0.3)"), &json!(false)));
    assert_eq!(number(&said, "tokens_before"), number(&made, "tokens"));
    let parts = ["cached_tokens", "moved_tokens", "computed_tokens"].map(|field| number(&said, field));
    assert_eq!(parts.iter().sum::<u64>(), number(&said, "tokens"));
    assert!(parts[1] > 100 && parts[2] < 40 && number(&said, "recomputed_tokens") > 0, "{said}");
    let shown = desk.json(&["show", "log"]);
    assert_eq!(shown["messages"][0]["content"], lines.replace(find, replace));
    // Another process goes on with it.
    let loaded = desk.json(&["load", "log"]);
    assert!(number(&loaded, "restored_tokens") + 64 > number(&said, "tokens"), "{loaded}");
    let back = desk.json(&["edit", "log", "--turn", "0", "--find", replace, "--replace", find, "--reuse", "exact"]);
    assert_eq!((&back["exact"], &back["tokens"]), (&json!(true), &made["tokens"]));
    let before = desk.json(&["show", "log"]);
    for (find, more, why) in [
        ("nowhere", &[][..], "no such text"),
        ("the harbour", &[], "30 places"),
        ("day 12", &["--turn", "3"], "no turn 3"),
        ("", &[], "empty"),
        ("day 12", &["--reuse", "guess"], "guess"),
        ("day 12", &["--reuse", "cache-craft"], "cache-craft"),
    ] {
        let arguments = [&["edit", "log", "--find", find, "--replace", "x"], more].concat();
        let code = if more == ["--reuse", "guess"] { 2 } else { 1 };
        let error = desk.fails(&arguments, code);
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(desk.json(&["show", "log"])["messages"], before["messages"]);
    // A conversation.
    let chat = json!([
        {"role": "user", "content": format!("{lines} Where was it?")},
        {"role": "assistant", "content": "In the harbour of port 3."},
        {"role": "user", "content": "Thank you."},
    ]);
    let chat = desk.write("chat.json", &chat.to_string());
    desk.json(&["save", "talk", "--messages", &chat]);
    let said =
        desk.json(&["edit", "talk", "--find", "On day 3 the ship", "--replace", "On day 3 the boat", "--reuse", "pie"]);
    assert!(number(&said, "moved_tokens") > 100 && said["turn"] == 0, "{said}");
    let shown = desk.json(&["show", "talk"]);
    assert_eq!(shown["messages"].as_array().unwrap().len(), 3);
    assert!(shown["messages"][0]["content"].as_str().unwrap().contains("day 3 the boat"));
}
