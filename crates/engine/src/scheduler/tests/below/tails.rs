//! Blocks that are not full, at the end of what was computed.

use super::*;

fn life(disk: &Disk, seed: u64, faults: f64) -> Bench {
    let mut bench = Bench::over(cache_with(4000, None), HashDecoder::new(1500), sharing(EngineConfig::default()));
    bench.scheduler.attach(Unreliable::over(disk, &bench.cache, seed, faults));
    bench.scheduler.reuse.set_cost(machine(1.0, 0.001));
    bench
}

fn ask(bench: &mut Bench, prompt: &[u32]) -> (Vec<u32>, Usage) {
    let mut client = bench.submit(request(prompt.to_vec(), 20));
    drain(bench);
    (answer(&mut client)[&0].clone(), client.seen.usage.unwrap())
}

#[test]
fn a_conversation_goes_on_after_a_restart_from_its_last_token() {
    let mut dice = Dice::new(41);
    let text = random(&mut dice, 340);
    let disk = Disk::default();
    let mut first = life(&disk, 1, 0.0);
    let (said, _) = ask(&mut first, &text);
    first.run();
    // 340 tokens and 19 of the answer: the last one was chosen and nothing was computed behind it.
    assert_eq!(disk.lock().unwrap().len(), 6);
    let next = [&text[..], &said, &random(&mut dice, 100)].concat();
    let mut cold = life(&Disk::default(), 1, 0.0);
    let exact = ask(&mut cold, &next).0;
    for (prompt, cached) in [(&next[..], 359), (&text[..], 339), (&[&text[..330], &[1; 50]].concat()[..], 330)] {
        let copy: Disk = Arc::new(Mutex::new(disk.lock().unwrap().clone()));
        let mut after = life(&copy, 2, 0.0);
        let (answer, usage) = ask(&mut after, prompt);
        assert_eq!(usage.cached_tokens, cached);
        assert!(prompt.len() != next.len() || answer == exact);
        after.run();
    }
    // Another answer to the same prompt lies beside it, or is not kept; nothing is mistaken for anything.
    for seed in 0..20 {
        let mut bench = life(&disk, seed, 0.3);
        let other = [&text[..330], &random(&mut Dice::new(seed), 10)].concat();
        let mut alone = life(&Disk::default(), 1, 0.0);
        assert_eq!(ask(&mut bench, &other).0, ask(&mut alone, &other).0);
        assert_eq!(ask(&mut bench, &next).0, exact);
        bench.run();
    }
}
