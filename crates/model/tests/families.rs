//! Every family and every RoPE scheme against logits that transformers computed, and against itself: the same bits
//! however a prompt is cut, whatever travels with it, on every instruction set and with any number of threads.

#![allow(clippy::unwrap_used)]

mod common;

use cachalot_kernels::Isa;
use cachalot_model::{WeightMode, read_spec};
use common::{FOLDERS, GGUFS, Rig, assert_same_bits, fixtures, largest_difference, load_with, reference};

/// The bound of the issue, in f32 with f32 pages.
const BOUND: f32 = 1e-4;

#[test]
fn logits_agree_with_transformers_and_do_not_depend_on_chunks() {
    let mut failures = Vec::new();
    for name in FOLDERS {
        let (rig, expected) = (Rig::load(name), reference(name));
        let whole = rig.chunked(&expected.tokens, expected.tokens.len());
        let error = largest_difference(&whole, &expected.logits);
        println!("{name:16} {error:.2e}");
        if error > BOUND {
            failures.push((name, error));
        }
        for chunk in [1, 3, 7, 17] {
            assert_same_bits(&rig.chunked(&expected.tokens, chunk), &whole, &format!("{name} in chunks of {chunk}"));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn gguf_files_give_the_logits_of_the_folders_they_were_made_from() {
    for name in GGUFS {
        let (rig, expected) = (Rig::load(&format!("{name}/model.gguf")), reference(name));
        let error = largest_difference(&rig.chunked(&expected.tokens, 33), &expected.logits);
        println!("{name:16} {error:.2e}");
        assert!(error <= BOUND, "{name}: {error}");
    }
}

#[test]
fn weights_widened_to_f32_give_the_same_logits() {
    for name in ["llama-yarn", "qwen2", "gemma3-softcap"] {
        let expected = reference(name);
        let rig = load_with(name, 2, Isa::detect(), WeightMode::F32);
        assert!(largest_difference(&rig.chunked(&expected.tokens, 80), &expected.logits) <= BOUND, "{name}");
    }
}

#[test]
fn neighbours_in_a_batch_change_nothing() {
    for name in ["llama", "mistral", "gemma3-softcap", "qwen3"] {
        let (rig, expected) = (Rig::load(name), reference(name));
        let (a, b) = (&expected.tokens[..61], &expected.tokens[19..]);
        let (alone_a, alone_b) = (rig.chunked(a, 61), rig.chunked(b, 61));
        let (mut seq_a, mut seq_b) = (rig.cache.create(), rig.cache.create());
        let vocab = rig.model.spec.vocab;
        let (mut got_a, mut got_b) = (Vec::new(), Vec::new());
        // Decode steps of one beside chunks of the other, with different amounts each time.
        let (mut at_a, mut at_b) = (0, 0);
        let sizes = [(1, 20), (30, 1), (1, 1), (5, 11), (24, 28)];
        for (n, m) in sizes {
            let (part_a, part_b) = (&a[at_a..at_a + n], &b[at_b..at_b + m]);
            let logits = rig.step(&mut [(&mut seq_a, part_a), (&mut seq_b, part_b)]);
            let (of_a, of_b) = logits.split_at(n * vocab);
            got_a.extend_from_slice(of_a);
            got_b.extend_from_slice(of_b);
            (at_a, at_b) = (at_a + n, at_b + m);
        }
        assert_same_bits(&got_a, &alone_a, name);
        assert_same_bits(&got_b, &alone_b, name);
    }
}

#[test]
fn threads_and_instruction_sets_change_nothing() {
    for path in ["llama", "qwen2", "phi3", "gemma3-softcap", "llama-mqa-bias/model.gguf"] {
        let tokens = reference(path.split('/').next().unwrap()).tokens;
        let plain = load_with(path, 1, Isa::Portable, WeightMode::Native).chunked(&tokens, 80);
        for isa in Isa::available() {
            for threads in [1, 2, 3] {
                let other = load_with(path, threads, isa, WeightMode::Native).chunked(&tokens, 80);
                assert_same_bits(&other, &plain, &format!("{path}, {isa}, {threads} threads"));
            }
        }
    }
}

#[test]
fn only_the_wanted_rows_come_back_and_in_the_order_wanted() {
    let (rig, expected) = (Rig::load("gemma3"), reference("gemma3"));
    let tokens = &expected.tokens[..40];
    let all = rig.chunked(tokens, 40);
    let vocab = rig.model.spec.vocab;
    for wanted in [vec![], vec![39], vec![7, 3, 39, 7]] {
        let mut seq = rig.cache.create();
        rig.cache.reserve(&mut seq, 40).unwrap();
        let mut segments = [cachalot_kv::Segment { seq: &mut seq, rows: 40 }];
        let got = cachalot_model::Decoder::forward(&*rig.model, &rig.cache, &mut segments, tokens, &wanted).unwrap();
        let expected: Vec<f32> = wanted.iter().flat_map(|r| all[r * vocab..(r + 1) * vocab].to_vec()).collect();
        assert_same_bits(&got, &expected, "rows");
        assert_eq!(seq.len(), 40);
    }
}

#[test]
fn old_and_new_configurations_describe_the_same_model() {
    for name in FOLDERS.into_iter().filter(|n| *n != "gemma3-nested") {
        let folder = fixtures().join(name);
        let older = tempfile::tempdir().unwrap();
        std::fs::copy(folder.join("config.v4.json"), older.path().join("config.json")).unwrap();
        assert_eq!(read_spec(&folder).unwrap(), read_spec(older.path()).unwrap(), "{name}");
    }
}

#[test]
fn misuse_is_an_error_and_the_sequence_has_not_grown() {
    let rig = Rig::load("llama");
    let mut seq = rig.cache.create();
    rig.cache.reserve(&mut seq, 4).unwrap();
    let cases: [(&[u32], &[usize], usize, &str); 4] = [
        (&[1, 2, 3], &[0], 2, "3 tokens"),
        (&[1, 101], &[0], 2, "token 101"),
        (&[1, 2], &[2], 2, "row 2"),
        // More than was reserved.
        (&[1; 200], &[0], 200, "KV cache"),
    ];
    for (tokens, wanted, rows, named) in cases {
        let mut segments = [cachalot_kv::Segment { seq: &mut seq, rows }];
        let error = cachalot_model::Decoder::forward(&*rig.model, &rig.cache, &mut segments, tokens, wanted);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
        assert_eq!(seq.len(), 0);
    }
}
