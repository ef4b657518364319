//! One life: what happens, in an order that its seed chooses.

use std::sync::Mutex;

use cachalot_store::Block;
use cachalot_store::tier::{PolicyKind, WritePolicy};

use super::super::below::machine;
use super::super::sharing::{RECIPES, plan, request, sharing};
use super::super::*;
use super::ground::Ground;
use super::lone::{Asked, Lone};
use super::rng::Rng;
use crate::Deletion;
use crate::blend::{Before, Blend, EditId, Method, Wish};
use crate::reuse::Parcel;
use crate::testing::cache_with;

const TENANTS: [&str; 3] = ["a", "b", "c"];
/// Recipes of one life.
const KINDS: usize = 3;
const LONGEST: usize = 300;

/// What happened.
#[derive(Debug, Default)]
pub struct Counts {
    pub answers: u64,
    pub forks: u64,
    pub reused: u64,
    pub evicted: u64,
    pub cancelled: u64,
    pub imported: u64,
    pub crashes: u64,
    pub restarts: u64,
    pub deletions: u64,
    pub set_aside: u64,
    pub moved: u64,
    /// Tokens moved by methods that do not compute all rows again.
    pub apart: u64,
    pub beside: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        let Counts { answers, forks, reused, evicted, cancelled, imported, .. } = other;
        let Counts { crashes, restarts, deletions, set_aside, moved, apart, beside, .. } = other;
        self.answers += answers;
        self.forks += forks;
        self.reused += reused;
        self.evicted += evicted;
        self.cancelled += cancelled;
        self.imported += imported;
        self.crashes += crashes;
        self.restarts += restarts;
        self.deletions += deletions;
        self.set_aside += set_aside;
        self.moved += moved;
        self.apart += apart;
        self.beside += beside;
    }
}

/// Something that was said, by whom, and how its cache was kept.
#[derive(Clone)]
struct Text {
    tenant: &'static str,
    recipe: usize,
    tokens: Vec<u32>,
}

/// Blocks that somebody keeps outside, as sessions do.
struct Saved {
    tenant: &'static str,
    recipe: usize,
    blocks: Vec<Block>,
}

