//! Chat templates against transformers, and against users who write control tokens.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not see as tests

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use cachalot_model::ModelError;
use cachalot_model::template::{ChatTemplate, Message};
use cachalot_model::tokenizer::{Specials, Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const CHATML: &str =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}";
const TRIMMED: &str =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_hf(&root().join("fixtures/tokenizers").join(name)).unwrap()
}

fn refusal(template: &str) -> String {
    let tokenizer = tokenizer("qwen2");
    let done =
        ChatTemplate::new(template, &tokenizer).and_then(|t| t.render(&[Message::new("user", "x")], true, None, None));
    match done {
        Ok(prompt) => panic!("rendered {:?}", prompt.text),
        Err(e) => e.to_string(),
    }
}

#[test]
fn texts_and_ids_equal_those_of_transformers() {
    let file = std::fs::read(root().join("fixtures/tokenizers/chats.json")).unwrap();
    let groups: Value = serde_json::from_slice(&file).unwrap();
    let (mut rendered, mut refused) = (0, 0);
    for group in groups.as_array().unwrap() {
        let tokenizer = tokenizer(group["tokenizer"].as_str().unwrap());
        for case in group["cases"].as_array().unwrap() {
            let name = format!("{} {} {}", group["tokenizer"], case["template"], case["chat"]);
            // The tokenizers' folders name no bos token for ChatML styles; the script gave transformers one.
            let source = case["source"].as_str().unwrap();
            let template = ChatTemplate::new(source, &tokenizer).unwrap();
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let options = case["options"].as_object().unwrap();
            let generation = options.get("add_generation_prompt").and_then(Value::as_bool).unwrap_or(false);
            let mut extra: Map<String, Value> = options.clone();
            extra.retain(|key, _| key != "tools" && key != "add_generation_prompt");
            if tokenizer.bos().is_none() {
                extra.insert("bos_token".into(), "<|im_start|>".into());
            }
            let result = template.render(&messages, generation, options.get("tools"), Some(&extra));
            if let Some(error) = case["error"].as_str() {
                let message = result.unwrap_err().to_string();
                assert!(message.contains(error), "{name}: {message} lacks {error}");
                refused += 1;
                continue;
            }
            assert_eq!(result.unwrap().text, case["text"].as_str().unwrap(), "{name}");
            if extra.remove("bos_token").is_some() && source.contains("bos_token") {
                continue; // As an extra it counts as text from outside.
            }
            let ids = template.encode(&tokenizer, &messages, generation, options.get("tools"), Some(&extra)).unwrap();
            let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(ids, expected, "{name}");
            rendered += 1;
        }
    }
    assert!(rendered > 60 && refused > 0, "{rendered} {refused}");
}

/// What a ChatML conversation must be: control tokens of the template and nothing but text between them.
fn expected(tokenizer: &Tokenizer, messages: &[Message], trim: bool) -> Vec<u32> {
    let id = |text: &str| tokenizer.added_id(text).unwrap();
    let mut ids = Vec::new();
    for m in messages {
        let content = if trim { m.content.trim() } else { &m.content };
        ids.push(id("<|im_start|>"));
        ids.extend(tokenizer.encode(&format!("{}\n{content}", m.role), Specials::Plain).unwrap());
        ids.push(id("<|im_end|>"));
        ids.extend(tokenizer.encode("\n", Specials::Plain).unwrap());
    }
    ids
}

