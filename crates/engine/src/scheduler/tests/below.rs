//! Blocks below the pool: written, lost, late, damaged, found again after a restart; and never a wrong byte.

mod chunks;
mod tails;
mod timely;

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use cachalot_store::BlockKey;
use cachalot_store::codec::{Codec, Plain, named};
use cachalot_store::cost::{CostFile, CostModel};
use cachalot_store::tier::{Level, Proof, Removed, ShelfConfig, Tenant, TierConfig};

use super::sharing::{RECIPES, answer, cold, plan, random, request, sharing};
use super::*;
use crate::blend::Wish;
use crate::reuse::Parcel;
use crate::reuse::below::{Arrived, Below, FetchId, NoteRead, Parts, There, TierOptions, TierStore, objects, read};
use crate::testing::{Dice, cache_with};

type Disk = Arc<Mutex<HashMap<(Tenant, BlockKey), Vec<u8>>>>;

/// Something below that is late, forgets, and flips bits.
struct Unreliable {
    cache: Arc<KvCache>,
    disk: Disk,
    dice: Dice,
    /// Chance that an object is not delivered, or not written.
    faults: f64,
    /// Chance that nothing arrives when somebody looks.
    late: f64,
    codecs: Vec<Arc<dyn Codec>>,
    /// Objects that were asked for.
    asked: Arc<Mutex<Vec<BlockKey>>>,
    waiting: VecDeque<Arrived>,
    notes: Vec<NoteRead>,
    next: u64,
}

impl Unreliable {
    fn over(disk: &Disk, cache: &Arc<KvCache>, seed: u64, faults: f64) -> Box<Unreliable> {
        let (cache, disk) = (cache.clone(), disk.clone());
        Box::new(Unreliable {
            cache,
            disk,
            dice: Dice::new(seed),
            faults,
            late: 0.0,
            codecs: vec![Arc::new(Plain)],
            asked: Arc::default(),
            waiting: VecDeque::new(),
            notes: Vec::new(),
            next: 0,
        })
    }
}

impl Below for Unreliable {
    fn there(&mut self, tenant: Tenant, keys: &[BlockKey]) -> There {
        let disk = self.disk.lock().unwrap();
        let has = |key: BlockKey| disk.contains_key(&(tenant, key));
        let parts = keys.iter().map(|&key| Parts { kept: has(key), near: has(key.near()) });
        let parts: Vec<Parts> = parts.take_while(|parts| parts.any()).collect();
        There { levels: vec![Level::Disk; parts.len()], parts, asking: self.dice.chance(0.1) }
    }

    fn is_near(&mut self, tenant: Tenant, key: BlockKey) -> bool {
        self.disk.lock().unwrap().contains_key(&(tenant, key))
    }

    fn fetch(&mut self, tenant: Tenant, plan: &Arc<CachePlan>, wanted: &[(BlockKey, Parts)]) -> FetchId {
        let id = FetchId(self.next);
        self.next += 1;
        for &(key, parts) in wanted {
            for near in [(parts.kept, false), (parts.near, true)].iter().filter(|part| part.0).map(|part| part.1) {
                let key = if near { key.near() } else { key };
                self.asked.lock().unwrap().push(key);
                let mut bytes = self.disk.lock().unwrap().get(&(tenant, key)).cloned().unwrap_or_default();
                if self.dice.chance(self.faults) && !bytes.is_empty() {
                    let at = self.dice.below(bytes.len());
                    bytes[at] ^= 1 << self.dice.below(8);
                }
                let lost = self.dice.chance(self.faults);
                let parcel = if lost { None } else { read(&self.cache, &self.codecs, plan, key, near, &bytes) };
                let at = self.dice.below(self.waiting.len() + 1);
                self.waiting.insert(at, Arrived { id, parcel });
            }
        }
        id
    }

    fn cancel(&mut self, id: FetchId) {
        self.waiting.iter_mut().filter(|arrived| arrived.id == id).for_each(|arrived| arrived.parcel = None);
    }

