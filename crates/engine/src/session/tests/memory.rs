//! Pins.

use super::*;

#[tokio::test]
async fn a_pinned_session_outlives_eviction_until_its_time_is_over() {
    let dir = folder();
    // 40 pages: the session takes 10 of them, the texts that follow take all the others.
    let bench = bench_of(dir.path(), 40, Identity::default(), 0.5);
    let own = session(tokens(300, 1), "f16");
    bench.keep("", "a", &own).await;
    let guard = bench.sessions.lock("", &name("a")).await;
    let (restored, bytes) = bench.sessions.pin(&guard, 60, NOW).await.unwrap();
    assert_eq!(restored.recompute_tokens, 0);
    assert!(bytes > 0 && bytes == bench.sessions.pinned_bytes());
    let flood = async || {
        for salt in 2..8 {
            bench.answer(&tokens(500, salt), "f16", "").await;
        }
        assert!(bench.engine.handle().stats().evicted_blocks > 0);
        bench.sessions.reusable(&own, "").await.unwrap()
    };
    assert_eq!(flood().await, 300);
    assert_eq!(bench.sessions.shelf().read("", &name("a")).unwrap().session.pinned_until, Some(NOW + 60));
    assert_eq!((bench.sessions.expire(NOW + 59), bench.sessions.expire(NOW + 60)), (0, 1));
    assert_eq!(bench.sessions.pinned_bytes(), 0);
    assert!(flood().await < 300);
}

#[tokio::test]
async fn a_pin_that_does_not_fit_is_refused_with_both_numbers() {
    let dir = folder();
    let bench = bench_of(dir.path(), 100, Identity::default(), 0.1);
    bench.keep("", "a", &session(tokens(640, 1), "f16")).await;
    bench.keep("", "b", &session(tokens(64, 2), "f16")).await;
    let guard = bench.sessions.lock("", &name("b")).await;
    let (_, small) = bench.sessions.pin(&guard, 60, NOW).await.unwrap();
    let limit = bench.sessions.pin_limit();
    let other = bench.sessions.lock("", &name("a")).await;
    match bench.sessions.pin(&other, 60, NOW).await {
        Err(SessionError::PinTooLarge { needed, free, limit: said, .. }) => {
            assert!(needed > free);
            assert_eq!((free, said), (limit - small, limit));
        }
        other => panic!("{:?}", other.map(|(restored, _)| restored)),
    }
    assert_eq!(bench.sessions.shelf().read("", &name("a")).unwrap().session.pinned_until, None);
    // What two sessions have in common counts once.
    bench.sessions.shelf().fork("", &name("b"), &name("c"), None, NOW).unwrap();
    let third = bench.sessions.lock("", &name("c")).await;
    bench.sessions.pin(&third, 90, NOW).await.unwrap();
    assert_eq!(bench.sessions.pinned_bytes(), small);
    assert_eq!(bench.sessions.yield_pin(), Some(name("b")));
    assert_eq!(bench.sessions.pinned_bytes(), small);
    bench.sessions.pin(&third, 0, NOW).await.unwrap();
    assert_eq!(bench.sessions.pinned_bytes(), 0);
}

#[tokio::test]
async fn a_pin_is_taken_up_again_after_a_restart() {
    let dir = folder();
    {
        let bench = bench(dir.path());
        bench.keep("", "a", &session(tokens(100, 1), "f16")).await;
        let guard = bench.sessions.lock("", &name("a")).await;
        bench.sessions.pin(&guard, 60, NOW).await.unwrap();
    }
    let after = bench(dir.path());
    after.load("", "a").await.unwrap();
    assert!(after.sessions.pinned_bytes() > 0);
    let guard = after.sessions.lock("", &name("a")).await;
    after.sessions.remove(&guard).unwrap();
    assert_eq!((after.sessions.pinned_bytes(), files(dir.path()).len()), (0, 0));
}

#[tokio::test]
async fn whoever_changes_a_session_does_so_alone() {
    let dir = folder();
    let bench = Arc::new(bench(dir.path()));
    let first = bench.sessions.lock("", &name("a")).await;
    assert!(bench.sessions.is_busy("", &name("a")) && !bench.sessions.is_busy("t", &name("a")));
    let (waiting, other) = (bench.clone(), name("a"));
    let second = tokio::spawn(async move { drop(waiting.sessions.lock("", &other).await) });
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    drop(first);
    second.await.unwrap();
    assert!(!bench.sessions.is_busy("", &name("a")));
}
