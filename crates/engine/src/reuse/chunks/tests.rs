//! Chunks of prompts by what stood before them, over a model of hashes.

use std::sync::Arc;

use cachalot_kv::{KvCache, Segment, SequenceKv};
use cachalot_model::Decoder;
use cachalot_model::passes::finish_context;

use crate::blend::{Blend, Wish};
use crate::reuse::{Moved, Reuse, ReuseConfig, Thread};
use crate::testing::{HashDecoder, cache_with};

struct Rig {
    cache: KvCache,
    model: HashDecoder,
    reuse: Reuse,
}

/// What became of one prompt.
struct Done {
    moved: usize,
    recomputed: usize,
    explained: Moved,
    /// After its last token.
    logits: Vec<f32>,
}

impl Rig {
    fn new() -> Rig {
        Rig { cache: cache_with(4000, None), model: HashDecoder::new(4000), reuse: Reuse::new(ReuseConfig::default()) }
    }

    fn thread(&self, parts: &[&[u32]], method: &str) -> (Vec<u32>, Thread) {
        let (mut prompt, mut chunks) = (vec![7; 5], Vec::new());
        for part in parts {
            chunks.push(prompt.len()..prompt.len() + part.len());
            prompt.extend_from_slice(part);
        }
        prompt.extend(text(99, 20));
        let blend = Some(method.parse::<Blend>().unwrap());
        let plan = &self.cache.config().plan;
        let domain = ReuseConfig::default().domain(plan, "", None);
        (prompt, Thread::new(domain, "", Arc::new(Wish { blend, chunks, ..Wish::default() })))
    }

    /// A prompt of these chunks behind five tokens, with a question of twenty; nothing of its beginning is looked for.
    fn compute(&mut self, parts: &[&[u32]], method: &str) -> Done {
        let (prompt, mut thread) = self.thread(parts, method);
        let Rig { cache, model, reuse } = self;
        let mut kv = cache.create();
        let explained = reuse.explain_moved(cache, &kv, &thread, &prompt, 0).unwrap_or_default();
        let moved = reuse.blend(cache, &mut kv, &mut thread, &prompt).unwrap();
        finish_context(model, cache, &mut kv, &prompt, 50).unwrap();
        let from = kv.len();
        let logits = step(cache, model, &mut kv, &prompt[from..]);
        let recomputed = kv.recomputed();
        reuse.publish(cache, &mut kv, &mut thread, &prompt, prompt.len());
        cache.settle(&mut kv);
        reuse.retire(cache, kv, &mut thread, &prompt, prompt.len());
        Done { moved, recomputed, explained, logits }
    }

    /// The same prompt whole, by somebody else.
    fn whole(parts: &[&[u32]]) -> Vec<f32> {
        Rig::new().compute(parts, "exact").logits
    }
}

fn step(cache: &KvCache, model: &HashDecoder, kv: &mut SequenceKv, tokens: &[u32]) -> Vec<f32> {
    cache.reserve(kv, tokens.len()).unwrap();
    let rows = tokens.len();
    model.forward(cache, &mut [Segment { seq: kv, rows }], tokens, &[rows - 1]).unwrap()
}

fn text(seed: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * i * 31 + i * seed * 17 + seed * 101) % 250).collect()
}

#[test]
fn the_same_chunks_before_in_the_same_order_are_computed_not_at_all_and_have_the_same_bits() {
    let [a, b, c] = [(1, 100), (2, 70), (3, 131)].map(|(seed, len)| text(seed, len));
    let mut rig = Rig::new();
    let first = rig.compute(&[&a, &b, &c], "cache-craft");
    assert_eq!((first.moved, first.explained.moved_tokens), (0, 0));
    assert_eq!(first.logits, Rig::whole(&[&a, &b, &c]), "looking on changes nothing");
    let second = rig.compute(&[&a, &b, &c], "cache-craft");
    assert_eq!((second.moved, second.recomputed), (a.len() + b.len() + c.len(), 0));
    assert_eq!(second.logits, first.logits);
    assert!(second.explained.chunks.iter().all(|chunk| chunk.rows.as_deref() == Some(&[])));
}