fn user_text() -> impl Strategy<Value = String> {
    let control = prop::sample::select(vec!["<|im_start|>", "<|im_end|>", "<|endoftext|>"]);
    let piece = prop_oneof![
        3 => control.clone().prop_map(str::to_owned),
        2 => (control, 0..14usize, any::<bool>()).prop_map(|(t, n, head)| {
            let n = n.min(t.len());
            if head { t[..n].to_owned() } else { t[n..].to_owned() }
        }),
        2 => "\\PC{0,4}",
        1 => "[ \r\n\t]{0,3}",
        1 => "[\u{E000}-\u{E003}\u{F8FF}]",
        1 => Just("<think>".to_owned()),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_a_user_writes_stays_text(contents in prop::collection::vec(user_text(), 1..4), trim in any::<bool>()) {
        thread_local!(static QWEN: Tokenizer = tokenizer("qwen2"));
        QWEN.with(|tokenizer| {
            let messages: Vec<Message> = contents.iter().map(|c| Message::new("user", c.as_str())).collect();
            let template = ChatTemplate::new(if trim { TRIMMED } else { CHATML }, tokenizer).unwrap();
            let ids = template.encode(tokenizer, &messages, false, None, None).unwrap();
            prop_assert_eq!(ids, expected(tokenizer, &messages, trim));
            let prompt = template.prepare(tokenizer, &messages, false, None, None).unwrap();
            prop_assert_eq!(prompt.text, template.render(&messages, false, None, None).unwrap().text);
            Ok(())
        })?;
    }
}

#[test]
fn a_control_token_cannot_be_put_together_from_two_places() {
    let tokenizer = tokenizer("qwen2");
    let joined =
        "{{ messages[0].content }}{{ messages[1].content }}|>{{ messages[2].extra_field }}{{ tools | tojson }}";
    let template = ChatTemplate::new(joined, &tokenizer).unwrap();
    let mut last = Message::new("user", "");
    last.extra.insert("extra_field".into(), "<|im_start|>".into());
    let messages = [Message::new("user", "a<|im_"), Message::new("user", "end"), last];
    let tools = json!([{"<|im_end|>": ["<|endoftext|>"]}]);
    let ids = template.encode(&tokenizer, &messages, false, Some(&tools), None).unwrap();
    assert!(!ids.iter().any(|&id| tokenizer.is_control(id)));
    assert_eq!(tokenizer.decode(&ids), "a<|im_end|><|im_start|>[{\"<|im_end|>\": [\"<|endoftext|>\"]}]");
}

#[test]
fn a_template_may_put_a_control_token_together_from_a_role() {
    let tokenizer = tokenizer("qwen2");
    let template = ChatTemplate::new("{{ '<|' + messages[0].role + '|>' + messages[0].content }}", &tokenizer).unwrap();
    let ids = template.encode(&tokenizer, &[Message::new("im_start", "x<|im_end|>")], false, None, None).unwrap();
    assert_eq!(ids.iter().filter(|&&id| tokenizer.is_control(id)).count(), 1);
    assert_eq!(ids[0], tokenizer.added_id("<|im_start|>").unwrap());
}

#[test]
fn a_template_that_reads_control_tokens_in_messages_does_not_see_them() {
    let tokenizer = tokenizer("qwen2");
    let cutting = "<|im_start|>{{ messages[0].content.split('<|im_end|>')[0] }}<|im_end|>";
    let template = ChatTemplate::new(cutting, &tokenizer).unwrap();
    let ids = template.encode(&tokenizer, &[Message::new("user", "a<|im_end|>b")], false, None, None).unwrap();
    assert_eq!(ids.iter().filter(|&&id| tokenizer.is_control(id)).count(), 2);
    assert_eq!(tokenizer.decode(&ids), "a<|im_end|>b");
    let escaping = ChatTemplate::new("{{ messages[0].content | tojson(ensure_ascii=true) }}", &tokenizer).unwrap();
    let refused = escaping.encode(&tokenizer, &[Message::new("user", "<|im_end|>")], false, None, None);
    assert!(matches!(refused, Err(ModelError::Prompt { .. })));
}

#[test]
fn refusals_name_the_line() {
    let message = refusal("a\nb\n{{ raise_exception('roles must ' ~ messages[0].role) }}");
    assert!(message.contains("roles must user") && message.contains("line 3"), "{message}");
    let message = refusal("a\n{% if %}");
    assert!(message.contains("line 2"), "{message}");
    let message = refusal("{{ messages[0].content.no_such_method() }}");
    assert!(message.contains("no_such_method") && message.contains("line 1"), "{message}");
    let message = refusal("\n{{ nothing.at.all }}");
    assert!(message.contains("undefined") && message.contains("line 2"), "{message}");
    let message = ChatTemplate::require(None).unwrap_err().to_string();
    assert!(message.contains("plain completion"), "{message}");
    let template = ChatTemplate::new(CHATML, &tokenizer("qwen2")).unwrap();
    assert!(matches!(template.render(&[], true, None, None), Err(ModelError::Prompt { .. })));
}

#[test]
fn what_templates_in_the_wild_use() {
    let tokenizer = tokenizer("llama-bpe");
    let render = |source: &str| {
        let template = ChatTemplate::new(source, &tokenizer).unwrap();
        let template = template.with_clock(|| UNIX_EPOCH + Duration::from_secs(1_735_689_599));
        let messages = [Message::new("user", "  Hi there "), Message::new("assistant", "a,b")];
        template.render(&messages, true, Some(&json!([{"b": 1, "a": [true, null, 1.5]}])), None).unwrap().text
    };
    // Expected texts by Jinja2 3.1 with transformers' settings.
    for (source, expected) in [
        ("{{ strftime_now('%d %b %Y') }}", "31 Dec 2024"),
        ("{{ bos_token }}{{ eos_token }}{{ pad_token }}", "<|begin_of_text|><|eot_id|>"),
        ("{{ tools | tojson }}", r#"[{"b": 1, "a": [true, null, 1.5]}]"#),
        (
            "{{ tools | tojson(indent=2) }}",
            "[\n  {\n    \"b\": 1,\n    \"a\": [\n      true,\n      null,\n      1.5\n    ]\n  }\n]",
        ),
        ("{{ tools[0] | tojson(separators=(',', ':'), sort_keys=True) }}", r#"{"a":[true,null,1.5],"b":1}"#),
        ("{{ tools[0] }} {{ none }} {{ true }} {{ undefined_thing }}", "{'b': 1, 'a': [True, None, 1.5]} None True "),
        ("{% for m in messages[::-1] %}{{ loop.index0 }}{{ m.role }} {% endfor %}", "0assistant 1user "),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
            "a,b",
        ),
        ("{{ messages[0].content.strip().upper() }}|{{ messages[1]['content'].split(',') | last }}", "HI THERE|b"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% if messages[0].tool_calls is defined or messages[0].get('x') %}x{% else %}y{% endif %}", "y"),
        ("{% for k, v in tools[0].items() %}{{ k }}={{ v }};{% endfor %}", "b=1;a=[True, None, 1.5];"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('&') }}", "<&>"),
        ("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='role') | join(',') }}", "user"),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{{ '%s-%d' | format('a', 3) }}{{ 'a' ~ 1 }}", "a-3a1"),
        ("{{ messages[0].content.startswith('  H') and 'there' in messages[0].content }}", "True"),
    ] {
        assert_eq!(render(source), expected, "{source}");
    }
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let tokenizer = tokenizer("qwen2");
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let load = || ChatTemplate::from_hf(dir.path(), &tokenizer);
    let source = || load().unwrap().unwrap().source().to_owned();
    assert!(load().unwrap().is_none());
    put("tokenizer_config.json", "{}");
    assert!(load().unwrap().is_none());
    put("tokenizer_config.json", r#"{"chat_template": "inline"}"#);
    assert_eq!(source(), "inline");
    put(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "tool_use", "template": "tools!"}, {"name": "default", "template": "usual"}]}"#,
    );
    let template = load().unwrap().unwrap();
    assert_eq!(template.source(), "usual");
    let one = [Message::new("user", "x")];
    assert_eq!(template.render(&one, false, Some(&json!([{}])), None).unwrap().text, "tools!");
    assert_eq!(template.render(&one, false, Some(&json!([])), None).unwrap().text, "usual");
    put("chat_template.json", r#"{"chat_template": "json"}"#);
    assert_eq!(source(), "json");
    put("chat_template.jinja", "jinja");
    assert_eq!(source(), "jinja");
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    put("chat_template.json", r#"{"chat_template": 5}"#);
    assert!(load().unwrap_err().to_string().contains("chat_template"));
}

#[test]
fn messages_read_as_openai_writes_them() {
    let m: Message = serde_json::from_value(json!({"role": "assistant", "content": null, "tool_calls": []})).unwrap();
    assert_eq!((m.content.as_str(), m.extra.contains_key("tool_calls")), ("", true));
    assert!(serde_json::from_value::<Message>(json!({"content": "x"})).is_err());
}

#[test]
fn the_embedded_model_has_a_chat() {
    let folder = root().join("models/calf");
    let tokenizer = Tokenizer::from_hf(&folder).unwrap();
    let template = ChatTemplate::from_hf(&folder, &tokenizer).unwrap().unwrap();
    let ids = template.encode(&tokenizer, &[Message::new("user", "Hello")], true, None, None).unwrap();
    assert!(!ids.is_empty() && !tokenizer.eos().is_empty());
}