    fn arrived(&mut self) -> Vec<Arrived> {
        // What was given up is not late.
        if self.late > 0.0 && self.dice.chance(self.late) && self.waiting.iter().any(|arrived| arrived.parcel.is_some())
        {
            return Vec::new();
        }
        let n = self.dice.below(self.waiting.len() + 2).min(self.waiting.len());
        self.waiting.drain(..n).collect()
    }

    fn keep(&mut self, tenant: Tenant, blocks: Vec<(Parcel, Parts)>) {
        for (parcel, parts) in blocks {
            for object in objects(&self.cache, &self.codecs, tenant, &parcel, parts) {
                if !self.dice.chance(self.faults) {
                    self.disk.lock().unwrap().insert((tenant, object.key), object.bytes.to_vec());
                }
            }
        }
    }

    fn keep_notes(&mut self, tenant: Tenant, notes: Vec<(BlockKey, Arc<[u8]>)>) {
        for (key, bytes) in notes {
            if !self.dice.chance(self.faults) {
                self.disk.lock().unwrap().entry((tenant, key)).or_insert_with(|| bytes.to_vec());
            }
        }
    }

    fn read_notes(&mut self, tenant: Tenant, keys: &[BlockKey]) -> FetchId {
        let id = FetchId(self.next);
        self.next += 1;
        for &key in keys {
            let bytes = self.disk.lock().unwrap().get(&(tenant, key)).cloned();
            let lost = self.dice.chance(self.faults);
            self.notes.push(NoteRead { id, key, bytes: bytes.filter(|_| !lost).map(Into::into) });
        }
        id
    }

    fn notes(&mut self) -> Vec<NoteRead> {
        std::mem::take(&mut self.notes)
    }

    fn delete(&mut self, tenant: Tenant, tell: Box<dyn FnOnce(Proof) + Send>) {
        let mut disk = self.disk.lock().unwrap();
        let before = disk.len();
        disk.retain(|(owner, _), _| *owner != tenant);
        let removed = Removed { objects: before as u64 - disk.len() as u64, ..Removed::default() };
        tell(Proof { tenant, levels: [Some(removed), None, None] });
    }

    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.notes.is_empty()
    }

    fn close(&mut self, _: Duration) {}
}

fn drain(bench: &mut Bench) {
    while !bench.scheduler.is_idle() {
        bench.step();
    }
    // What computing has overtaken comes all the same.
    while bench.scheduler.is_busy_below() {
        let now = bench.tick();
        bench.scheduler.poll_below(now);
    }
}

/// A machine on which a block of 64 tokens takes so long to compute, and so long to read.
pub fn machine(compute: f64, read: f64) -> CostModel {
    machine_of(&cache(100), compute, read)
}

/// The same, of blocks of this cache.
fn machine_of(cache: &KvCache, compute: f64, read: f64) -> CostModel {
    let byte = read / cache.bytes_with(&cache.config().plan, 64) as f64;
    CostModel::guess(compute / 64.0, &["ram", "disk", "remote"].map(|tier| (tier, byte)))
}

