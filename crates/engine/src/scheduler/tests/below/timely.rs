//! Levels of loss for requests with little time.

use super::*;

const LEVELS: &str = "cachegen-3,cachegen-1";

type Asked = Arc<Mutex<Vec<BlockKey>>>;

fn life(disk: &Disk, seed: u64) -> (Bench, Asked) {
    let reuse = ReuseConfig { every: ON, lossy: Some(LEVELS.into()), ..ReuseConfig::default() };
    let config = EngineConfig { reuse, ..EngineConfig::default() };
    let mut bench = Bench::over(cache_with(4000, None), HashDecoder::new(2000), config);
    let mut below = Unreliable::over(disk, &bench.cache, seed, 0.0);
    below.codecs = LEVELS.split(',').map(|name| named(name, &[]).unwrap().into()).collect();
    let asked = below.asked.clone();
    bench.scheduler.attach(below);
    (bench, asked)
}

fn ask(bench: &mut Bench, text: &[u32], within: Option<Duration>) -> Usage {
    let wish = Wish { lossy: Some(true), within, ..Wish::default() };
    let mut client = bench.submit(Request { wish, ..request(text.to_vec(), 5) });
    drain(bench);
    answer(&mut client);
    client.seen.usage.unwrap()
}

/// At which level each of the blocks of a text was read that were.
fn levels(bench: &Bench, asked: &Asked, text: &[u32]) -> Vec<u8> {
    let plan = bench.cache.config().plan.clone();
    let domain = bench.reuse.lossy_domain(&bench.cache, &plan, "").unwrap();
    let (mut parent, mut names) = (None, HashMap::new());
    for block in text.chunks_exact(64) {
        let key = domain.key(parent.replace(domain.key(parent, block)), block);
        names.extend((0..2).map(|level| (key.level(level), level)));
    }
    asked.lock().unwrap().iter().map(|key| names[key]).collect()
}

#[test]
fn the_level_is_the_best_that_is_in_time() {
    let text = random(&mut Dice::new(31), 400);
    let disk = Disk::default();
    let (mut first, _) = life(&disk, 1);
    ask(&mut first, &text, None);
    first.run();
    assert_eq!(disk.lock().unwrap().len(), 12, "six blocks, each twice");
    let kept = disk.lock().unwrap().clone();
    // Seconds to compute a block, and to read what it has as plain pages; what there is time for; and what is done.
    let cases = [
        (10.0, 1.0, None, vec![0; 6]),
        (1.0, 1.0, Some(10_000), vec![0; 6]),
        (1.0, 1.0, Some(2_000), vec![1; 6]),
        (1.0, 1.0, Some(100), vec![1; 6]),
        (0.01, 1.0, Some(100), vec![]),
    ];
    for (compute, read, within, expected) in cases {
        let (mut bench, asked) = life(&disk, 2);
        bench.scheduler.reuse.set_cost(machine_of(&bench.cache, compute, read));
        let usage = ask(&mut bench, &text, within.map(Duration::from_millis));
        assert_eq!(levels(&bench, &asked, &text), expected, "{compute} {within:?}");
        assert_eq!(usage.lossy_tokens, expected.len() * 64);
        bench.run();
        *disk.lock().unwrap() = kept.clone();
    }
}

#[test]
fn a_tier_that_proves_fast_gives_the_rest_at_a_better_level() {
    let text = random(&mut Dice::new(32), 1300);
    let disk = Disk::default();
    let (mut first, _) = life(&disk, 1);
    ask(&mut first, &text, None);
    first.run();
    let (mut bench, asked) = life(&disk, 2);
    // A tick of the clock is a millisecond; this tier is thought to take a second for a block.
    bench.scheduler.reuse.set_cost(machine_of(&bench.cache, 1.0, 1.0));
    let usage = ask(&mut bench, &text, Some(Duration::from_millis(5_600)));
    let read = levels(&bench, &asked, &text);
    assert_eq!((read.len(), usage.lossy_tokens), (20, 1280));
    assert_eq!((read[0], read[19]), (1, 0), "{read:?}");
    bench.run();
}

#[test]
fn what_is_there_at_one_level_alone_is_read_at_that() {
    let text = random(&mut Dice::new(33), 400);
    let within = [None, Some(Duration::from_secs(100))];
    for (gone, within) in within.iter().flat_map(|within| [(0, *within), (1, *within)]) {
        let disk = Disk::default();
        let (mut first, _) = life(&disk, 1);
        ask(&mut first, &text, None);
        first.run();
        let (mut bench, asked) = life(&disk, 2);
        let plan = bench.cache.config().plan.clone();
        let domain = bench.reuse.lossy_domain(&bench.cache, &plan, "").unwrap();
        let key = domain.key(None, &text[..64]).level(gone);
        disk.lock().unwrap().remove(&(Tenant::named(""), key)).unwrap();
        bench.scheduler.reuse.set_cost(machine_of(&bench.cache, 10.0, 1.0));
        assert_eq!(ask(&mut bench, &text, within).lossy_tokens, 384);
        assert_eq!(levels(&bench, &asked, &text), vec![1 - gone; 6], "{within:?}");
        bench.run();
    }
}