/// A tenant that is being deleted, and what was heard of it.
type Deleting = (&'static str, Arc<Mutex<Option<Deletion>>>);

pub struct World {
    rng: Rng,
    pub ground: Ground,
    bench: Bench,
    recipes: [&'static str; KINDS],
    plans: Vec<Arc<CachePlan>>,
    /// What was said before, of which prompts are made.
    texts: Vec<Text>,
    asked: Vec<Asked>,
    saved: Vec<Saved>,
    deleting: Option<Deleting>,
    lone: Lone,
    faults: f64,
    pub counts: Counts,
    /// A digest of all that was answered.
    pub trace: blake3::Hasher,
}

fn bench(rng: &mut Rng, ground: &Ground, window: Option<usize>) -> Bench {
    // From what one request needs to what holds everything.
    let pages = [30, 44, 80, 2000][rng.below(4)];
    let config = EngineConfig {
        max_batch: 1 + rng.below(5),
        max_batch_tokens: [17, 64, 100, 512][rng.below(4)],
        ..EngineConfig::default()
    };
    let mut config = sharing(config);
    config.reuse.evict = [PolicyKind::Lru, PolicyKind::S3Fifo][rng.below(2)];
    let mut bench = Bench::over(cache_with(pages, window), HashDecoder::new(600), config);
    bench.scheduler.attach(ground.open(rng.next(), &bench.cache));
    bench
}

impl World {
    pub fn new(seed: u64, write: WritePolicy) -> World {
        let mut rng = Rng(seed);
        let ground = Ground::new(seed, write);
        // Without a window stretches can be moved.
        let window = Some(40).filter(|_| rng.chance(0.4));
        let bench = bench(&mut rng, &ground, window);
        let recipes = [(); KINDS].map(|()| RECIPES[rng.below(RECIPES.len())]);
        let mut world = World {
            plans: Vec::new(),
            texts: Vec::new(),
            asked: Vec::new(),
            saved: Vec::new(),
            deleting: None,
            lone: Lone { window, ..Lone::default() },
            faults: [0.0, 0.05, 0.2][rng.below(3)],
            counts: Counts::default(),
            trace: blake3::Hasher::new(),
            rng,
            ground,
            bench,
            recipes,
        };
        let tokens = world.random(180);
        world.texts.push(Text { tenant: TENANTS[0], recipe: 0, tokens });
        world.plan();
        world
    }

    fn plan(&mut self) {
        self.plans = self.recipes.iter().map(|name| plan(&self.bench.cache, name)).collect();
    }

    fn random(&mut self, tokens: usize) -> Vec<u32> {
        (0..tokens).map(|_| self.rng.below(250) as u32).collect()
    }

    fn is_closed(&self, tenant: &str) -> bool {
        self.deleting.as_ref().is_some_and(|(closed, _)| *closed == tenant)
    }

    /// Something happens.
    pub fn step(&mut self) {
        match self.rng.below(100) {
            0..22 => self.ask(),
            22..70 => (0..1 + self.rng.below(8)).for_each(|_| self.compute()),
            70..74 => self.evict(),
            74..76 => self.cancel(),
            76..79 => {
                let share = if self.rng.chance(0.5) { self.faults } else { 0.0 };
                self.ground.set_faults(share);
            }
            79..81 if self.faults > 0.1 => self.ground.damage(&mut self.rng),
            81..84 => self.explain(),
            84..87 => self.save(),
            87..91 => self.restore(),
            91 if self.rng.chance(0.6) => self.delete(),
            92 if self.rng.chance(0.6) => self.restart(),
            93 if self.rng.chance(0.6) => self.crash(),
            _ => self.look_below(),
        }
        self.check();
    }

    fn ask(&mut self) {
        let Text { tenant, recipe, tokens: text } = self.somewhere();
        if self.is_closed(tenant) || self.bench.scheduler.stats().queued > 8 {
            return;
        }
        let keep = text.len() - self.rng.below(text.len()) / [1, 3, 1000][self.rng.below(3)];
        let mut prompt = text[..keep.max(1)].to_vec();
        if self.rng.chance(0.15) {
            // Somebody corrects what was said before.
            let at = self.rng.below(prompt.len());
            prompt[at] = self.rng.below(250) as u32;
        }
        if self.rng.chance(0.3) {
            let (at, more) = (self.rng.below(prompt.len()), 1 + self.rng.below(6));
            let more = self.random(more);
            prompt.splice(at..at, more);
        }
        prompt.truncate(LONGEST - 40);
        if self.rng.chance(0.7) {
            let more = 1 + self.rng.below(40);
            prompt.extend(self.random(more));
        }
        let n = [1, 1, 1, 2, 3][self.rng.below(5)];
        self.counts.forks += n as u64 - 1;
        let tokens = [0, 3, 12, 25][self.rng.below(4)] + self.rng.below(4);
        if self.rng.chance(0.8) {
            // What is below is about as fast as computing, so that both go on together.
            let cost = machine(0.02, [0.01, 0.02, 0.03][self.rng.below(3)]);
            self.bench.scheduler.reuse.set_cost(cost);
        }
        let wish = self.wish(tenant, recipe, &prompt);
        let request = Request { n, tenant: tenant.into(), logprobs: Some(5), wish, ..request(prompt.clone(), tokens) };
        self.remember(Text { tenant, recipe, tokens: prompt });
        let client = self.bench.submit_with(request, self.plans[recipe].clone());
        self.asked.push(Asked::new(client, recipe));
    }

    /// What a request wants of stretches that others computed. The model has two layers, so methods that look at deviations
    /// compute all rows of both again, and answers have the bits of a prompt that is computed whole, where nothing is encoded on
    /// the way.
    fn wish(&mut self, tenant: &str, recipe: usize, prompt: &[u32]) -> Wish {
        let mut ends: Vec<usize> =
            (1..prompt.len()).filter(|&at| prompt[at].is_multiple_of(24)).chain([prompt.len()]).collect();
        ends.dedup();
        let starts = [0].into_iter().chain(ends.clone());
        let mut chunks: Vec<_> = starts.zip(ends).map(|(from, to)| from..to).collect();
        let exact = !self.recipes[recipe].contains("int");
        if !exact || self.rng.chance(0.2) {
            return Wish { chunks, ..Wish::default() };
        }
        let methods = [
            Method::CacheBlend { share: 0.15 },
            Method::KvShare { share: 0.15, refresh: None },
            Method::CacheCraft { alpha: 1.0 },
            Method::Ape { temperature: 0.9, scale: 0.9 },
            Method::KvComm { gamma: 1.0, anchors: 3 },
        ];
        let method = methods[[0, 0, 0, 1, 1, 1, 2, 3, 4][self.rng.below(9)]];
        if method.wants_chunks() {
            // Somebody asks something of them.
            chunks.pop();
        }
        let blend = Some(Blend::of(method));
        let other = self.texts.iter().filter(|text| text.tenant == tenant && text.recipe == recipe);
        let other = other.map(|text| Before { tokens: text.tokens.clone(), edit: None }).next_back();
        let before = other.filter(|_| !method.wants_chunks() && self.rng.chance(0.4));
        let edit = before.as_ref().filter(|_| self.rng.chance(0.5));
        let edit = edit.map(|before| EditId::of(&before.tokens, None, prompt, "cacheblend"));
        Wish { blend, chunks, before, edit, lossy: None, within: None, pin: None }
    }

    fn remember(&mut self, text: Text) {
        match self.texts.len() {
            0..12 => self.texts.push(text),
            n => {
                let at = self.rng.below(n);
                self.texts[at] = text;
            }
        }
    }

    fn compute(&mut self) {
        self.bench.step();
        self.hear();
    }

    /// Answers that are complete are what they must be.
    fn hear(&mut self) {
        let complete: Vec<usize> = (0..self.asked.len()).filter(|&i| self.asked[i].hear()).collect();
        for i in complete.into_iter().rev() {
            let asked = self.asked.swap_remove(i);
            let name = self.recipes[asked.recipe];
            let Some(answer) = asked.complete() else { continue };
            let usage = asked.usage.unwrap();
            assert!(usage.cached_tokens + usage.moved_tokens < usage.prompt_tokens);
            // Where methods do not compute all rows again, only what was computed whole is exact.
            let apart = asked.request.wish.blend.is_some_and(|blend| blend.method.wants_chunks());
            if !apart || usage.moved_tokens == 0 {
                let lone = self.lone.answer(&asked.request, asked.recipe, name);
                assert!(answer == lone, "{name}, {} tokens, {} cached", usage.prompt_tokens, usage.cached_tokens);
            }
            self.counts.apart += (usage.moved_tokens * usize::from(apart)) as u64;
            self.counts.answers += 1;
            self.counts.reused += usage.cached_tokens as u64;
            self.counts.moved += usage.moved_tokens as u64;
            self.trace.update(format!("{answer:?} {}", usage.cached_tokens).as_bytes());
            // Answers are gone on from.
            if let Some(ids) = answer.get(&0).filter(|_| self.rng.chance(0.5)) {
                let ids = ids.iter().map(|(id, _)| *id);
                let tokens = asked.request.prompt.iter().copied().chain(ids).collect();
                let tenant = TENANTS.into_iter().find(|tenant| *tenant == asked.request.tenant).unwrap();
                self.remember(Text { tenant, recipe: asked.recipe, tokens });
            }
        }
    }

    fn look_below(&mut self) {
        let now = self.bench.tick();
        self.bench.scheduler.poll_below(now);
        let heard = self.deleting.as_ref().and_then(|(_, heard)| heard.lock().unwrap().take());
        if let (Some(deletion), Some((tenant, _))) = (heard, self.deleting.as_ref()) {
            let tenant = Tenant::named(tenant);
            assert_eq!(self.bench.scheduler.shared_by(tenant), (0, 0));
            if deletion.is_complete() {
                assert_eq!(self.ground.of(tenant), 0, "said that nothing is left");
                self.counts.deletions += 1;
            }
            self.deleting = None;
        }
    }

    fn evict(&mut self) {
        let shared = self.bench.scheduler.stats().shared_bytes;
        let bytes = self.bench.cache.ledger().free() + self.rng.below(shared as usize + 1) as u64;
        self.bench.scheduler.free_shared(bytes);
    }

    fn cancel(&mut self) {
        if !self.asked.is_empty() {
            let at = self.rng.below(self.asked.len());
            self.asked.swap_remove(at).go_away();
            self.counts.cancelled += 1;
        }
    }

    /// What was said before; now and then by another, or to another recipe.
    fn somewhere(&mut self) -> Text {
        let mut text = self.texts[self.rng.below(self.texts.len())].clone();
        if self.rng.chance(0.1) {
            text.tenant = TENANTS[self.rng.below(TENANTS.len())];
        }
        if self.rng.chance(0.1) {
            text.recipe = self.rng.below(KINDS);
        }
        text
    }

    fn explain(&mut self) {
        let Text { tenant, recipe, tokens: text } = self.somewhere();
        let plan = &self.plans[recipe];
        let domain = self.bench.reuse.domain(plan, tenant, None);
        if let Ok(explained) = self.bench.scheduler.explain(&text, plan, domain, crate::blend::Wish::default()) {
            assert!(explained.reusable_tokens <= explained.matched_tokens && explained.matched_tokens <= text.len());
        }
    }

    fn save(&mut self) {
        let Text { tenant, recipe, tokens: text } = self.somewhere();
        let domain = self.bench.reuse.domain(&self.plans[recipe], tenant, None).unwrap();
        let parcels = self.bench.scheduler.export(domain, &text);
        if !parcels.is_empty() && !self.is_closed(tenant) {
            let blocks = parcels.iter().map(Parcel::to_block).collect();
            self.saved.truncate(8);
            self.saved.insert(0, Saved { tenant, recipe, blocks });
        }
    }

    fn restore(&mut self) {
        if self.saved.is_empty() {
            return;
        }
        let at = self.rng.below(self.saved.len());
        let Saved { tenant, recipe, mut blocks } = self.saved.remove(at);
        if self.is_closed(tenant) {
            return;
        }
        let damaged = self.rng.chance(0.2).then(|| {
            let block = self.rng.below(blocks.len());
            let page = self.rng.below(blocks[block].pages.len());
            let bytes = &mut blocks[block].pages[page].bytes;
            let byte = self.rng.below(bytes.len());
            bytes[byte] ^= 1 << self.rng.below(8);
            block
        });
        let bytes = blocks.iter().map(Block::bytes).sum();
        self.bench.scheduler.free_shared(bytes);
        let of_block = |block| Parcel::of_block(&self.bench.cache, &self.plans[recipe], block);
        let parcels: Vec<Parcel> = blocks.into_iter().map_while(|block| of_block(block).ok()).collect();
        assert!(damaged.is_none_or(|at| parcels.len() <= at), "a damaged block was taken");
        self.counts.imported += self.bench.scheduler.import(Tenant::named(tenant), parcels) as u64;
    }

    fn delete(&mut self) {
        if self.deleting.is_some() {
            return;
        }
        let tenant = TENANTS[self.rng.below(TENANTS.len())];
        let heard = Arc::new(Mutex::new(None));
        let tell = heard.clone();
        let tell = Box::new(move |deletion| *tell.lock().unwrap() = Some(deletion));
        let of = self.asked.iter_mut().filter(|asked| asked.request.tenant == tenant);
        of.for_each(|asked| asked.doomed = true);
        self.saved.retain(|saved| saved.tenant != tenant);
        self.deleting = Some((tenant, heard));
        let now = self.bench.tick();
        self.bench.scheduler.delete_tenant(Tenant::named(tenant), tell, now);
        assert!(!self.bench.scheduler.groups.values().any(|group| group.tenant == Tenant::named(tenant)));
    }

    /// An orderly end and a new process.
    fn restart(&mut self) {
        self.counts.restarts += 1;
        if self.rng.chance(0.5) {
            let now = self.bench.tick();
            self.bench.scheduler.cancel_all(now);
            self.asked.clear();
        }
        self.finish();
        self.begin();
    }

    /// Nothing of the process is left, and of what it wrote what the disk has.
    fn crash(&mut self) {
        self.counts.crashes += 1;
        self.ground.set_faults(0.0);
        self.ground.disk.set_fuse(self.rng.below(12));
        (0..self.rng.below(6)).for_each(|_| self.compute());
        self.asked.clear();
        self.tally();
        let gone = Bench::new(HashDecoder::new(600), 1, EngineConfig::default());
        let cache = std::mem::replace(&mut self.bench, gone).cache;
        assert_eq!(cache.ledger().used(), 0, "somebody has memory of a process that is gone");
        self.ground.crash();
        self.begin();
    }

    fn begin(&mut self) {
        self.deleting = None;
        self.bench = bench(&mut self.rng, &self.ground, self.lone.window);
        self.plan();
    }

    fn tally(&mut self) {
        let stats = self.bench.scheduler.stats();
        self.counts.evicted += stats.evicted_blocks;
        self.counts.set_aside += stats.preemptions;
        self.counts.beside += self.bench.scheduler.reuse.beside;
    }

    /// Lets everything come to its end, and closes what is below.
    fn finish(&mut self) {
        let mut turns = 0;
        while !self.bench.scheduler.is_idle() {
            self.compute();
            self.look_below();
            turns += 1;
            assert!(turns < 100_000, "somebody waits for ever");
        }
        self.hear();
        assert!(self.asked.is_empty(), "somebody was not told that it is over");
        self.tally();
        self.bench.scheduler.close_below(Duration::from_secs(20));
        self.bench.scheduler.forget_shared();
        assert_eq!(self.bench.cache.ledger().used(), 0, "all memory comes back");
        assert_eq!(self.bench.queue.len(), 0, "all places come back");
    }

    /// After everything else, in good weather.
    pub fn end(&mut self) {
        self.ground.set_faults(0.0);
        self.finish();
    }

    /// What holds after every operation.
    fn check(&self) {
        let (ledger, stats) = (self.bench.cache.ledger(), self.bench.scheduler.stats());
        assert!(ledger.peak() <= ledger.budget() && stats.shared_bytes <= ledger.used());
        let shared: u64 = TENANTS.iter().map(|tenant| self.bench.scheduler.shared_by(Tenant::named(tenant)).1).sum();
        assert_eq!(shared, stats.shared_bytes, "every block is somebody's");
    }
}
