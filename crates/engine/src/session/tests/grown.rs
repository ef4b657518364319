//! Sessions that grow turn by turn, and the files behind them.

use super::*;

fn segments(dir: &Path) -> Vec<PathBuf> {
    files(dir).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect()
}

fn bytes(dir: &Path) -> u64 {
    files(dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[tokio::test]
async fn a_turn_writes_what_is_new_and_everything_comes_back() {
    for recipe in ["f16", "int8(window=64)", "int4(window=0)"] {
        let dir = folder();
        let all = tokens(1800, 1);
        let (mut written, mut most, mut running) = (0, 0, bench(dir.path()));
        for turn in 1..=20 {
            // A process ends now and then; its session is loaded by the next.
            if turn % 7 == 0 {
                running = bench(dir.path());
                running.load("", "a").await.unwrap();
            }
            let saved = running.keep("", "a", &session(all[..90 * turn].to_vec(), recipe)).await;
            assert_eq!(saved.saved_tokens, 90 * turn, "{recipe}: {saved:?}");
            assert_eq!(saved.bytes, bytes(dir.path()), "{recipe}, turn {turn}");
            written += saved.written_bytes;
            most = most.max(segments(dir.path()).len());
        }
        let whole = {
            let other = folder();
            bench(other.path()).keep("", "a", &session(all.clone(), recipe)).await.bytes
        };
        // Each turn anew would write half of the last file twenty times.
        assert!(written < 4 * whole, "{recipe}: {written} of {whole}");
        assert!((2..=16).contains(&most), "{recipe}: {most} files");
        // Half of it may be of no use any more.
        assert!(bytes(dir.path()) < 2 * whole + whole / 4, "{recipe}: {}", bytes(dir.path()));
        let after = bench(dir.path());
        let (back, restored) = after.load("", "a").await.unwrap();
        assert_eq!(back.tokens, all);
        assert_eq!((restored.restored_tokens, restored.notes.len()), (1800, 0), "{recipe}: {restored:?}");
        let next = [&all[..], &tokens(30, 2)].concat();
        assert_eq!(after.answer(&next, recipe, "").await.0, cold(&next, recipe).await, "{recipe}");
        let guard = after.sessions.lock("", &name("a")).await;
        after.sessions.remove(&guard).unwrap();
        assert_eq!(files(dir.path()), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn what_was_taken_back_is_in_no_file() {
    let dir = folder();
    let bench = bench(dir.path());
    let all = tokens(500, 1);
    for len in [200, 350, 500] {
        bench.keep("", "a", &session(all[..len].to_vec(), "f16")).await;
    }
    assert!(!segments(dir.path()).is_empty());
    // Another answer to the second turn.
    let other = [&all[..200], &tokens(200, 9)].concat();
    let saved = bench.keep("", "a", &session(other.clone(), "f16")).await;
    assert_eq!((saved.saved_tokens, segments(dir.path()).len()), (400, 0));
    let next = bench.keep("", "a", &session([&other[..], &tokens(100, 3)].concat(), "f16")).await;
    assert!(next.written_bytes < next.bytes && !segments(dir.path()).is_empty());
    let guard = bench.sessions.lock("", &name("a")).await;
    bench.sessions.rewind(&guard, 2, NOW).unwrap();
    drop(guard);
    assert_eq!(segments(dir.path()), Vec::<PathBuf>::new());
    // A fork has all in its own file, so that neither needs the other.
    bench.keep("", "a", &session([&other[..200], &tokens(150, 4)].concat(), "f16")).await;
    assert_eq!(segments(dir.path()).len(), 1);
    bench.sessions.shelf().fork("", &name("a"), &name("b"), None, NOW).unwrap();
    let guard = bench.sessions.lock("", &name("a")).await;
    bench.sessions.remove(&guard).unwrap();
    assert_eq!((files(dir.path()).len(), bench.load("", "b").await.unwrap().1.restored_tokens), (1, 350));
}

#[tokio::test]
async fn a_damaged_file_behind_a_session_costs_its_tokens_and_is_mended_by_the_next_turn() {
    let all = tokens(500, 1);
    let next = [&all[..], &tokens(30, 2)].concat();
    let expected = cold(&next, "f16").await;
    let break_it: [fn(&Path); 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "no such file").unwrap(),
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let records: Vec<usize> =
                bytes.windows(8).enumerate().filter(|(_, w)| w == b"CKVBLOCK").map(|(i, _)| i).collect();
            bytes[records[1] + 2000] ^= 4;
            fs::write(path, bytes).unwrap();
        },
    ];
    for (i, break_it) in break_it.into_iter().enumerate() {
        let dir = folder();
        let before = bench(dir.path());
        for len in [200, 400, 500] {
            before.keep("", "a", &session(all[..len].to_vec(), "f16")).await;
        }
        drop(before);
        break_it(&segments(dir.path())[0]);
        let after = bench(dir.path());
        let (_, restored) = after.load("", "a").await.unwrap();
        assert_eq!(restored.notes.len(), 1, "{i}: {restored:?}");
        assert!(restored.restored_tokens < 200, "{i}: {restored:?}");
        assert!(!restored.notes[0].contains(&dir.path().display().to_string()), "{restored:?}");
        assert_eq!(after.answer(&next, "f16", "").await.0, expected);
        let saved = after.keep("", "a", &session(next.clone(), "f16")).await;
        assert_eq!((saved.saved_tokens, segments(dir.path()).len()), (530, 0), "{i}: {saved:?}");
        let (_, restored) = bench(dir.path()).load("", "a").await.unwrap();
        assert_eq!((restored.restored_tokens, restored.notes.len()), (530, 0), "{i}: {restored:?}");
    }
}

#[tokio::test]
async fn a_save_that_ended_half_way_leaves_nothing_behind_for_long() {
    let dir = folder();
    let bench = bench(dir.path());
    let all = tokens(500, 1);
    bench.keep("", "a", &session(all[..200].to_vec(), "f16")).await;
    let own = files(dir.path()).pop().unwrap();
    // The second name was given, and then the power went.
    let stem = own.file_stem().unwrap().to_str().unwrap().to_owned();
    fs::hard_link(&own, own.with_file_name(format!("{stem}-1.seg"))).unwrap();
    fs::write(own.with_file_name(format!("{stem}-7.seg")), "old").unwrap();
    bench.keep("", "a", &session(all[..400].to_vec(), "f16")).await;
    assert_eq!(segments(dir.path()), [own.with_file_name(format!("{stem}-1.seg"))]);
    let (_, restored) = super::bench(dir.path()).load("", "a").await.unwrap();
    assert_eq!(restored.restored_tokens, 400);
}
