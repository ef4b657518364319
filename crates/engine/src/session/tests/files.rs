//! Damage, names, tenants, forks.

use super::*;

#[tokio::test]
async fn a_flipped_byte_costs_what_lies_behind_it_and_no_more() {
    let dir = folder();
    let own = session(tokens(640, 1), "f16");
    bench(dir.path()).keep("", "a", &own).await;
    let path = files(dir.path()).pop().unwrap();
    let good = fs::read(&path).unwrap();
    let places: Vec<usize> = good.windows(8).enumerate().filter(|(_, w)| w == b"CKVBLOCK").map(|(i, _)| i).collect();
    assert_eq!(places.len(), 10);
    let next = [&own.tokens[..], &tokens(30, 2)].concat();
    let expected = cold(&next, "f16").await;
    for block in [0, 3, 9] {
        for at in [100, 2000] {
            let mut bytes = good.clone();
            bytes[places[block] + at] ^= 4;
            fs::write(&path, bytes).unwrap();
            let after = bench(dir.path());
            let (_, restored) = after.load("", "a").await.unwrap();
            // One layer has a sliding window, whose pages are there for every 128 tokens.
            let usable = 64 * block / 128 * 128;
            assert_eq!((restored.read_tokens, restored.restored_tokens), (64 * block, usable), "{restored:?}");
            assert_eq!((restored.recompute_tokens, restored.notes.len()), (640 - usable, 1), "{restored:?}");
            let (ids, usage) = after.answer(&next, "f16", "").await;
            assert_eq!((usage.cached_tokens, &ids), (usable, &expected));
        }
    }
    // In the conversation itself: said, and nothing is guessed.
    let mut bytes = good.clone();
    bytes[200] ^= 4;
    fs::write(&path, bytes).unwrap();
    let after = bench(dir.path());
    let error = after.load("", "a").await.unwrap_err().to_string();
    assert!(error.contains("`a` cannot be read") && error.contains("identity"), "{error}");
    assert_eq!(after.sessions.shelf().list("").unwrap().1.len(), 1);
    let guard = after.sessions.lock("", &name("a")).await;
    after.sessions.remove(&guard).unwrap();
    assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn another_models_or_recipes_session_is_refused_by_name() {
    let dir = folder();
    bench(dir.path()).keep("", "a", &session(tokens(100, 1), "f16")).await;
    let other = bench_of(dir.path(), 400, Identity { model: [7; 32], ..Identity::default() }, 0.5);
    let error = other.load("", "a").await.unwrap_err().to_string();
    assert!(error.contains("`a` was kept by the model hash with the recipe f16"), "{error}");
    assert!(error.contains("different model;"), "{error}");
    let same = bench(dir.path());
    let guard = same.sessions.lock("", &name("a")).await;
    let error = same.sessions.load(&guard, Some("int8(window=64)"), NOW).await.unwrap_err().to_string();
    assert!(error.contains("different recipe or profile;"), "{error}");
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let dir = folder();
    let bench = bench(dir.path());
    let own = session(tokens(200, 1), "f16");
    bench.keep("one", "a", &own).await;
    assert!(matches!(bench.load("two", "a").await, Err(SessionError::Unknown { .. })));
    assert_eq!(bench.sessions.shelf().list("two").unwrap().0.len(), 0);
    let saved = bench.keep("two", "a", &session(tokens(100, 2), "f16")).await;
    assert_eq!(saved.tokens, 100);
    assert_eq!(bench.load("one", "a").await.unwrap().0.tokens, own.tokens);
    // A file that is moved to another tenant's folder is still not his.
    let paths = files(dir.path());
    let of = |tokens: &[u32]| {
        let has =
            |path: &&PathBuf| cachalot_store::file::KvFile::open(path).unwrap().blocks()[0].tokens == tokens[..64];
        paths.iter().find(has).unwrap().clone()
    };
    fs::copy(of(&own.tokens), of(&tokens(100, 2))).unwrap();
    let error = bench.load("two", "a").await.unwrap_err().to_string();
    assert!(error.contains("different tenant;"), "{error}");
    let text = format!("{:?}", paths);
    assert!(!text.contains("one") && !text.contains("two"));
}

#[tokio::test]
async fn forks_and_rewinds_have_the_turns_they_should_and_no_trace_of_others() {
    let dir = folder();
    let bench = bench(dir.path());
    let own = session(tokens(330, 1), "f16");
    bench.keep("", "a", &own).await;
    let shelf = bench.sessions.shelf();
    let written = shelf.fork("", &name("a"), &name("b"), None, NOW + 5).unwrap();
    assert_eq!(written.tokens, 330);
    // 200 tokens are three blocks and a part of one, which has keys of turn three.
    let written = shelf.fork("", &name("a"), &name("c"), Some(2), NOW + 5).unwrap();
    assert_eq!((written.blocks, written.tokens), (3, 192));
    let c = shelf.read("", &name("c")).unwrap().session;
    assert_eq!((c.tokens.len(), c.turns.len(), c.created, c.used), (200, 2, NOW + 5, NOW + 5));
    assert_eq!(c.tokens, own.tokens[..200]);
    assert!(matches!(shelf.fork("", &name("a"), &name("b"), None, NOW), Err(SessionError::Exists { .. })));
    assert!(matches!(shelf.rewind("", &name("a"), 5, NOW), Err(SessionError::Turn { turn: 5, turns: 4, .. })));
    let guard = bench.sessions.lock("", &name("a")).await;
    assert_eq!(bench.sessions.rewind(&guard, 1, NOW).unwrap().tokens, 64);
    assert_eq!(shelf.read("", &name("b")).unwrap().session.turns, own.turns);
    assert_eq!(bench.sessions.rewind(&guard, 0, NOW).unwrap().tokens, 0);
    assert_eq!(shelf.read("", &name("a")).unwrap().session.tokens, Vec::<u32>::new());
    // The fifth is the last.
    for other in ["d", "e"] {
        shelf.fork("", &name("b"), &name(other), None, NOW).unwrap();
    }
    let error = shelf.fork("", &name("b"), &name("f"), None, NOW).unwrap_err().to_string();
    assert!(error.contains("5 sessions"), "{error}");
    let names: Vec<String> = shelf.list("").unwrap().0.into_iter().map(|listed| listed.session.name).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
}

#[test]
fn what_nobody_finished_is_cleared_away_when_it_is_old() {
    let dir = folder();
    let tenant = dir.path().join("t");
    fs::create_dir(&tenant).unwrap();
    for (file, age) in [("x.part", 4000), ("y.part", 60), ("z.ckv", 9000)] {
        fs::write(tenant.join(file), "").unwrap();
        let written = std::time::UNIX_EPOCH + std::time::Duration::from_secs(NOW - age);
        fs::File::options().append(true).open(tenant.join(file)).unwrap().set_modified(written).unwrap();
    }
    Shelf::open(dir.path(), 5, NOW).unwrap();
    assert_eq!(files(dir.path()), [tenant.join("y.part"), tenant.join("z.ckv")]);
}