/// Lives of an engine with a restart between each two, over the same disk.
fn simulate(seed: u64) -> (u64, u64, u64) {
    let mut dice = Dice::new(seed);
    let disk = Disk::default();
    let recipes = [RECIPES[dice.below(RECIPES.len())], RECIPES[dice.below(RECIPES.len())]];
    let mut texts: Vec<Vec<u32>> = vec![random(&mut dice, 260)];
    let (mut reused, mut first_reused, mut beside) = (0, 0, 0);
    let faults = [0.0, 0.02, 0.3][dice.below(3)];
    for life in 0..3 {
        let pages = [44, 60, 2000][dice.below(3)];
        let config = EngineConfig { max_batch: 1 + dice.below(4), max_batch_tokens: 100, ..EngineConfig::default() };
        let mut bench = Bench::new(HashDecoder::new(600), pages, sharing(config));
        bench.scheduler.attach(Unreliable::over(&disk, &bench.cache, seed * 10 + life, faults));
        // Reading and computing are about as fast as each other, or it is seen while it happens.
        if dice.chance(0.6) {
            bench.scheduler.reuse.set_cost(machine(0.002, [0.0005, 0.001, 0.002][dice.below(3)]));
        }
        let plans = recipes.map(|recipe| plan(&bench.cache, recipe));
        let mut clients = Vec::new();
        for _ in 0..6 {
            let text = &texts[dice.below(texts.len())];
            let mut prompt = text[..text.len() - dice.below(60)].to_vec();
            prompt.truncate(400);
            let more = 1 + dice.below(60);
            prompt.extend(random(&mut dice, more));
            texts.push(prompt.clone());
            let recipe = dice.below(2);
            clients.push((bench.submit_with(request(prompt, 1 + dice.below(30)), plans[recipe].clone()), recipe));
            (0..dice.below(6)).for_each(|_| _ = bench.step());
        }
        drain(&mut bench);
        for (i, (client, recipe)) in clients.iter_mut().enumerate() {
            assert_eq!(answer(client), cold(&client.request, recipes[*recipe]), "seed {seed}, {}", recipes[*recipe]);
            if life > 0 && i == 0 {
                first_reused += client.seen.usage.unwrap().cached_tokens as u64;
            }
        }
        reused += bench.scheduler.stats().reused_tokens;
        beside += bench.scheduler.reuse.beside;
        bench.run();
    }
    (reused, first_reused, beside)
}

#[test]
fn what_comes_from_below_equals_what_is_computed() {
    let (mut reused, mut first, mut beside) = (0, 0, 0);
    for seed in 0..60 {
        let (all, after_restart, meanwhile) = simulate(seed);
        (reused, first, beside) = (reused + all, first + after_restart, beside + meanwhile);
    }
    assert!(
        reused > 25_000 && first > 5_000 && beside > 1_500,
        "the simulation must reach what it tests: {reused}, {first} after restarts, {beside} beside computing"
    );
}

/// What a second life makes of a prompt of six blocks and a bit that the first has computed, where steps have 64 rows, and how often
/// it was computed and looked for what is below meanwhile.
fn second_life(recipe: &str, cost: CostModel, late: f64, faults: f64) -> (usize, usize) {
    let (disk, text) = (Disk::default(), random(&mut Dice::new(3), 400));
    let mut seen = (0, 0);
    for life in 0..2 {
        let config = EngineConfig { max_batch_tokens: 64, ..EngineConfig::default() };
        let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(config));
        let mut below = Unreliable::over(&disk, &bench.cache, life, if life > 0 { faults } else { 0.0 });
        below.late = if life > 0 { late } else { 0.0 };
        bench.scheduler.attach(below);
        bench.scheduler.reuse.set_cost(cost.clone());
        let plan = plan(&bench.cache, recipe);
        let mut client = bench.submit_with(request(text.clone(), 3), plan);
        drain(&mut bench);
        assert_eq!(answer(&mut client), cold(&client.request, recipe), "{recipe}");
        seen = (client.seen.usage.unwrap().cached_tokens, bench.steps);
        bench.run();
    }
    seen
}

#[test]
fn the_front_is_computed_while_what_is_behind_it_is_read() {
    for recipe in ["f16", "int8(window=64)", "int4(window=0)"] {
        // A read takes half as long: two blocks are computed while four are read.
        assert_eq!(second_life(recipe, machine(0.02, 0.01), 0.0, 0.0).0, 4 * 64, "{recipe}");
        // As fast as computing.
        assert_eq!(second_life(recipe, machine(0.02, 0.02), 0.0, 0.0).0, 3 * 64, "{recipe}");
    }
}

#[test]
fn what_reads_faster_than_it_computes_is_read_first_and_what_reads_slower_is_not() {
    assert_eq!(second_life("f16", machine(0.02, 1e-4), 0.0, 0.0).0, 384);
    assert_eq!(second_life("f16", machine(0.02, 1.0), 0.0, 0.0).0, 0);
}

#[test]
fn computing_overtakes_what_is_late_and_goes_on_from_what_is_lost() {
    // It never comes: everything is computed, in the steps that it takes and no more.
    let (cached, steps) = second_life("f16", machine(0.02, 0.01), 1.0, 0.0);
    assert_eq!((cached, steps), (0, 7 + 2));
    assert_eq!(second_life("f16", machine(0.02, 0.01), 0.0, 1.0).0, 0);
}

