//! Token ids against the reference implementations, on texts chosen to hurt. `fixtures/tokenizers/make.py` makes the
//! files read here.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not see as tests

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use cachalot_model::ModelError;
use cachalot_model::tokenizer::{GgufVocab, Specials, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

/// Byte-level vocabularies: folders with `tokenizer.json`, and the ids by `tokenizers`.
const BYTE_LEVEL: [&str; 5] = ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"];
/// Vocabularies of pieces with scores: GGUF metadata, ids by `sentencepiece`.
const SPM: [&str; 3] = ["spm", "spm-noprefix", "spm-nobytes"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizers")
}

fn json(name: &str) -> Value {
    let path = fixtures().join(name);
    serde_json::from_slice(&std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
}

fn ids(case: &Value, key: &str) -> Vec<u32> {
    case[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Asks for every case of a list and says all that differ.
fn compare(cases: &Value, key: &str, tokenizer: &Tokenizer, specials: Specials) {
    let cases = cases.as_array().unwrap();
    assert!(!cases.is_empty());
    let mut wrong = Vec::new();
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let (expected, found) = (ids(case, key), tokenizer.encode(text, specials).unwrap());
        if expected != found {
            let spell = |ids: &[u32]| -> Vec<String> {
                ids.iter().map(|&id| String::from_utf8_lossy(tokenizer.token_spelling(id)).into_owned()).collect()
            };
            wrong.push(format!("{}: expected {:?}\n   found {:?}", case["name"], spell(&expected), spell(&found)));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// The metadata that a converter writes for a byte-level `tokenizer.json`.
fn as_gguf(name: &str, pre: &str) -> GgufVocab {
    let state = json(&format!("{name}/tokenizer.json"));
    let mut by_id: HashMap<usize, (String, i32)> = HashMap::new();
    for (text, id) in state["model"]["vocab"].as_object().unwrap() {
        by_id.insert(id.as_u64().unwrap() as usize, (text.clone(), 1));
    }
    for token in state["added_tokens"].as_array().unwrap() {
        let kind = if token["special"].as_bool().unwrap() { 3 } else { 4 };
        by_id.insert(token["id"].as_u64().unwrap() as usize, (token["content"].as_str().unwrap().into(), kind));
    }
    let (tokens, token_types) = (0..by_id.len()).map(|id| by_id[&id].clone()).unzip();
    let merges = state["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|m| format!("{} {}", m[0].as_str().unwrap(), m[1].as_str().unwrap())).collect();
    GgufVocab { model: "gpt2".into(), pre: pre.into(), tokens, token_types, merges, ..GgufVocab::default() }
}

fn spm_vocab(name: &str) -> GgufVocab {
    serde_json::from_value(json(&format!("{name}.json"))["vocab"].clone()).unwrap()
}

fn hf(name: &str) -> Tokenizer {
    Tokenizer::from_hf(&fixtures().join(name)).unwrap()
}

fn gguf(vocab: &GgufVocab) -> Tokenizer {
    Tokenizer::from_vocab(vocab, Path::new("test.gguf")).unwrap()
}

#[test]
fn byte_level_folders_give_the_reference_ids() {
    for name in BYTE_LEVEL {
        let (tokenizer, cases) = (hf(name), json(&format!("{name}/ids.json")));
        compare(&cases, "plain", &tokenizer, Specials::Plain);
        compare(&cases, "parse", &tokenizer, Specials::Parse);
        for case in cases.as_array().unwrap() {
            assert_eq!(
                tokenizer.decode(&ids(case, "plain")),
                case["text"].as_str().unwrap(),
                "{name} {}",
                case["name"]
            );
        }
    }
}

#[test]
fn byte_level_gguf_gives_the_same_ids_as_the_folder() {
    for name in BYTE_LEVEL {
        let (tokenizer, cases) = (gguf(&as_gguf(name, name)), json(&format!("{name}/ids.json")));
        compare(&cases, "plain", &tokenizer, Specials::Plain);
        compare(&cases, "parse", &tokenizer, Specials::Parse);
    }
}

#[test]
fn the_fallback_pre_tokenizer_gives_llama_cpps_ids() {
    for pre in ["default", ""] {
        let tokenizer = gguf(&as_gguf("gpt-2", pre));
        compare(&json("default-pre.json"), "plain", &tokenizer, Specials::Plain);
        compare(&json("default-pre.json"), "parse", &tokenizer, Specials::Parse);
    }
}

#[test]
fn pieces_with_scores_give_sentencepieces_ids() {
    for name in SPM {
        let (tokenizer, file) = (gguf(&spm_vocab(name)), json(&format!("{name}.json")));
        compare(&file["cases"], "plain", &tokenizer, Specials::Plain);
        if name == "spm-nobytes" {
            continue;
        }
        compare(&file["llama_cpp"], "parse", &tokenizer, Specials::Parse);
        for case in file["cases"].as_array().unwrap() {
            // sentencepiece prints U+FFFD per broken byte and turns ▁ of the text into a space; so do we.
            let (decoded, expected) = (tokenizer.decode(&ids(case, "plain")), case["decoded"].as_str().unwrap());
            assert_eq!(decoded, expected, "{name} {}", case["name"]);
        }
    }
}

/// Opt-in: `CACHALOT_SMOLLM2=path/to/SmolLM2-135M-Instruct.Q4_1.gguf`.
#[test]
#[ignore = "needs the file that CACHALOT_SMOLLM2 names"]
fn smollm2_gives_llama_cpps_ids() {
    let path = std::env::var_os("CACHALOT_SMOLLM2").expect("CACHALOT_SMOLLM2 names the GGUF");
    let file = cachalot_model::gguf::open(Path::new(&path)).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file.metadata).unwrap();
    compare(&json("smollm2.json"), "plain", &tokenizer, Specials::Plain);
    compare(&json("smollm2.json"), "parse", &tokenizer, Specials::Parse);
    assert_eq!((tokenizer.bos(), tokenizer.add_bos(), tokenizer.eos()), (Some(1), false, &[2, 0][..]));
    assert_eq!(tokenizer.vocab_size(), 49152);
}

#[test]
fn ids_with_a_meaning() {
    let llama = hf("llama-bpe");
    let id = |text: &str| llama.added_id(text).unwrap();
    assert_eq!((llama.bos(), llama.add_bos()), (Some(id("<|begin_of_text|>")), true));
    assert_eq!(llama.eos(), [id("<|eot_id|>"), id("<|end_of_text|>")]);
    assert!(llama.token_bytes(id("<|eot_id|>")).is_empty());
    assert_eq!(llama.token_spelling(id("<|eot_id|>")), b"<|eot_id|>");
    assert!(llama.token_bytes(u32::MAX).is_empty());
    assert_eq!(llama.vocab_size(), llama.inner().unwrap().get_vocab_size(true));

    let qwen = hf("qwen2");
    assert_eq!((qwen.bos(), qwen.add_bos()), (None, false));
    assert_eq!(qwen.eos(), [qwen.added_id("<|im_end|>").unwrap(), qwen.added_id("<|endoftext|>").unwrap()]);
    // An added token that is no control token is text wherever it comes from.
    let think = qwen.added_id("<think>").unwrap();
    assert_eq!(qwen.encode("<think>", Specials::Plain).unwrap(), [think]);
    assert_eq!(&*qwen.token_bytes(think), b"<think>");
}

#[test]
fn generation_config_adds_ends() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures().join("qwen2").join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [300, 2]}"#).unwrap();
    assert_eq!(Tokenizer::from_hf(dir.path()).unwrap().eos(), [2, 300, 0]);
}

#[test]
fn the_space_before_a_text_is_not_in_the_decoded_text_but_in_a_continuation() {
    let tokenizer = gguf(&spm_vocab("spm"));
    let ids = tokenizer.encode("whale", Specials::Plain).unwrap();
    assert_eq!(tokenizer.decode(&ids), "whale");
    let mut decoder = tokenizer.decoder_continuing();
    assert_eq!(ids.iter().map(|&id| decoder.push(id)).collect::<String>(), " whale");
}

#[test]
fn what_is_not_known_is_refused_with_the_known_ones() {
    let message = |vocab: &GgufVocab| match Tokenizer::from_vocab(vocab, Path::new("x.gguf")) {
        Ok(_) => panic!("accepted"),
        Err(e) => e.to_string(),
    };
    let mut vocab = as_gguf("gpt-2", "no-such");
    let e = message(&vocab);
    assert!(e.contains("no-such") && e.contains("x.gguf") && e.contains("qwen2") && e.contains("llama-bpe"), "{e}");
    vocab.pre = "gpt-2".into();
    vocab.model = "bert".into();
    assert!(message(&vocab).contains("gpt2"));
    vocab.model = "gpt2".into();
    vocab.bos = Some(100_000);
    assert!(message(&vocab).contains("100000"));
    vocab.bos = None;
    vocab.token_types.pop();
    assert!(message(&vocab).contains("token_type"));
    vocab.token_types.clear();
    vocab.merges[5] = "nospace".into();
    assert!(message(&vocab).contains("nospace"));
    vocab.merges.clear();
    assert!(message(&vocab).contains("merges"));
    assert!(message(&GgufVocab { model: "gpt2".into(), ..GgufVocab::default() }).contains("tokens"));

    let mut spm = spm_vocab("spm");
    spm.scores.clear();
    assert!(message(&spm).contains("scores"));
    let mut none = spm_vocab("spm");
    none.token_types.iter_mut().for_each(|t| *t = 1);
    none.unk = None;
    assert!(message(&none).contains("every byte"));
}

#[test]
fn damaged_folders_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let load = || Tokenizer::from_hf(dir.path()).unwrap_err();
    assert!(matches!(load(), ModelError::NotFound { .. }));
    std::fs::write(dir.path().join("tokenizer.model"), "x").unwrap();
    assert!(load().to_string().contains("tokenizer.model"));
    let good = std::fs::read_to_string(fixtures().join("gpt-2/tokenizer.json")).unwrap();
    let put = |text: &str| std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
    for bad in [&good[..good.len() / 2], "", "{}", "[1]"] {
        put(bad);
        assert!(matches!(load(), ModelError::Tokenizer { .. }), "{bad:.20}");
    }
    // A merge whose result is in no vocabulary and longer than any token.
    put(r#"{"added_tokens":[],"model":{"type":"BPE","vocab":{"a":0,"bb":1},"merges":[["bb","bb"]]}}"#);
    assert!(matches!(load(), ModelError::Tokenizer { .. }));
    put(
        r#"{"added_tokens":[],"decoder":{"type":"WordPiece","prefix":"@","cleanup":true},"model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#,
    );
    assert!(load().to_string().contains("ByteLevel"));
    put(&good);
    std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(load().to_string().contains("tokenizer_config.json"));
}

#[test]
fn megabytes_are_no_trouble() {
    let spm = gguf(&spm_vocab("spm"));
    let byte_level = hf("llama-bpe");
    for text in
        ["a".repeat(1 << 20), " ".repeat(1 << 20), "<|eot_id|".repeat(1 << 16), "x <|eot_id|> \n".repeat(1 << 15)]
    {
        for tokenizer in [&spm, &byte_level] {
            let ids = tokenizer.encode(&text, Specials::Plain).unwrap();
            assert!(tokenizer.decode(&ids) == text, "{:.20}", text);
        }
    }
}

/// Texts that are mostly control tokens and parts of them.
fn hostile(control: Vec<String>) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        3 => prop::sample::select(control.clone()),
        2 => (prop::sample::select(control), 0..20usize).prop_map(|(t, n)| t[..n.min(t.len())].to_owned()),
        2 => "\\PC{0,4}",
        1 => "[ \r\n\t<|>]{0,3}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plain_text_never_becomes_a_control_token(
        text in hostile(vec!["<|im_start|>".into(), "<|im_end|>".into(), "<|endoftext|>".into()])
    ) {
        thread_local!(static QWEN: Tokenizer = hf("qwen2"));
        QWEN.with(|tokenizer| {
            let ids = tokenizer.encode(&text, Specials::Plain).unwrap();
            prop_assert!(!ids.iter().any(|&id| tokenizer.is_control(id)));
            prop_assert_eq!(tokenizer.decode(&ids), text);
            Ok(())
        })?;
    }

    #[test]
    fn plain_pieces_never_become_a_control_token(text in hostile(vec!["<end>".into(), "</s>".into(), "<s>".into()])) {
        thread_local!(static SPM: Tokenizer = gguf(&spm_vocab("spm")));
        SPM.with(|tokenizer| {
            let ids = tokenizer.encode(&text, Specials::Plain).unwrap();
            prop_assert!(!ids.iter().any(|&id| tokenizer.is_control(id)));
            // ▁ is written as a space and read as one; nothing else changes.
            prop_assert_eq!(tokenizer.decode(&ids), text.replace('▁', " "));
            Ok(())
        })?;
    }

    #[test]
    fn streaming_equals_decoding_at_once(ids in prop::collection::vec(0u32..720, 0..60)) {
        thread_local!(static BOTH: [Tokenizer; 2] = [hf("smollm"), gguf(&spm_vocab("spm"))]);
        BOTH.with(|tokenizers| {
            for tokenizer in tokenizers {
                let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).into_owned()).collect();
                let mut decoder = tokenizer.decoder_continuing();
                let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
                text += &decoder.finish();
                prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
            }
            Ok(())
        })?;
    }
}

#[test]
fn every_control_token_of_the_fixtures_is_recognised_when_asked() {
    for name in BYTE_LEVEL {
        let tokenizer = hf(name);
        let control: HashSet<u32> = (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.is_control(id)).collect();
        assert!(control.len() >= 3);
        for &id in &control {
            let text = String::from_utf8(tokenizer.token_spelling(id).to_vec()).unwrap();
            assert_eq!(tokenizer.encode(&format!("a{text}b"), Specials::Parse).unwrap()[1], id);
            assert!(tokenizer.encode(&text, Specials::Plain).unwrap().len() > 1);
        }
    }
}
