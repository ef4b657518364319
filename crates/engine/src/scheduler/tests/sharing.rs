//! Sequences that begin with blocks of others: the same answers as alone and cold, whatever the recipe, company and memory.

use std::collections::BTreeMap;

use cachalot_kv::Recipe;
use cachalot_kv::recipe::expression::Files;
use cachalot_store::tier::Tenant;

use super::*;
use crate::reuse::Stop;
use crate::testing::Dice;
use crate::{ReuseConfig, Sampling};

pub const RECIPES: [&str; 10] = [
    "f16",
    "f32",
    "int8(window=64)",
    "int4(window=0)",
    "int8(window=100)",
    "snapkv(budget=0.5, window=8)",
    "snapkv(budget=0.3, window=8, when=both, every=16) + int8",
    "kvzip(budget=0.5)",
    "h2o(budget=0.5)",
    "streamingllm(budget=0.6, when=decode, every=20)",
];

pub fn plan(cache: &KvCache, recipe: &str) -> Arc<CachePlan> {
    let recipe = Recipe::parse(recipe, Files::Refused).unwrap_or_else(|e| panic!("{e}"));
    Arc::new(recipe.plan(&cache.config().layers, None).unwrap_or_else(|e| panic!("{e}")))
}

pub fn sharing(config: EngineConfig) -> EngineConfig {
    EngineConfig { reuse: ReuseConfig { every: ON, ..ReuseConfig::default() }, ..config }
}

pub fn request(prompt: Vec<u32>, tokens: usize) -> Request {
    let sampling = Sampling { temperature: 0.9, seed: Some(prompt.len() as u64), ..Sampling::default() };
    Request { prompt, max_tokens: Some(tokens), ignore_eos: true, sampling, ..Request::default() }
}

pub type Answer = BTreeMap<usize, Vec<u32>>;

pub fn answer(client: &mut Client) -> Answer {
    let seen = client.read();
    assert_eq!(seen.errors, [], "{:?}", seen.usage);
    seen.choices.iter().map(|(&choice, (ids, _, _))| (choice, ids.clone())).collect()
}

/// Alone, with nothing to begin with.
pub fn cold(request: &Request, recipe: &str) -> Answer {
    let mut bench = Bench::new(HashDecoder::new(600), 4000, EngineConfig::default());
    let plan = plan(&bench.cache, recipe);
    let mut client = bench.submit_with(request.clone(), plan);
    bench.run();
    assert_eq!(client.read().usage.unwrap().cached_tokens, 0);
    answer(&mut client)
}

pub fn random(dice: &mut Dice, tokens: usize) -> Vec<u32> {
    (0..tokens).map(|_| dice.below(250) as u32).collect()
}

/// Prompts that grow out of one another, as conversations and shared instructions do.
fn simulate(seed: u64) -> (u64, u64, u64) {
    let mut dice = Dice::new(seed);
    let config = EngineConfig {
        max_batch: 1 + dice.below(6),
        max_batch_tokens: [17, 64, 100, 512][dice.below(4)],
        ..EngineConfig::default()
    };
    // From what a few sequences need to what holds everything.
    let pages = [38, 44, 60, 2000][dice.below(4)] + dice.below(10) as u64;
    let mut bench = Bench::new(HashDecoder::new(600), pages, sharing(config));
    let recipes = [RECIPES[dice.below(RECIPES.len())], RECIPES[dice.below(RECIPES.len())]];
    let plans = recipes.map(|recipe| plan(&bench.cache, recipe));
    let mut texts: Vec<Vec<u32>> = vec![random(&mut dice, 200)];
    let mut clients: Vec<(Client, usize)> = Vec::new();
    let mut left = 14;
    while left > 0 || !bench.scheduler.is_idle() {
        while left > 0 && (bench.scheduler.is_idle() || dice.chance(0.3)) {
            left -= 1;
            let text = &texts[dice.below(texts.len())];
            let mut prompt = text[..text.len() - dice.below(text.len()) / [1, 2, 100][dice.below(3)]].to_vec();
            prompt.truncate(430);
            let more = 1 + dice.below(70);
            prompt.extend(random(&mut dice, more));
            texts.push(prompt.clone());
            let recipe = dice.below(2);
            let n = [1, 1, 1, 3][dice.below(4)];
            let request = Request { n, ..request(prompt, 1 + dice.below(90)) };
            clients.push((bench.submit_with(request, plans[recipe].clone()), recipe));
        }
        bench.step();
        // Answers are gone on from, too.
        if let Some((client, _)) = clients.get_mut(dice.below(20))
            && client.read().usage.is_some()
            && let Some((ids, _, _)) = client.seen.choices.get(&0)
        {
            texts.push([&client.request.prompt[..], ids].concat());
        }
    }
    let stats = bench.scheduler.stats();
    assert_eq!(stats.shared_bytes, bench.cache.ledger().used(), "only what is shared is left");
    bench.run();
    for (client, recipe) in &mut clients {
        let warm = answer(client);
        assert_eq!(warm, cold(&client.request, recipes[*recipe]), "seed {seed}, {}", recipes[*recipe]);
        let usage = client.seen.usage.unwrap();
        assert!(usage.cached_tokens < usage.prompt_tokens);
    }
    (stats.reused_tokens, stats.evicted_blocks, stats.preemptions)
}

