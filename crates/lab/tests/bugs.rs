//! Bugs of a cache that nobody would see in its text: flipped bits in a page, keys of one head given to another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use cachalot_kv::{KvCache, Segment};
use cachalot_lab::quality::{Item, ItemName, Named, QualitySettings, Record, Run, RunSettings, measure_item};
use cachalot_lab::{Candidate, LabError, Subject, candidate};
use cachalot_model::{Decoder, LoadOptions, Model};
use std::path::Path;
use std::sync::Arc;
use support::{Meddler, loaded, named, run, settings, subject, team, text};

/// A recipe whose caches can be told apart: their budget is odd.
struct Marked(Arc<dyn Candidate>);

impl Candidate for Marked {
    fn name(&self) -> &str {
        "marked"
    }

    fn cache(&self, subject: &Subject<'_>, budget_bytes: u64) -> Result<KvCache, LabError> {
        self.0.cache(subject, budget_bytes | 1)
    }
}

/// Beside the same recipe, an intact cache diverges by nothing at all, whatever its bits, and one page is enough to see.
#[test]
fn one_flipped_page_is_seen_and_where() {
    let reference = candidate::resolve("int4", &[]).unwrap();
    let settings = QualitySettings { window: 400, windows: 1, reference: reference.clone(), ..settings() };
    let depths = |subject: &Subject<'_>| {
        let outcomes = run(subject, &[Arc::new(Marked(reference.clone()))], &settings);
        outcomes[1].scores.clone().unwrap().by_depth
    };
    assert!(depths(&subject()).iter().all(|depth| depth.kl_mean == 0.0));
    // In marked caches the codes of one page change at token 256.
    let flips = Meddler(|cache: &KvCache, segments: &mut [Segment<'_>], tokens: &[u32], rows: &[usize]| {
        if cache.ledger().budget() % 2 == 1 && segments[0].seq.len() == 256 {
            let page = segments[0].seq.sealed_page(1).unwrap();
            (1000..3000).for_each(|byte| page.damage(byte));
        }
        loaded().model.forward(cache, segments, tokens, rows)
    });
    for depth in depths(&Subject { decoder: &flips, ..subject() }) {
        // The token at 255 predicts the one at 256.
        assert!(if depth.to <= 257 { depth.kl_mean == 0.0 } else { depth.kl_mean > 1e-5 }, "{depth:?}");
    }
}

/// The model with the keys of the heads of layer 2 swapped.
fn swapped() -> Arc<Model> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/calf");
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let mut bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let place = &tensors["model.layers.2.self_attn.k_proj.weight"]["data_offsets"];
    let [start, end] = [0, 1].map(|i| header + place[i].as_u64().unwrap() as usize);
    let half = (end - start) / 2;
    bytes[start..end].rotate_left(half);
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    Model::load(folder.path(), &LoadOptions::new(team())).unwrap().model
}

#[test]
fn swapped_heads_are_seen() {
    // Which computes for caches of 32 bits.
    let swapped = swapped();
    let swaps = Meddler(|cache: &KvCache, segments: &mut [Segment<'_>], tokens: &[u32], rows: &[usize]| {
        let model = if cache.bytes_per_token() > 4000.0 { &swapped } else { &loaded().model };
        model.forward(cache, segments, tokens, rows)
    });
    let outcomes = run(&Subject { decoder: &swaps, ..subject() }, &named("f32,bf16"), &settings());
    let kl: Vec<f64> = outcomes.iter().map(|outcome| outcome.scores.as_ref().unwrap().kl_mean).collect();
    assert!(kl[1] > 0.01 && kl[2] < 1e-3, "{kl:?}");
}

/// One item by itself.
fn item(subject: &Subject<'_>, list: &str, item: Item) -> Vec<Record> {
    let settings = RunSettings {
        reference: candidate::resolve("f16", &[]).unwrap(),
        chunk: 64,
        decode: 0,
        block: 64,
        tail: 10,
        kv_budget_bytes: 1 << 30,
        recipes_alone: false,
    };
    let name = ItemName { task: "test".into(), tokens: 0, known: None, index: 0 };
    let mut run = Run { subject, settings, progress: &mut |_| Ok(()) };
    measure_item(&mut run, &Named { name, item }, &named(list)).unwrap()
}

