//! What the cache holds: predictions are exact, nothing leaks, windows let go, forks share, bad use is refused.

mod common;

use cachalot_kernels::Isa;
use cachalot_kv::{KvError, LayerGeometry, Purpose, Segment};
use common::*;
use proptest::prelude::*;

#[test]
fn what_is_reserved_is_what_was_predicted() {
    let cache = cache(&[plain(4, 2, 64), plain(4, 2, 64)], "f16", 1, Isa::detect());
    let mut seq = cache.create();
    assert_eq!(seq.bytes(), 0);
    for tokens in [1, 62, 1, 1, 500] {
        let before = cache.ledger().used();
        let predicted = cache.bytes_to_extend(&seq, tokens);
        cache.reserve(&mut seq, tokens).unwrap();
        assert_eq!(cache.ledger().used() - before, predicted);
        step(&cache, &mut seq, &Rows::random(&plain(4, 2, 64), 600, 1), tokens);
        assert_eq!(cache.ledger().used(), seq.bytes());
        assert_eq!(cache.ledger().used(), cache.bytes_for_tokens(seq.len()));
    }
    // Two layers of two lanes; a page is a header of 64 bytes and 64 tokens of 64 channels, twice, of two bytes.
    assert_eq!(seq.bytes(), 2 * 2 * 9 * (64 + 64 * 64 * 2 * 2));
    drop(seq);
    assert_eq!(cache.ledger().used(), 0);
    assert!(cache.ledger().by_purpose().iter().any(|&(p, bytes)| p == Purpose::Scratch && bytes > 0));
}

#[test]
fn a_window_lets_go_of_what_nobody_will_see() {
    let window = LayerGeometry { window: Some(100), ..plain(2, 1, 16) };
    let cache = cache(&[window, plain(2, 1, 16)], "f32", 1, Isa::detect());
    let rows = Rows::random(&plain(2, 1, 16), 1000, 3);
    let mut seq = cache.create();
    for _ in 0..1000 {
        step(&cache, &mut seq, &rows, 1);
    }
    let page = 64 + 64 * 16 * 4 * 2;
    // The next token sees positions 901 and on: pages 14 and 15 of 16.
    assert_eq!(seq.bytes(), (16 + 2) * page);
    assert_eq!(cache.ledger().used(), seq.bytes());
    let error = cache.truncate(&mut seq, 900).unwrap_err();
    assert_eq!(error, KvError::Forgotten { tokens: 900, first: 896 });
    cache.truncate(&mut seq, 995).unwrap();
}

#[test]
fn over_budget_is_refused_and_costs_nothing() {
    let cache = cache(&[plain(1, 1, 64)], "f32", 1, Isa::detect());
    let mut small = cache.create();
    cache.reserve(&mut small, 10).unwrap();
    let used = cache.ledger().used();
    let mut large = cache.create();
    let error = cache.reserve(&mut large, 1 << 20).unwrap_err();
    assert!(matches!(error, KvError::OutOfBudget { budget: BUDGET, .. }), "{error}");
    assert_eq!((cache.ledger().used(), large.bytes()), (used, 0));
}

#[test]
fn a_step_without_room_is_misuse_not_a_panic() {
    let g = plain(1, 1, 16);
    let cache = cache(&[g], "f32", 1, Isa::detect());
    let mut seq = cache.create();
    let (x, mut out) = (vec![0.0; 16], vec![0.0; 16]);
    let mut segments = [Segment { seq: &mut seq, rows: 1 }];
    assert!(matches!(cache.attend(0, &mut segments, &x, &x, &x, &mut out), Err(KvError::Misuse(_))));
    assert!(matches!(cache.attend(1, &mut segments, &x, &x, &x, &mut out), Err(KvError::Misuse(_))));
    assert!(matches!(cache.attend(0, &mut segments, &x[..3], &x, &x, &mut out), Err(KvError::Misuse(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Fork, go back, go on: each sequence reads what a sequence of its own would, and sealed pages stay intact.
    #[test]
    fn forks_and_truncations_read_as_fresh_sequences(
        ops in prop::collection::vec((0usize..4, 0usize..8, 1usize..90), 1..24), window in prop_oneof![Just(None), Just(Some(90))],
    ) {
        let g = LayerGeometry { window, ..plain(3, 1, 16) };
        let cache = cache(std::slice::from_ref(&g), "f16", 2, Isa::detect());
        // All sequences take tokens from the same rows, so a sequence of length n is defined by n.
        let rows = Rows::random(&g, 4000, 9);
        let want = run(&cache, &rows, &[4000]);
        let width = g.heads * g.head_dim;
        let mut live = vec![cache.create()];
        for (op, which, n) in ops {
            let which = which % live.len();
            match op {
                0 if live.len() < 6 => {
                    let fork = cache.fork(&live[which]).unwrap();
                    live.push(fork);
                }
                1 if live.len() > 1 => { live.swap_remove(which); }
                2 => {
                    let to = live[which].len().saturating_sub(n);
                    match cache.truncate(&mut live[which], to) {
                        Ok(()) => prop_assert_eq!(live[which].len(), to),
                        Err(error) => {
                            let forgotten = matches!(error, KvError::Forgotten { .. });
                            prop_assert!(forgotten, "{}", error);
                        }
                    }
                }
                _ => {
                    let from = live[which].len();
                    if from + n <= 4000 {
                        let out = step(&cache, &mut live[which], &rows, n);
                        let same = out.iter().zip(&want[from * width..]).all(|(a, b)| a.to_bits() == b.to_bits());
                        prop_assert!(same, "tokens {}..{}", from, from + n);
                    }
                }
            }
            for seq in &live {
                cache.verify(seq).unwrap();
            }
        }
        let apart: u64 = live.iter().map(|s| s.bytes()).sum();
        prop_assert!(cache.ledger().used() <= apart);
        drop(live);
        prop_assert_eq!(cache.ledger().used(), 0);
    }
}

#[test]
fn impossible_geometries_are_refused() {
    let bad = [
        LayerGeometry { heads: 3, kv_heads: 2, ..plain(2, 1, 16) },
        LayerGeometry { kv_heads: 0, ..plain(2, 1, 16) },
        LayerGeometry { head_dim: 0, rope: None, ..plain(2, 1, 16) },
        LayerGeometry { window: Some(0), ..plain(2, 1, 16) },
        LayerGeometry { head_dim: 8, ..plain(2, 1, 16) },
    ];
    for g in bad {
        let config = cachalot_kv::CacheConfig::new(vec![g], BUDGET, "f16".parse().unwrap());
        let team = std::sync::Arc::new(cachalot_kernels::Team::of_all_cores());
        assert!(matches!(cachalot_kv::KvCache::new(config, team, Isa::Portable), Err(KvError::Config(_))));
    }
}