#[test]
fn warm_equals_cold_whatever_the_recipe_company_and_memory() {
    let (mut reused, mut evicted, mut preempted) = (0, 0, 0);
    for seed in 0..60 {
        let (tokens, blocks, set_aside) = simulate(seed);
        (reused, evicted, preempted) = (reused + tokens, evicted + blocks, preempted + set_aside);
    }
    assert!(
        reused > 20_000 && evicted > 200 && preempted > 5,
        "the simulation must reach what it tests: {reused} tokens, {evicted} blocks, {preempted} set aside"
    );
}

fn one(bench: &mut Bench, request: Request) -> Usage {
    let mut client = bench.submit(request.clone());
    while !bench.scheduler.is_idle() {
        bench.step();
    }
    assert_eq!(answer(&mut client), cold(&request, "f16"));
    client.seen.usage.unwrap()
}

#[test]
fn tokens_inside_a_block_are_reused_and_the_next_turn_finds_the_answer() {
    let mut dice = Dice::new(3);
    let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
    let text = random(&mut dice, 300);
    assert_eq!(one(&mut bench, request(text.clone(), 20)).cached_tokens, 0);
    // The same again: all but the last token, down to the block that was computed before the prompt ended.
    assert_eq!(one(&mut bench, request(text.clone(), 20)).cached_tokens, 299);
    // Another end: where one layer's sliding window was provided for, and then where the two were seen to part.
    let mut other = text[..215].to_vec();
    other.extend([251, 252, 253]);
    assert_eq!(one(&mut bench, request(other.clone(), 5)).cached_tokens, 128);
    other[217] = 1;
    assert_eq!(one(&mut bench, request(other, 5)).cached_tokens, 217);
    let mut third = text[..200].to_vec();
    third.push(255);
    assert_eq!(one(&mut bench, request(third, 5)).cached_tokens, 200);
    // The next turn: prompt and answer, but for the last token of the answer, which nothing was computed after.
    let mut client = bench.submit(request(text.clone(), 20));
    while !bench.scheduler.is_idle() {
        bench.step();
    }
    let said = answer(&mut client)[&0].clone();
    let next = [&text[..], &said, &[1, 2, 3]].concat();
    assert_eq!(one(&mut bench, request(next, 5)).cached_tokens, 319);
    bench.run();
}

#[test]
fn tenants_never_meet() {
    let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
    let text = random(&mut Dice::new(4), 300);
    let of = |tenant: &str| Request { tenant: tenant.into(), ..request(text.clone(), 3) };
    assert_eq!(one(&mut bench, of("a")).cached_tokens, 0);
    assert_eq!(one(&mut bench, of("b")).cached_tokens, 0);
    assert_eq!(one(&mut bench, of("")).cached_tokens, 0);
    assert_eq!(one(&mut bench, of("a")).cached_tokens, 299);
    bench.run();
}

/// Requests that come together compute what they have in common once.
#[test]
fn those_that_come_together_wait_for_the_first() {
    let mut dice = Dice::new(5);
    let mut bench = Bench::new(
        HashDecoder::new(600),
        4000,
        sharing(EngineConfig { max_batch_tokens: 100, ..EngineConfig::default() }),
    );
    let text = random(&mut dice, 400);
    let all: Vec<Request> = (0..8).map(|i| request([&text[..], &[i, 7, i]].concat(), 4)).collect();
    let mut clients: Vec<Client> = all.iter().map(|request| bench.submit(request.clone())).collect();
    while !bench.scheduler.is_idle() {
        bench.step();
    }
    let cached: Vec<usize> = clients.iter_mut().map(|client| client.read().usage.unwrap().cached_tokens).collect();
    assert_eq!(cached[0], 0);
    assert!(cached[1..].iter().all(|&tokens| tokens >= 384), "{cached:?}");
    for (client, request) in clients.iter_mut().zip(&all) {
        assert_eq!(answer(client), cold(request, "f16"));
    }
    bench.run();
}

#[test]
fn a_damaged_block_is_computed_again() {
    let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
    let text = random(&mut Dice::new(6), 300);
    one(&mut bench, request(text.clone(), 3));
    bench.scheduler.reuse.damage(2);
    assert_eq!(one(&mut bench, request(text.clone(), 3)).cached_tokens, 128);
    assert_eq!(one(&mut bench, request(text, 3)).cached_tokens, 299);
    bench.run();
}

