//! Messages that stand in several agents' prompts, corrected by what anchors say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use cachalot_kv::anchor::{Anchor, Pair};
use cachalot_kv::mend::{Piece, Select};
use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::{KvError, SequenceKv, SharedBlock};
use common::{Rig, largest_difference};
use std::ops::Range;
use std::sync::Arc;

fn create(rig: &Rig, recipe: &str) -> SequenceKv {
    let plan = Recipe::parse(recipe, Files::Refused).unwrap().plan(&rig.model.layer_geometry(), None).unwrap();
    rig.cache.create_with(&Arc::new(plan)).unwrap()
}

fn tokens(name: &str, count: usize, seed: usize) -> Vec<u32> {
    let known = common::reference(name).tokens;
    (0..count).map(|i| known[(i * 7 + seed * 13 + i * i * seed) % known.len()]).collect()
}

fn blocks(rig: &Rig, recipe: &str, tokens: &[u32]) -> Vec<SharedBlock> {
    let mut seq = create(rig, recipe);
    rig.step(&mut [(&mut seq, tokens)]);
    rig.cache.retire(seq, 0)
}

fn kept(blocks: &[SharedBlock], span: Range<usize>) -> Piece<'_> {
    Piece::Kept { blocks, first: 0, span }
}

/// An agent's prompt: its text, a message, and what follows that.
struct Prompts {
    name: &'static str,
    rig: Rig,
    recipe: &'static str,
    agent: Vec<u32>,
    after: Vec<u32>,
    /// What follows a message, as it was with the first message of all.
    template: Vec<SharedBlock>,
    template_at: Range<usize>,
}

impl Prompts {
    fn new(name: &'static str, recipe: &'static str) -> Prompts {
        let rig = Rig::load(name);
        let (agent, after) = (tokens(name, 45, 1), tokens(name, 33, 2));
        let first = [&agent[..], &tokens(name, 50, 3), &after].concat();
        let template = blocks(&rig, recipe, &first);
        Prompts { name, rig, recipe, agent, after, template, template_at: 95..128 }
    }

    /// The message as another agent's prompt left it.
    fn base(&self, message: &[u32]) -> (Vec<SharedBlock>, Range<usize>) {
        let lead = tokens(self.name, 21, 9);
        (blocks(&self.rig, self.recipe, &[&lead[..], message].concat()), 21..21 + message.len())
    }

    /// This agent's prompt with `more` tokens before the message, computed whole.
    fn whole(&self, more: usize, message: &[u32]) -> Vec<u32> {
        [&self.agent[..], &tokens(self.name, more, 5), message, &self.after].concat()
    }

    fn anchor(&self, message: &[u32]) -> Anchor {
        let (base, span) = self.base(message);
        let real = blocks(&self.rig, self.recipe, &self.whole(0, message));
        let (at, end) = (self.agent.len(), self.agent.len() + message.len());
        let pair = Pair { base: kept(&base, span), real: kept(&real, at..end) };
        let template = kept(&self.template, self.template_at.clone());
        let after = Pair { base: template, real: kept(&real, end..end + self.after.len()) };
        let seq = create(&self.rig, self.recipe);
        self.rig.cache.anchor(seq.plan(), &pair, Some(&after)).unwrap()
    }

    /// The message, and what follows it, put in place and corrected.
    fn corrected(&self, more: usize, message: &[u32], anchors: &[&Anchor]) -> SequenceKv {
        let cache = &self.rig.cache;
        let (base, span) = self.base(message);
        let mut seq = create(&self.rig, self.recipe);
        let lead = [&self.agent[..], &tokens(self.name, more, 5)].concat();
        self.rig.step(&mut [(&mut seq, &lead)]);
        let pieces = [kept(&base, span), kept(&self.template, self.template_at.clone())];
        cache.assemble(&mut seq, &pieces, &Select::Rows(Vec::new())).unwrap();
        if !anchors.is_empty() {
            let like = cache.likeness(seq.plan(), &pieces[0], anchors).unwrap();
            let at = lead.len();
            // In two parts, as a prompt whose beginning is there already would.
            cache.correct(&seq, at, 0..9, anchors, &like);
            cache.correct(&seq, at + 9, 9..message.len(), anchors, &like);
            cache.correct_after(&seq, at + message.len(), 0..self.after.len(), &pieces[0], anchors);
        }
        seq
    }