#[test]
fn a_restart_computes_only_what_is_new() {
    let mut dice = Dice::new(1);
    let text = random(&mut dice, 400);
    for recipe in ["f16", "int8(window=64)", "int8(window=128)"] {
        let disk = Disk::default();
        let mut cached = Vec::new();
        for life in 0..2 {
            let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
            bench.scheduler.attach(Unreliable::over(&disk, &bench.cache, life, 0.0));
            let plan = plan(&bench.cache, recipe);
            let mut client = bench.submit_with(request(text.clone(), 10), plan);
            drain(&mut bench);
            assert_eq!(answer(&mut client), cold(&client.request, recipe));
            cached.push(client.seen.usage.unwrap().cached_tokens);
            bench.run();
        }
        assert_eq!(cached, [0, 384], "{recipe}");
    }
}

#[test]
fn a_tenant_that_is_deleted_leaves_nothing_in_pool_or_below() {
    let disk = Disk::default();
    let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
    bench.scheduler.attach(Unreliable::over(&disk, &bench.cache, 1, 0.0));
    let text = random(&mut Dice::new(2), 300);
    let of = |tenant: &str, tokens| Request { tenant: tenant.into(), ..request(text.clone(), tokens) };
    let _clients = [bench.submit(of("a", 5)), bench.submit(of("b", 5))];
    drain(&mut bench);
    let both = bench.cache.ledger().used();
    let (mut running, heard) = (bench.submit(of("a", 200)), Arc::new(Mutex::new(None)));
    bench.step();
    let (tell, now) = (heard.clone(), bench.tick());
    let tell = Box::new(move |deletion: Deletion| *tell.lock().unwrap() = Some(deletion));
    let shared = bench.scheduler.shared_by(Tenant::named("a"));
    bench.scheduler.delete_tenant(Tenant::named("a"), tell, now);
    let deletion = heard.lock().unwrap().clone().unwrap();
    assert!(deletion.is_complete() && deletion.requests == 1 && shared.1 > 0);
    assert_eq!((deletion.pool.objects, deletion.pool.bytes), shared);
    assert_eq!(bench.scheduler.shared_by(Tenant::named("a")), (0, 0));
    assert_eq!(running.read().choices[&0].2, Some(FinishReason::Error));
    assert_eq!(running.seen.errors, [EngineError::TenantDeleted]);
    assert_eq!(bench.cache.ledger().used() * 2, both, "what is left is the other's");
    assert!(
        !disk.lock().unwrap().is_empty() && disk.lock().unwrap().keys().all(|(owner, _)| *owner == Tenant::named("b"))
    );
    let mut again = bench.submit(of("a", 5));
    drain(&mut bench);
    assert_eq!(again.read().usage.unwrap().cached_tokens, 0);
    bench.run();
}

