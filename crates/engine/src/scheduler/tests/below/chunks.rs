//! Chunks of prompts that are found below the pool, away from the prefix they were computed in.

use super::*;
use crate::blend::Blend;

/// Between two lives of an engine, all that is left is the disk.
fn life(disk: &Disk, seed: u64, faults: f64) -> Bench {
    let mut bench = Bench::over(cache_with(4000, None), HashDecoder::new(1500), sharing(EngineConfig::default()));
    bench.scheduler.attach(Unreliable::over(disk, &bench.cache, seed, faults));
    bench.scheduler.reuse.set_cost(machine(1.0, 0.001));
    bench
}

/// A prompt of these parts, the marked ones first named.
fn prompt(parts: &[&Vec<u32>], tenant: &str, method: &str) -> Request {
    let (mut tokens, mut chunks) = (vec![7; 10], Vec::new());
    for part in parts {
        chunks.push(tokens.len()..tokens.len() + part.len());
        tokens.extend_from_slice(part);
    }
    tokens.extend([3; 70]);
    let blend = Some(method.parse::<Blend>().unwrap());
    let wish = Wish { blend, chunks, ..Wish::default() };
    Request { tenant: tenant.to_owned(), wish, ..request(tokens, 5) }
}

/// Tokens that were moved, and the answer.
fn ask(bench: &mut Bench, request: Request) -> (usize, Vec<u32>) {
    let mut client = bench.submit(request);
    drain(bench);
    let said = answer(&mut client)[&0].clone();
    (client.seen.usage.unwrap().moved_tokens, said)
}

#[test]
fn chunks_are_found_after_a_restart_and_answer_as_they_did_before_it() {
    let mut dice = Dice::new(21);
    let texts: Vec<Vec<u32>> = [150, 90, 131, 77].iter().map(|&tokens| random(&mut dice, tokens)).collect();
    let [a, b, c, new] = [0, 1, 2, 3].map(|i| &texts[i]);
    for method in ["cacheblend", "kvshare", "pie", "cache-craft"] {
        let disk = Disk::default();
        // Cache-Craft wants to know what stood before a chunk, which is only looked at for those who ask.
        let first = if method == "cache-craft" { method } else { "exact" };
        let of = |tenant: &str, method: &str| prompt(&[c, new, a], tenant, method);
        let mut before = life(&disk, 1, 0.0);
        assert_eq!(ask(&mut before, prompt(&[a, b, c], "a", first)).0, 0);
        let objects = disk.lock().unwrap().len();
        let (moved, said) = ask(&mut before, of("a", method));
        assert!(moved > 0 && moved <= a.len() + c.len(), "{method}: {moved}");
        before.run();
        // Of a prompt that was put together nothing goes down.
        assert_eq!(disk.lock().unwrap().len(), objects, "{method}");

        let kept = disk.lock().unwrap().clone();
        let mut after = life(&disk, 2, 0.0);
        assert_eq!(ask(&mut after, of("b", method)).0, 0, "another tenant finds nothing");
        assert_eq!(ask(&mut after, of("a", "exact")).0, 0, "nor does whoever does not ask for it");
        after.run();
        // Of that the beginning would be found, exactly.
        *disk.lock().unwrap() = kept;
        let mut after = life(&disk, 3, 0.0);
        assert_eq!(ask(&mut after, of("a", method)), (moved, said.clone()), "{method}");
        // They are in the pool now.
        let again = prompt(&[a, c], "a", "pie");
        disk.lock().unwrap().clear();
        assert_eq!(ask(&mut after, again).0, a.len() + c.len(), "{method}");
        after.run();
    }
}

#[test]
fn what_is_lost_damaged_or_slower_than_computing_is_computed() {
    let mut dice = Dice::new(22);
    let (a, b) = (random(&mut dice, 150), random(&mut dice, 200));
    let disk = Disk::default();
    let mut first = life(&disk, 1, 0.0);
    ask(&mut first, prompt(&[&a, &b], "a", "exact"));
    first.run();
    let kept = disk.lock().unwrap().clone();
    let exact = ask(&mut life(&Disk::default(), 1, 0.0), prompt(&[&b, &a], "a", "exact")).1;
    let mut moved = 0;
    for seed in 0..40 {
        *disk.lock().unwrap() = kept.clone();
        if seed % 2 == 0 {
            // Notes, too.
            let mut disk = disk.lock().unwrap();
            for bytes in disk.values_mut() {
                let at = dice.below(bytes.len());
                bytes[at] ^= u8::from(dice.chance(0.3)) << dice.below(8);
            }
        }
        let mut bench = life(&disk, seed, 0.2);
        let (tokens, said) = ask(&mut bench, prompt(&[&b, &a], "a", "pie"));
        assert!([0, a.len(), b.len(), a.len() + b.len()].contains(&tokens), "{tokens}");
        assert!(tokens > 0 || said == exact, "{seed}");
        moved += usize::from(tokens > 0);
        bench.run();
    }
    assert!(moved > 5 && moved < 40, "{moved}");
    *disk.lock().unwrap() = kept;
    let mut slow = life(&disk, 50, 0.0);
    slow.scheduler.reuse.set_cost(machine(0.001, 1.0));
    assert_eq!(ask(&mut slow, prompt(&[&b, &a], "a", "pie")), (0, exact));
    slow.run();
}

#[test]
fn a_deleted_tenants_notes_are_gone() {
    let (disk, a) = (Disk::default(), random(&mut Dice::new(23), 150));
    let mut bench = life(&disk, 1, 0.0);
    ask(&mut bench, prompt(&[&a], "a", "exact"));
    ask(&mut bench, prompt(&[&a], "b", "exact"));
    let now = bench.tick();
    bench.scheduler.delete_tenant(Tenant::named("a"), Box::new(|deletion| assert!(deletion.is_complete())), now);
    bench.run();
    assert!(disk.lock().unwrap().keys().all(|(tenant, _)| *tenant == Tenant::named("b")));
    let mut after = life(&disk, 2, 0.0);
    let lead = |tenant: &str| prompt(&[&vec![9; 40], &a], tenant, "pie");
    assert_eq!(ask(&mut after, lead("a")).0, 0);
    after.scheduler.reuse.set_cost(machine(1.0, 0.001));
    assert_eq!(ask(&mut after, lead("b")).0, a.len());
    after.run();
}