    /// How far the rows behind the agent's text are from those of the prompt computed whole: keys and values of a layer.
    fn distance(&self, layer: usize, more: usize, message: &[u32], seq: &SequenceKv) -> f32 {
        let mut whole = create(&self.rig, self.recipe);
        self.rig.step(&mut [(&mut whole, &self.whole(more, message))]);
        assert_eq!(whole.len(), seq.len());
        let keys = |seq: &SequenceKv| self.rig.cache.keys(seq, layer, 0);
        largest_difference(&keys(seq), &keys(&whole))
            .max(largest_difference(&seq.values(layer, 0), &whole.values(layer, 0)))
    }
}

#[test]
fn the_message_of_the_only_anchor_is_what_it_was() {
    for (name, recipe, bound) in [("llama", "f32", 0.01), ("qwen3", "f16", 0.03), ("llama-yarn", "f32", 0.01)] {
        let prompts = Prompts::new(name, recipe);
        let message = tokens(name, 60, 4);
        let anchor = prompts.anchor(&message);
        assert_eq!((anchor.tokens(), anchor.has_after()), (60, true));
        let layers = prompts.rig.model.layer_geometry().len();
        let (plain, corrected) = (prompts.corrected(0, &message, &[]), prompts.corrected(0, &message, &[&anchor]));
        for layer in 1..layers {
            let (before, now) =
                (prompts.distance(layer, 0, &message, &plain), prompts.distance(layer, 0, &message, &corrected));
            assert!(now < bound && now < before / 5.0, "{name} {layer}: {now} of {before}");
        }
        // The first layer knows no context, and is left as it was moved.
        let keys = |seq: &SequenceKv| prompts.rig.cache.keys(seq, 0, 0);
        assert_eq!(keys(&plain), keys(&corrected), "{name}");
        assert_eq!(plain.values(0, 0), corrected.values(0, 0), "{name}");
        // At another offset what is added is turned along; the text between is another context, so it is near and no more.
        let moved = prompts.corrected(13, &message, &[&anchor]);
        let unmoved = prompts.corrected(13, &message, &[]);
        let worse = prompts.distance(1, 13, &message, &unmoved);
        assert!(prompts.distance(1, 13, &message, &moved) < worse, "{name}");
    }
}

#[test]
fn the_nearest_anchor_has_the_say() {
    let prompts = Prompts::new("llama", "f32");
    let (message, other) = (tokens("llama", 60, 4), tokens("llama", 75, 8));
    let anchors = [prompts.anchor(&other), prompts.anchor(&message)];
    let anchors = [&anchors[0], &anchors[1]];
    let (base, span) = prompts.base(&message);
    let seq = create(&prompts.rig, "f32");
    let like = prompts.rig.cache.likeness(seq.plan(), &kept(&base, span), &anchors).unwrap();
    let [far, near] = like.distances() else { panic!() };
    // But for the rounding of what is kept.
    assert!(*near < 0.05 && *far > 20.0 * near, "{near} {far}");
    // Of a message that is longer than an anchor's nothing can be said.
    let (base, span) = prompts.base(&tokens("llama", 90, 4));
    assert!(prompts.rig.cache.likeness(seq.plan(), &kept(&base, span), &anchors).is_none());
}

#[test]
fn anchors_are_in_the_account() {
    let prompts = Prompts::new("llama", "f32");
    let ledger = prompts.rig.cache.ledger();
    let before = ledger.used();
    let anchor = prompts.anchor(&tokens("llama", 60, 4));
    let channels: usize = prompts.rig.model.layer_geometry().iter().skip(1).map(|g| 2 * g.kv_heads * g.head_dim).sum();
    // Base and difference of the message, difference of what follows, in half floats.
    assert_eq!(anchor.bytes(), (2 * channels * (60 + 60 + 33)) as u64);
    assert_eq!(ledger.used(), before + anchor.bytes());
    drop(anchor);
    assert_eq!(ledger.used(), before);
    // Pieces that are not there.
    let (base, span) = prompts.base(&tokens("llama", 60, 4));
    let pair = Pair { base: kept(&base, span.clone()), real: kept(&base, span.start..span.end + 64) };
    let before = ledger.used();
    let seq = create(&prompts.rig, "f32");
    assert!(matches!(prompts.rig.cache.anchor(seq.plan(), &pair, None), Err(KvError::Misuse(_))));
    assert_eq!(ledger.used(), before);
}