#[test]
fn it_is_said_where_matching_stops_and_why() {
    let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
    let text = random(&mut Dice::new(7), 300);
    let explain = |bench: &Bench, tokens: &[u32], recipe: &str, tenant: &str| {
        let plan = plan(&bench.cache, recipe);
        let domain = bench.reuse.domain(&plan, tenant, None);
        let e = bench.scheduler.explain(tokens, &plan, domain, crate::blend::Wish::default()).unwrap();
        assert!(!e.reason.is_empty());
        (e.matched_tokens, e.reusable_tokens, e.block, e.stop)
    };
    assert_eq!(explain(&bench, &text, "f16", ""), (0, 0, 0, Stop::Nothing));
    for recipe in ["f16", "int4(window=64)"] {
        let plan = plan(&bench.cache, recipe);
        let _client = bench.submit_with(request(text.clone(), 3), plan);
        while !bench.scheduler.is_idle() {
            bench.step();
        }
    }
    assert_eq!(explain(&bench, &text, "f16", ""), (300, 299, 4, Stop::End));
    assert_eq!(explain(&bench, &text, "f16", "other"), (0, 0, 0, Stop::Nothing));
    assert_eq!(explain(&bench, &text, "int8", ""), (0, 0, 0, Stop::Nothing));
    let mut other = text[..200].to_vec();
    other.push(255);
    // One layer has a sliding window, whose pages are there at some positions only.
    assert_eq!(explain(&bench, &other, "f16", ""), (200, 128, 2, Stop::Incomplete { matched: 200 }));
    let mut end = text[..290].to_vec();
    end.push(255);
    let differs = Stop::Differs { position: 290, token: 255, cached: text[290] };
    assert_eq!(explain(&bench, &end, "f16", ""), (290, 290, 4, differs));
    // A recipe that only looks at the last queries begins with plain pages; one that looks at all does not.
    assert_eq!(explain(&bench, &text, "snapkv(budget=0.5, window=8)", ""), (300, 292, 4, Stop::Observed { from: 292 }));
    assert_eq!(explain(&bench, &text, "h2o(budget=0.5)", ""), (300, 0, 0, Stop::Observed { from: 0 }));
    // Every 128 tokens, the end of the prompt and the end of the answer can be gone on from.
    let (matched, reusable, _, stop) = explain(&bench, &other, "int4(window=64)", "");
    assert_eq!((matched, stop), (200, Stop::Incomplete { matched: 200 }));
    assert_eq!(reusable, 128);
    let four = plan(&bench.cache, "int4(window=64)");
    let _client = bench.submit_with(request(other.clone(), 3), four);
    while !bench.scheduler.is_idle() {
        bench.step();
    }
    // Where prompts were seen to part, the next one goes on.
    let third = [&text[..200], &[254, 254]].concat();
    assert_eq!(explain(&bench, &third, "int4(window=64)", "").1, 200);
    bench.run();
}

/// Out of one engine and into another: what was computed there is not computed here, and whoever changed a byte is refused.
#[test]
fn blocks_leave_an_engine_and_enter_another() {
    let mut dice = Dice::new(8);
    let text = random(&mut dice, 300);
    for recipe in ["f16", "int8(window=64)"] {
        let mut first = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
        let plan = plan(&first.cache, recipe);
        let domain = first.reuse.domain(&plan, "", None).unwrap();
        let _client = first.submit_with(request(text.clone(), 20), plan.clone());
        while !first.scheduler.is_idle() {
            first.step();
        }
        let parcels = first.scheduler.export(domain, &text);
        assert_eq!(parcels.iter().map(|parcel| parcel.tokens.len()).sum::<usize>(), 256, "whole blocks of the prompt");
        let blocks: Vec<cachalot_store::Block> = parcels.iter().map(Parcel::to_block).collect();
        drop(parcels);
        first.run();

        let mut second = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
        let import =
            |bench: &Bench, block: &cachalot_store::Block| Parcel::of_block(&bench.cache, &plan, block.clone());
        let mut bad = blocks[1].clone();
        bad.pages[0].bytes[200] ^= 1;
        assert!(matches!(import(&second, &bad), Err(cachalot_kv::KvError::Foreign { .. })));
        let other = self::plan(&second.cache, if recipe == "f16" { "bf16" } else { "int4(window=64)" });
        assert!(matches!(
            Parcel::of_block(&second.cache, &other, blocks[0].clone()),
            Err(cachalot_kv::KvError::Foreign { .. })
        ));
        assert_eq!(second.cache.ledger().used(), 0);
        let parcels: Vec<Parcel> = blocks.iter().map(|block| import(&second, block).unwrap()).collect();
        // Without the first block, nobody knows where the others belong.
        assert_eq!(second.scheduler.import(Tenant::named(""), parcels[1..].to_vec()), 0);
        assert_eq!(second.scheduler.import(Tenant::named(""), parcels), 4);
        let mut client = second.submit_with(request(text.clone(), 20), plan.clone());
        while !second.scheduler.is_idle() {
            second.step();
        }
        assert_eq!(answer(&mut client), cold(&client.request, recipe));
        assert_eq!(client.seen.usage.unwrap().cached_tokens, 256, "{recipe}");
        second.run();
    }
}
