//! Sessions over a real cache and files, with the model of hashes.

mod files;
mod grown;
mod memory;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cachalot_store::Identity;
use tempfile::TempDir;

use super::*;
use crate::testing::{ByteVocabulary, HashDecoder, cache};
use crate::{Engine, EngineConfig, Event, Request, ReuseConfig, Sampling, Usage};

pub const NOW: u64 = 1_800_000_000;

/// An engine, as a process of its own would have it, over a folder of sessions.
pub struct Bench {
    pub engine: Engine,
    pub sessions: Sessions,
}

pub fn bench_of(folder: &Path, pages: u64, identity: Identity, pin_share: f64) -> Bench {
    let reuse = ReuseConfig { every: 128, identity, ..ReuseConfig::default() };
    let config = EngineConfig { reuse, ..EngineConfig::default() };
    let engine =
        Engine::start(Arc::new(HashDecoder::new(2000)), Arc::new(ByteVocabulary::new(&[])), cache(pages), config);
    let shelf = Shelf::open(folder, 5, NOW).unwrap();
    let config = SessionConfig { model: "hash".into(), tokenizer: "bytes".into(), pin_share };
    Bench { sessions: Sessions::new(engine.handle(), shelf, config), engine }
}

pub fn bench(folder: &Path) -> Bench {
    bench_of(folder, 400, Identity::default(), 0.5)
}

pub fn name(text: &str) -> SessionName {
    text.parse().unwrap()
}

pub fn tokens(n: usize, salt: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7 + i * i % 31 + salt * 13) % 250) as u32).collect()
}

/// Turns of 100 tokens.
pub fn session(tokens: Vec<u32>, recipe: &str) -> Session {
    let turn = |i: usize| Turn {
        role: ["user", "assistant"][i % 2].into(),
        text: format!("turn {i}"),
        extra: Default::default(),
        tokens: i * 100..tokens.len().min(i * 100 + 100),
    };
    let turns = (0..tokens.len().div_ceil(100)).map(turn).collect();
    Session { recipe: recipe.into(), turns, tokens, created: NOW, used: NOW, ..Session::default() }
}

impl Bench {
    pub async fn answer(&self, prompt: &[u32], recipe: &str, tenant: &str) -> (Vec<u32>, Usage) {
        let request = Request {
            prompt: prompt.to_vec(),
            max_tokens: Some(40),
            sampling: Sampling { seed: Some(5), ..Sampling::default() },
            ignore_eos: true,
            kv: Some(recipe.to_owned()),
            tenant: tenant.to_owned(),
            ..Request::default()
        };
        let mut generation = self.engine.handle().submit(request).unwrap();
        let mut ids = Vec::new();
        loop {
            match generation.next().await.unwrap() {
                Event::Token { id, .. } => ids.push(id),
                Event::Done(usage) => return (ids, usage),
                Event::Error(error) => panic!("{error}"),
                _ => {}
            }
        }
    }

    /// Computes and saves.
    pub async fn keep(&self, tenant: &str, called: &str, session: &Session) -> Saved {
        self.sessions.compute(&session.tokens, &session.recipe, tenant).await.unwrap();
        let guard = self.sessions.lock(tenant, &name(called)).await;
        self.sessions.save(&guard, session).await.unwrap()
    }

    pub async fn load(&self, tenant: &str, called: &str) -> Result<(Session, Restored), SessionError> {
        let guard = self.sessions.lock(tenant, &name(called)).await;
        self.sessions.load(&guard, None, NOW + 9).await
    }
}

/// All files below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// What a file has, by an engine without any.
pub async fn cold(prompt: &[u32], recipe: &str) -> Vec<u32> {
    let dir = folder();
    let (ids, usage) = bench(dir.path()).answer(prompt, recipe, "").await;
    assert_eq!(usage.cached_tokens, 0);
    ids
}

/// Recipes, and whether all of a session can be restored with them.
const RECIPES: [(&str, bool); 6] = [
    ("f16", true),
    ("f32", true),
    ("int8(window=64)", true),
    ("int4(window=0)", true),
    ("snapkv(budget=0.5, window=8)", false),
    ("h2o(budget=0.5)", false),
];

#[tokio::test]
async fn a_session_goes_on_in_another_process_as_if_nothing_had_happened() {
    for (recipe, whole) in RECIPES {
        let dir = folder();
        let own = session(tokens(700, 1), recipe);
        let saved = bench(dir.path()).keep("", "a", &own).await;
        assert_eq!((saved.tokens, saved.reduces), (700, !whole), "{recipe}");
        let next = [&own.tokens[..], &tokens(30, 2)].concat();
        let after = bench(dir.path());
        let (back, restored) = after.load("", "a").await.unwrap();
        assert_eq!((&back.tokens, &back.turns, back.created), (&own.tokens, &own.turns, NOW));
        assert_eq!(restored.notes, Vec::<String>::new());
        assert_eq!(restored.restored_tokens + restored.recompute_tokens, 700);
        assert_eq!(restored.recompute_tokens == 0, whole, "{recipe}: {restored:?}");
        let (ids, usage) = after.answer(&next, recipe, "").await;
        // What was said is what happens.
        assert_eq!(usage.cached_tokens, restored.restored_tokens, "{recipe}");
        assert_eq!(ids, cold(&next, recipe).await, "{recipe}");
    }
}

#[tokio::test]
async fn an_answer_is_saved_with_its_tokens_and_only_the_last_is_computed_again() {
    let dir = folder();
    let before = bench(dir.path());
    let prompt = tokens(150, 1);
    let (ids, _) = before.answer(&prompt, "f16", "").await;
    let own = session([&prompt[..], &ids].concat(), "f16");
    let guard = before.sessions.lock("", &name("a")).await;
    let saved = before.sessions.save(&guard, &own).await.unwrap();
    assert_eq!((saved.tokens, saved.saved_tokens), (190, 189));
    drop(before);
    let (_, restored) = bench(dir.path()).load("", "a").await.unwrap();
    assert_eq!((restored.restored_tokens, restored.recompute_tokens, restored.read_tokens), (189, 1, 189));
}

#[tokio::test]
async fn what_is_in_memory_is_not_read_and_what_was_evicted_is_kept_from_the_file() {
    let dir = folder();
    let bench = bench(dir.path());
    let own = session(tokens(300, 1), "f16");
    bench.keep("", "a", &own).await;
    let (_, restored) = bench.load("", "a").await.unwrap();
    assert_eq!((restored.restored_tokens, restored.read_tokens), (300, 0));
    drop(bench);
    // Nothing in memory: saving again with a name that only the file knows keeps the file's blocks.
    let bench = super::tests::bench(dir.path());
    let guard = bench.sessions.lock("", &name("a")).await;
    let saved = bench.sessions.save(&guard, &own).await.unwrap();
    assert_eq!(saved.saved_tokens, 300);
}