#[test]
fn what_is_computed_again_is_what_was_said_and_grows_with_what_differs() {
    let [a, b, c, d] = [(1, 100), (2, 70), (3, 131), (4, 80)].map(|(seed, len)| text(seed, len));
    let mut rig = Rig::new();
    rig.compute(&[&a, &b, &c], "cache-craft");
    // Behind none of those that stood before it, behind one of them, and behind both in the other order.
    let rows = |rig: &mut Rig, parts: &[&[u32]]| {
        let done = rig.compute(parts, "cache-craft(alpha=0.5)");
        assert_eq!((done.moved, done.recomputed), (done.explained.moved_tokens, done.explained.recomputed_tokens));
        let of_c = done.explained.chunks.iter().find(|chunk| chunk.to - chunk.from == c.len()).unwrap();
        let rows = of_c.rows.clone().unwrap();
        assert!(rows.is_sorted() && rows.iter().all(|row| (of_c.from..of_c.to).contains(row)));
        rows.len()
    };
    let alone = rows(&mut rig, &[&d, &c]);
    let one = rows(&mut rig, &[&a, &c]);
    let turned = rows(&mut rig, &[&b, &a, &c]);
    assert!(0 < one && one < alone && alone == turned, "{one} {alone} {turned}");
    // The impact is between a half and one; so much of half of it where all is new.
    assert!((33..=66).contains(&alone), "{alone}");
    // Half the factor, half the rows.
    let half = rig.compute(&[&d, &c], "cache-craft(alpha=0.25)").explained;
    assert!(half.chunks[1].rows.as_ref().unwrap().len().abs_diff(alone.div_ceil(2)) <= 1);
    // The first chunk stood behind nothing: it is as it was, wherever it goes.
    let first = rig.compute(&[&d, &a], "cache-craft").explained;
    assert_eq!(first.chunks[1].rows.as_deref(), Some(&[][..]));
}

#[test]
fn a_chunk_that_would_nearly_all_be_computed_is_computed_and_known_there_too() {
    let chunks: Vec<Vec<u32>> = (1..8).map(|seed| text(seed, 60 + 10 * seed)).collect();
    let c = text(50, 131);
    let mut rig = Rig::new();
    let everything = "cache-craft(alpha=100)";
    rig.compute(&[&chunks[0], &c], everything);
    let other = rig.compute(&[&chunks[1], &c], everything);
    assert_eq!(other.moved, 0, "both are computed: one is new, the other leaned on what stood before it");
    assert_eq!(other.logits, Rig::whole(&[&chunks[1], &c]));
    // The whole prompt of before is there, and nothing of it is computed in its place; the same holds for the second variant.
    for i in [0, 1] {
        let again = rig.compute(&[&chunks[i], &c], everything);
        assert_eq!((again.moved, again.recomputed), (chunks[i].len() + c.len(), 0));
        assert_eq!(again.explained.chunks[1].variants, 2);
        assert_eq!(again.logits, Rig::whole(&[&chunks[i], &c]));
    }
    // A third, in a prompt that begins with what is moved: it belongs to no beginning, and is held for itself.
    rig.compute(&[&chunks[2]], everything);
    let third = rig.compute(&[&chunks[2], &c], everything);
    assert_eq!((third.moved, third.explained.chunks[1].moved_tokens), (chunks[2].len(), 0));
    assert!(rig.reuse.library.blocks() > 0);
    let again = rig.compute(&[&chunks[2], &c], everything);
    assert_eq!((again.moved, again.recomputed), (third.moved + c.len(), 0));
    // Behind one of them and others, as much of what it leaned on is there.
    assert_eq!(rig.compute(&[&chunks[0], &chunks[6], &c], everything).recomputed, 0);
    // Of more than four the least used goes; the newest stays.
    for i in 3..6 {
        rig.compute(&[&chunks[0], &c], everything);
        rig.compute(&[&chunks[i], &c], everything);
        let again = rig.compute(&[&chunks[i], &c], everything);
        assert_eq!((again.recomputed, again.explained.chunks[1].variants), (0, 4));
    }
    let most_used = rig.compute(&[&chunks[0], &c], everything);
    assert_eq!((most_used.moved, most_used.recomputed), (chunks[0].len() + c.len(), 0));
    assert_eq!(rig.compute(&[&chunks[1], &c], everything).moved, chunks[1].len(), "let go");
}

#[test]
fn chunks_that_nobody_looked_at_are_no_variants_of_this_method() {
    let [a, b] = [(1, 100), (2, 70)].map(|(seed, len)| text(seed, len));
    let mut rig = Rig::new();
    rig.compute(&[&a, &b], "exact");
    let done = rig.compute(&[&b, &a], "cache-craft");
    assert_eq!((done.moved, done.explained.chunks[0].variants), (0, 1));
    assert_eq!(rig.compute(&[&b, &a], "cache-craft").moved, a.len() + b.len(), "now somebody has");
    // Others use them as ever.
    assert_eq!(rig.compute(&[&a, &b], "pie").moved, a.len() + b.len());
}

#[test]
fn all_bytes_come_back() {
    let [a, b, c] = [(1, 100), (2, 70), (3, 131)].map(|(seed, len)| text(seed, len));
    let mut rig = Rig::new();
    for parts in [[&a, &b, &c], [&c, &b, &a], [&b, &a, &c], [&a, &b, &c]] {
        rig.compute(&parts.map(|part| &part[..]), "cache-craft");
    }
    while rig.reuse.evict() {}
    let [(_, pages), _] = rig.cache.ledger().by_purpose();
    assert_eq!((pages, rig.reuse.library.bytes()), (0, 0));
}