fn tokens(count: usize) -> Vec<u32> {
    text(400).windows(subject().tokenizer, 1, count).unwrap().remove(0)
}

/// Errors of the attention output grow as bits shrink, in every layer; an exact cache has none; and only the heads whose
/// lanes are coarse have any.
#[test]
fn attention_errors_are_where_the_bits_are_few() {
    let window = Item::Attention { tokens: tokens(384), context: 0 };
    let records = item(&subject(), "f16,int8,int4,int2,snapkv(budget=1.0),streamingllm(budget=0.3)", window);
    let mean = |record: &Record| record.heads.iter().flatten().sum::<f64>() / 24.0;
    assert!(records.iter().all(|record| record.failure.is_none()), "{records:?}");
    for exact in [&records[0], &records[1], &records[5]] {
        assert_eq!(exact.heads, vec![vec![0.0; 4]; 6], "{}", exact.recipe);
    }
    let errors: Vec<f64> = records[2..5].iter().map(mean).collect();
    assert!(errors.is_sorted() && errors[0] > 0.0 && errors[0] < 0.02 && errors[2] > 8.0 * errors[0], "{errors:?}");
    // Without a context nothing is reduced.
    assert_eq!(mean(&records[6]), 0.0);
    let window = Item::Attention { tokens: tokens(384), context: 256 };
    let records = item(&subject(), "streamingllm(budget=0.3),streamingllm(budget=0.9),kvzip(budget=0.5)", window);
    // A context that is read again cannot be compared this way.
    assert_eq!(records[3].heads, Vec::<Vec<f64>>::new());
    let errors: Vec<f64> = records.iter().map(mean).collect();
    assert!(errors[0] == 0.0 && errors[2] > 0.0 && errors[1] > 2.0 * errors[2], "{errors:?}");
}

/// A generation agrees with itself to the end; coarser caches part earlier, and are compared over the same tokens.
#[test]
fn generations_part_earlier_with_fewer_bits() {
    let (mut agreed, mut divergence) = (vec![0; 4], vec![0.0; 4]);
    for start in 0..4 {
        let prompt = tokens(600)[start * 100..start * 100 + 256].to_vec();
        let records = item(&subject(), "f16,int8,int2", Item::Generation { prompt: prompt.clone(), tokens: 40 });
        let again = item(&subject(), "int2", Item::Generation { prompt, tokens: 40 });
        assert_eq!(records[3].generation, again[1].generation);
        for (i, record) in records.iter().enumerate() {
            let generation = record.generation.as_ref().unwrap();
            let window = record.window.as_ref().unwrap();
            assert_eq!(window.tokens(), generation.tokens, "{}", record.recipe);
            // Enough blocks for an interval to have a width.
            assert!(window.blocks.len() >= 8.min(generation.tokens), "{}", window.blocks.len());
            agreed[i] += generation.agreed;
            divergence[i] += window.blocks.iter().map(|block| block[1]).sum::<f64>();
            if i < 2 {
                assert_eq!(generation.agreed, generation.tokens);
                assert_eq!(window.tail.first(), Some(&0.0));
            }
        }
    }
    assert!(agreed[2] > agreed[3] && agreed[0] == agreed[1], "{agreed:?}");
    assert!(divergence[2] > 0.0 && divergence[3] > 10.0 * divergence[2], "{divergence:?}");
}

#[test]
fn reductions_happen_at_the_end_of_the_prompt() {
    let prompt = tokens(300);
    let records = item(
        &subject(),
        "streamingllm(budget=0.3),h2o(budget=0.3, when=both)",
        Item::Generation { prompt, tokens: 40 },
    );
    let bytes: Vec<u64> = records.iter().map(|record| record.memory.unwrap().bytes).collect();
    assert!(bytes[1] < bytes[0] * 6 / 10 && bytes[2] < bytes[0] * 6 / 10, "{bytes:?}");
    assert!(records.iter().all(|record| record.memory.unwrap().peak_bytes >= record.memory.unwrap().bytes));
    assert!(records[1].window.as_ref().unwrap().tail[0] > 0.0);
}