#[test]
fn what_a_lossy_codec_changed_is_found_by_those_who_allow_it_alone() {
    let (disk, text) = (Disk::default(), random(&mut Dice::new(9), 400));
    let config = || {
        let reuse = ReuseConfig { every: ON, lossy: Some("cachegen-3".into()), ..ReuseConfig::default() };
        EngineConfig { reuse, ..EngineConfig::default() }
    };
    // Without a sliding window, whose blocks are in two parts.
    let bench = |life| {
        let mut bench = Bench::over(cache_with(4000, None), HashDecoder::new(600), config());
        let mut below = Unreliable::over(&disk, &bench.cache, life, 0.0);
        below.codecs = vec![named("cachegen-3", &[]).unwrap().into()];
        bench.scheduler.attach(below);
        bench
    };
    let ask = |bench: &mut Bench, lossy: Option<bool>, recipe: &str| {
        let plan = plan(&bench.cache, recipe);
        let wish = Wish { lossy, ..Wish::default() };
        let mut client = bench.submit_with(Request { wish, ..request(text.clone(), 10) }, plan.clone());
        drain(bench);
        let mut alone = Bench::over(cache_with(4000, None), HashDecoder::new(600), EngineConfig::default());
        let mut cold = alone.submit_with(client.request.clone(), plan);
        alone.run();
        let same = answer(&mut client) == answer(&mut cold);
        let usage = client.seen.usage.unwrap();
        (usage.cached_tokens, usage.lossy_tokens, same)
    };
    let mut first = bench(0);
    assert_eq!(ask(&mut first, None, "f16"), (0, 0, true));
    assert_eq!(ask(&mut first, Some(true), "f16"), (399, 0, true), "exact blocks of the pool go first");
    assert_eq!(ask(&mut first, Some(true), "int8(window=64)"), (0, 0, true));
    first.run();
    let objects = disk.lock().unwrap().len();
    assert_eq!(objects, 6, "nothing of a recipe that encodes");
    // A restart.
    let mut second = bench(1);
    assert_eq!(ask(&mut second, None, "f16"), (0, 0, true));
    second.run();
    let mut third = bench(2);
    assert_eq!(ask(&mut third, Some(true), "int8(window=64)"), (0, 0, true));
    let (cached, lossy, _) = ask(&mut third, Some(true), "f16");
    assert_eq!((cached, lossy), (384, 384));
    assert_eq!(ask(&mut third, Some(false), "f16"), (0, 0, true), "in the pool they are apart, too");
    assert_eq!(disk.lock().unwrap().len(), objects, "and what came up does not go down again, coded twice");
    third.run();
}

#[test]
fn what_things_cost_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut known = Vec::new();
    for _ in 0..2 {
        let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
        let tiers = TierConfig { ram: Some(ShelfConfig::new(1 << 20)), ..TierConfig::default() };
        let cost = Some(CostFile::new(folder.path().to_owned(), &[b"this machine"]));
        let options =
            TierOptions { tiers, threads: 1, queue: 1 << 20, codecs: [Arc::new(Plain) as Arc<dyn Codec>].into(), cost };
        bench.scheduler.attach(Box::new(TierStore::open(options, &bench.cache).unwrap()));
        known.push(bench.scheduler.reuse.cost().observations()[0]);
        let _client = bench.submit(request(random(&mut Dice::new(1), 300), 3));
        drain(&mut bench);
        bench.scheduler.close_below(Duration::from_secs(5));
        bench.run();
    }
    assert!(known[0] == 0 && known[1] > 0, "{known:?}");
}

/// What one life computed is on its way up in the next ones when `then` happens.
fn while_it_is_fetched(seed: u64, mut then: impl FnMut(&mut Bench, &Disk)) {
    let disk = Disk::default();
    let text = random(&mut Dice::new(seed), 400);
    for life in 0..12 {
        let mut bench = Bench::new(HashDecoder::new(600), 4000, sharing(EngineConfig::default()));
        bench.scheduler.attach(Unreliable::over(&disk, &bench.cache, life, 0.0));
        let _client = bench.submit(request(text.clone(), 5));
        if life == 0 {
            drain(&mut bench);
        } else {
            then(&mut bench, &disk);
        }
        bench.scheduler.close_below(Duration::ZERO);
        bench.run();
    }
}

#[test]
fn a_fetch_that_never_ends_keeps_no_pages() {
    while_it_is_fetched(4, |bench, _| {
        // Some of it has come, and then nobody looks any more.
        (0..2).for_each(|_| _ = bench.step());
        let now = bench.tick();
        bench.scheduler.cancel_all(now);
    });
}

#[test]
fn what_is_on_its_way_up_does_not_bring_a_deleted_tenant_back() {
    while_it_is_fetched(5, |bench, disk| {
        let kept = disk.lock().unwrap().clone();
        (0..2).for_each(|_| _ = bench.step());
        let now = bench.tick();
        bench.scheduler.delete_tenant(Tenant::named(""), Box::new(drop), now);
        while bench.scheduler.is_busy_below() {
            let now = bench.tick();
            bench.scheduler.poll_below(now);
        }
        assert_eq!(bench.scheduler.shared_by(Tenant::named("")), (0, 0));
        *disk.lock().unwrap() = kept;
    });
}
