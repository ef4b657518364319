//! Every recipe that needs no calibration, on every family: it plans or says why not, its results do not depend on how the
//! prompt was cut, and it loses something, but not everything.

#![allow(clippy::unwrap_used)]

mod common;

use cachalot_kv::recipe::calibrate::synthetic;
use cachalot_kv::recipe::expression::Files;
use cachalot_kv::recipe::{Needs, Recipe, Registry};
use cachalot_kv::score::registry::METHODS;
use cachalot_kv::{CachePlan, KvFormat, LayerGeometry};
use cachalot_model::passes::finish_context;
use common::{FOLDERS, Rig, assert_same_bits, largest_difference, reference};
use std::sync::Arc;

/// Enough that pages are encoded and read.
const TOKENS: usize = 200;
/// Tokens of a page.
const PAGE_TOKENS: usize = 64;

/// A model, some tokens, and their logits with caches of `f32` and of half floats.
struct Subject {
    rig: Rig,
    tokens: Vec<u32>,
    layers: Vec<LayerGeometry>,
    exact: Vec<f32>,
    half: Vec<f32>,
}

impl Subject {
    fn load(name: &str) -> Subject {
        let rig = Rig::load(name);
        let tokens: Vec<u32> = reference(name).tokens.iter().copied().cycle().take(TOKENS).collect();
        let exact = rig.chunked(&tokens, TOKENS);
        let layers = rig.model.layer_geometry();
        let plain = Arc::new(CachePlan::exact(KvFormat::default(), layers.iter().map(|g| g.kv_heads)));
        let half = rig.continued(rig.cache.create_with(&plain).unwrap(), &tokens, TOKENS);
        Subject { rig, tokens, layers, exact, half }
    }
}

/// Recipes that need nothing and say how keys and values are written.
fn formats() -> impl Iterator<Item = &'static Recipe> {
    let plain = Recipe::default();
    let formats = move |recipe: &&Recipe| recipe.encode != plain.encode || recipe.keep.is_none();
    Registry::all().iter().filter(|recipe| recipe.needs == Needs::Nothing).filter(formats)
}

#[test]
fn every_recipe_on_every_family() {
    let mut planned = 0;
    for name in FOLDERS {
        let Subject { rig, tokens, layers, exact, half } = Subject::load(name);
        for recipe in formats() {
            let plan = match recipe.plan(&layers, None) {
                Ok(plan) => Arc::new(plan),
                Err(error) => {
                    // Blocks of 32 channels do not fit the heads of some of these small models; nothing else is refused.
                    let (error, narrow) = (error.to_string(), layers.iter().any(|g| g.head_dim % 32 != 0));
                    assert!(narrow && error.contains("layer"), "{} on {name}: {error}", recipe.name);
                    continue;
                }
            };
            planned += 1;
            let what = format!("{} on {name}", recipe.name);
            let create = || rig.cache.create_with(&plan).unwrap();
            let whole = rig.continued(create(), &tokens, TOKENS);
            assert!(whole.iter().all(|x| x.is_finite()), "{what}");
            assert_same_bits(&rig.continued(create(), &tokens, 33), &whole, &what);
            let has_body = plan.lanes.iter().flatten().any(|lane| lane.body.is_some());
            let short = plan.lanes.iter().flatten().all(|lane| lane.window + 64 >= TOKENS);
            let difference = largest_difference(&whole, &exact);
            assert!(difference > 0.0 || !has_body || short, "{what}: nothing was encoded");
            // Before the first page is encoded, everything is as with half floats alone.
            if plan.lanes.iter().flatten().all(|lane| lane.exact == KvFormat::default()) {
                let first = PAGE_TOKENS * rig.model.spec.vocab;
                assert_same_bits(&whole[..first], &half[..first], &what);
            }
        }
    }
    assert!(planned >= 30 * FOLDERS.len(), "only {planned} planned");
}

/// Every method of choosing what to keep, each on some families: bare, with a format, with heads that share their budget, with
/// neighbours in the batch; however the context was cut. (The cache's own tests have every method in every combination.)
#[test]
fn every_choice_of_what_stays_on_every_family() {
    const CONTEXT: usize = 140;
    /// Every so many families see a method.
    const EVERY: usize = 5;
    let mut planned = 0;
    for (family, name) in FOLDERS.iter().enumerate() {
        let Subject { rig, tokens, layers, exact, half } = Subject::load(name);
        let after = CONTEXT * rig.model.spec.vocab;
        for (_, entry) in METHODS.iter().enumerate().filter(|(method, _)| method % EVERY == family % EVERY) {
            // Rows that end below the last layer have no logits: `passes.rs` is for these.
            if entry.name == "fastkv" {
                continue;
            }
            let arguments = "budget=0.5, when=prompt)";
            let bare = format!("{}({arguments}", entry.name);
            let shared = format!("adakv(of={}, {arguments}", entry.name);
            for text in [format!("{bare} + f32"), format!("{bare} + int8(group=16)"), format!("{shared} + f32")] {
                let Ok(recipe) = Recipe::parse(&text, Files::Refused) else {
                    assert!(entry.measures.is_some(), "{text}: only heads by profile cannot be built on");
                    continue;
                };
                let plan = match recipe.needs {
                    Needs::Nothing => recipe.plan(&layers, None),
                    Needs::Profile => synthetic(&recipe, &layers),
                };
                let Ok(plan) = plan else { continue };
                planned += 1;
                let plan = Arc::new(plan);
                let exact = if text.ends_with("f32") { &exact } else { &half };
                let what = format!("{text} on {name}");
                let run = |chunk: usize, neighbour: bool| {
                    let mut seq = rig.cache.create_with(&plan).unwrap();
                    let mut other = rig.cache.create();
                    rig.cache.expect(&mut seq, CONTEXT).unwrap();
                    let mut out = Vec::new();
                    while seq.len() < TOKENS {
                        let rows = chunk.min(TOKENS - seq.len()).min(seq.rows_to_reduction());
                        let part = &tokens[seq.len()..seq.len() + rows];
                        let mut parts = vec![(&mut seq, part)];
                        if neighbour {
                            parts.push((&mut other, &tokens[..3]));
                        }
                        let mut logits = rig.step(&mut parts);
                        logits.truncate(rows * rig.model.spec.vocab);
                        out.extend(logits);
                        rig.cache.reduce(&mut seq).unwrap();
                        finish_context(&*rig.model, &rig.cache, &mut seq, &tokens[..CONTEXT], chunk).unwrap();
                    }
                    out
                };
                let whole = run(TOKENS, false);
                assert!(whole.iter().all(|x| x.is_finite()), "{what}");
                assert_same_bits(&whole[..after], &exact[..after], &what);
                let sliding = layers.iter().all(|g| g.window.is_some());
                // Little attention is spread, and few tokens are beyond the recent ones, in a context this short.
                let all = sliding || ["zipvl", "duoattention"].contains(&entry.name);
                assert!(largest_difference(&whole[after..], &exact[after..]) > 0.0 || all, "{what}: all was kept");
                assert_same_bits(&run(33, true), &whole, &what);
            }
        }
    }
    assert!(planned >= 2 * METHODS.len() * FOLDERS.len() / EVERY / 2, "only {planned} planned");
}

#[test]
fn token_by_token_is_the_same() {
    let name = "llama";
    let rig = Rig::load(name);
    let tokens: Vec<u32> = reference(name).tokens.iter().copied().cycle().take(TOKENS).collect();
    for recipe in formats() {
        let Ok(plan) = recipe.plan(&rig.model.layer_geometry(), None) else { continue };
        let plan = Arc::new(plan);
        let run = |chunk| rig.continued(rig.cache.create_with(&plan).unwrap(), &tokens, chunk);
        assert_same_bits(&run(1), &run(TOKENS), &recipe.name);
    }
}
