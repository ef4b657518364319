//! Downloads against a stand-in for the hub: an HTTP server in this file that can break off, forget how to resume, and
//! refuse.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests, which clippy does not see as tests

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachalot_model::ModelError;
use cachalot_model::hub::{HubConfig, HubProgress, resolve, resolve_with};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server behaves.
#[derive(Default)]
struct Behaviour {
    files: HashMap<String, Vec<u8>>,
    /// Answers to a file's bytes that end in the middle, still to come.
    break_off: usize,
    /// Answers 200 with everything, whatever range was asked for.
    ignore_ranges: bool,
    /// Large files are behind a redirection to "storage".
    redirect: bool,
    /// Status and error code for the repository.
    refuse: Option<(u16, &'static str)>,
    etag: Option<String>,
    /// "METHOD path range authorization" of each request.
    log: Vec<String>,
}

struct Hub {
    endpoint: String,
    state: Arc<Mutex<Behaviour>>,
}

impl Hub {
    fn start(files: &[(&str, &[u8])]) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        let state = Arc::new(Mutex::new(Behaviour { files, ..Behaviour::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || drop(serve(stream, &shared)));
            }
        });
        Hub { endpoint, state }
    }

    fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.lock().unwrap());
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    fn config(&self, cache: &Path) -> HubConfig {
        HubConfig {
            endpoint: self.endpoint.clone(),
            cache: cache.to_owned(),
            token: None,
            offline: false,
            retries: 2,
            backoff: Duration::from_millis(1),
        }
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<Behaviour>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (mut range, mut token) = (None, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => range = Some(value.trim().to_owned()),
                "authorization" => token = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let mut state = state.lock().unwrap();
        let note = |x: &Option<String>| x.clone().unwrap_or_else(|| "-".into());
        state.log.push(format!("{method} {path} {} {}", note(&range), note(&token)));
        let answer = answer(&mut state, method, path, range.as_deref());
        drop(state);
        stream.write_all(&answer.bytes)?;
        if answer.close {
            return Ok(());
        }
    }
}

struct Answer {
    bytes: Vec<u8>,
    close: bool,
}

fn plain(status: &str, headers: &str, body: &[u8], head: bool) -> Answer {
    let mut bytes = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    if !head {
        bytes.extend_from_slice(body);
    }
    Answer { bytes, close: false }
}

fn answer(state: &mut Behaviour, method: &str, path: &str, range: Option<&str>) -> Answer {
    let head = method == "HEAD";
    if let Some((status, code)) = state.refuse {
        return plain(&format!("{status} Refused"), &format!("X-Error-Code: {code}\r\n"), b"", head);
    }
    if path.starts_with("/api/models/org/name/revision/") {
        let siblings: Vec<_> = state.files.keys().map(|f| serde_json::json!({"rfilename": f})).collect();
        let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        return plain("200 OK", "Content-Type: application/json\r\n", body.as_bytes(), head);
    }
    let storage = path.strip_prefix("/storage/");
    let file = storage.or_else(|| path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")));
    let Some((name, body)) = file.and_then(|f| Some((f, state.files.get(f)?.clone()))) else {
        return plain("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b"", head);
    };
    let etag = state.etag.clone().unwrap_or_else(|| format!("etag{}", name.replace(['/', '.'], "")));
    if state.redirect && storage.is_none() && body.len() > 1000 {
        let headers = format!(
            "Location: /storage/{name}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {}\r\nX-Repo-Commit: {COMMIT}\r\n",
            body.len()
        );
        // The first redirection of the real hub leads to another host; here a relative one must do for GET only.
        let location = if head { headers.replace("Location: /", "Location: http://127.0.0.1:1/") } else { headers };
        return plain("302 Found", &location, b"", head);
    }
    let headers = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nAccept-Ranges: bytes\r\n");
    let start = range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let mut reply = match start.filter(|_| !state.ignore_ranges) {
        Some(start) => {
            let range = format!("Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len());
            plain("206 Partial Content", &(headers + &range), &body[start..], head)
        }
        None => plain("200 OK", &headers, &body, head),
    };
    if !head && state.break_off > 0 && body.len() > 1000 {
        state.break_off -= 1;
        let sent = body.len() - start.unwrap_or(0);
        reply.bytes.truncate(reply.bytes.len() - sent.div_ceil(2));
        reply.close = true;
    }
    reply
}

fn shard(seed: u8) -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed).collect()
}

const INDEX: &str =
    r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;

fn sharded() -> Hub {
    Hub::start(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{\"t\":1}"),
        ("chat_template.jinja", b"x"),
        ("model.safetensors.index.json", INDEX.as_bytes()),
        ("model-1.safetensors", &shard(1)),
        ("model-2.safetensors", &shard(2)),
        ("pytorch_model.bin", b"not wanted"),
        ("onnx/model.safetensors", b"not wanted"),
    ])
}

fn message(result: Result<PathBuf, ModelError>) -> String {
    match result {
        Ok(path) => panic!("resolved to {}", path.display()),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_folder_with_shards_comes_whole_and_once() {
    let (hub, cache) = (sharded(), tempfile::tempdir().unwrap());
    let mut config = hub.config(cache.path());
    config.token = Some("secret".into());
    let seen = Mutex::new(Vec::<HubProgress>::new());
    let record = |p: &HubProgress| seen.lock().unwrap().push(p.clone());
    let folder = resolve_with("org/name", &config, Some(&record)).unwrap();
    assert_eq!(folder, cache.path().join("models--org--name/snapshots").join(COMMIT));
    assert_eq!(std::fs::read(folder.join("model-1.safetensors")).unwrap(), shard(1));
    assert_eq!(std::fs::read(folder.join("model-2.safetensors")).unwrap(), shard(2));
    assert_eq!(std::fs::read_to_string(folder.join("tokenizer.json")).unwrap(), "{\"t\":1}");
    assert!(!folder.join("pytorch_model.bin").exists() && !folder.join("onnx").exists());
    assert_eq!(std::fs::read_to_string(cache.path().join("models--org--name/refs/main")).unwrap(), COMMIT);
    assert!(std::fs::read_link(folder.join("config.json")).unwrap().starts_with("../../blobs"));

    let seen = seen.into_inner().unwrap();
    let last = seen.last().unwrap();
    assert_eq!((last.done, last.total, last.index + 1), (300_000, 300_000, last.files));
    assert!(seen.windows(2).all(|w| w[0].index < w[1].index || (w[0].file == w[1].file && w[0].done <= w[1].done)));
    let log = hub.log();
    assert!(log.iter().all(|l| l.ends_with(" Bearer secret")), "{log:?}");

    assert_eq!(resolve_with("org/name", &config, None).unwrap(), folder);
    assert_eq!(hub.log().len(), 1, "only what the revision is");
}

#[test]
fn a_download_that_breaks_off_continues_in_the_same_call() {
    let (hub, cache) = (sharded(), tempfile::tempdir().unwrap());
    hub.set(|b| b.break_off = 2);
    let folder = resolve_with("org/name", &hub.config(cache.path()), None).unwrap();
    assert_eq!(std::fs::read(folder.join("model-1.safetensors")).unwrap(), shard(1));
    let asked: Vec<String> = hub.log().into_iter().filter(|l| l.starts_with("GET") && l.contains("model-1")).collect();
    assert_eq!(asked.len(), 3);
    assert!(
        asked[0].contains(" - ") && asked[1].contains("bytes=150000-") && asked[2].contains("bytes=225000-"),
        "{asked:?}"
    );
}

#[test]
fn a_download_that_breaks_off_continues_in_the_next_call() {
    let (hub, cache) = (sharded(), tempfile::tempdir().unwrap());
    let config = HubConfig { retries: 0, ..hub.config(cache.path()) };
    hub.set(|b| b.break_off = 1);
    let e = message(resolve_with("org/name", &config, None));
    assert!(
        e.contains("150000 of 300000") && e.contains("continues there") && e.contains("model-1.safetensors"),
        "{e}"
    );
    let part = cache.path().join("models--org--name/blobs/etagmodel-1safetensors.part");
    assert_eq!(std::fs::read(&part).unwrap(), shard(1)[..150_000]);
    hub.log();
    let folder = resolve_with("org/name", &config, None).unwrap();
    assert_eq!(std::fs::read(folder.join("model-1.safetensors")).unwrap(), shard(1));
    assert!(hub.log().iter().any(|l| l.contains("model-1") && l.contains("bytes=150000-")));
    assert!(!part.exists());
}

#[test]
fn odd_leftovers_and_servers_that_do_not_resume() {
    let (hub, cache) = (sharded(), tempfile::tempdir().unwrap());
    let blobs = cache.path().join("models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    // Complete but not renamed; longer than the file; half, from a server that now starts over.
    std::fs::write(blobs.join("etagmodel-1safetensors.part"), shard(1)).unwrap();
    std::fs::write(blobs.join("etagmodel-2safetensors.part"), vec![0; 400_000]).unwrap();
    std::fs::write(blobs.join("etagtokenizerjson.part"), b"{\"t").unwrap();
    hub.set(|b| b.ignore_ranges = true);
    let folder = resolve_with("org/name", &hub.config(cache.path()), None).unwrap();
    assert_eq!(std::fs::read(folder.join("model-1.safetensors")).unwrap(), shard(1));
    assert_eq!(std::fs::read(folder.join("model-2.safetensors")).unwrap(), shard(2));
    assert_eq!(std::fs::read_to_string(folder.join("tokenizer.json")).unwrap(), "{\"t\":1}");
    assert!(!hub.log().iter().any(|l| l.starts_with("GET") && l.contains("model-1")));
}

#[test]
fn large_files_behind_a_redirection() {
    let (hub, cache) = (sharded(), tempfile::tempdir().unwrap());
    hub.set(|b| {
        b.redirect = true;
        b.break_off = 1;
    });
    let folder = resolve_with("org/name@main", &hub.config(cache.path()), None).unwrap();
    assert_eq!(std::fs::read(folder.join("model-2.safetensors")).unwrap(), shard(2));
    assert!(hub.log().iter().any(|l| l.starts_with("GET /storage/model-1") && l.contains("bytes=150000-")));
}

#[test]
fn one_gguf_file() {
    let hub = Hub::start(&[("q/x-Q4.gguf", &shard(3)), ("x-Q8.gguf", b"8"), ("README.md", b"")]);
    let cache = tempfile::tempdir().unwrap();
    let config = hub.config(cache.path());
    let path = resolve_with("org/name@refs/pr/1:q/x-Q4.gguf", &config, None).unwrap();
    assert!(path.ends_with("q/x-Q4.gguf"));
    assert_eq!(std::fs::read(&path).unwrap(), shard(3));
    assert!(hub.log()[0].starts_with("GET /api/models/org/name/revision/refs%2Fpr%2F1 "));
    let offline = HubConfig { offline: true, ..config.clone() };
    assert_eq!(resolve_with("org/name@refs/pr/1:q/x-Q4.gguf", &offline, None).unwrap(), path);
    let e = message(resolve_with("org/name:q/other.gguf", &config, None));
    assert!(e.contains("q/other.gguf") && e.contains("x-Q8.gguf"), "{e}");
    let e = message(resolve_with("org/name", &config, None));
    assert!(e.contains("org/name:") && e.contains(".gguf"), "{e}");
}

#[test]
fn offline_uses_the_cache_and_names_what_is_missing() {
    let (hub, cache) = (sharded(), tempfile::tempdir().unwrap());
    let offline = HubConfig { offline: true, ..hub.config(cache.path()) };
    let e = message(resolve_with("org/name", &offline, None));
    assert!(e.contains("config.json of org/name@main") && e.contains("HF_HUB_OFFLINE"), "{e}");
    let folder = resolve_with("org/name", &hub.config(cache.path()), None).unwrap();
    hub.log();
    assert_eq!(resolve_with("org/name", &offline, None).unwrap(), folder);
    assert_eq!(resolve_with(&format!("org/name@{COMMIT}"), &offline, None).unwrap(), folder);
    std::fs::remove_file(folder.join("model-2.safetensors")).unwrap();
    assert!(message(resolve_with("org/name", &offline, None)).contains("model-2.safetensors"));
    assert!(hub.log().is_empty(), "offline means no request");
}

#[test]
fn without_a_network_a_complete_cache_serves_and_an_incomplete_one_says_why() {
    let (hub, cache) = (sharded(), tempfile::tempdir().unwrap());
    let folder = resolve_with("org/name", &hub.config(cache.path()), None).unwrap();
    // A port that was free a moment ago: nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dead = HubConfig { endpoint: format!("http://{free}"), ..hub.config(cache.path()) };
    assert_eq!(resolve_with("org/name", &dead, None).unwrap(), folder);
    let e = message(resolve_with("org/other", &dead, None));
    assert!(e.contains("no answer") && e.contains("network") && e.contains(&dead.endpoint), "{e}");
}

#[test]
fn refusals_say_what_to_do() {
    let (hub, cache) = (sharded(), tempfile::tempdir().unwrap());
    let config = hub.config(cache.path());
    for (status, code, expected) in [
        (401, "RepoNotFound", "no such model, or it is private"),
        (401, "", "HF_TOKEN"),
        (403, "GatedRepo", "agree"),
        (403, "", "agree"),
        (404, "RepoNotFound", "no such model"),
        (404, "RevisionNotFound", "no such revision"),
        (418, "", "418"),
    ] {
        hub.set(|b| b.refuse = Some((status, code)));
        let e = message(resolve_with("org/name", &config, None));
        assert!(
            e.contains(expected) && e.contains("org/name") && e.contains(&status.to_string()),
            "{status} {code}: {e}"
        );
        assert_eq!(hub.log().len(), 1, "{status} is not asked again");
    }
    hub.set(|b| b.refuse = Some((503, "")));
    assert!(message(resolve_with("org/name", &config, None)).contains("503"));
    assert_eq!(hub.log().len(), 3, "a server in trouble is asked again");
}

#[test]
fn a_hostile_hub_cannot_write_outside_the_cache() {
    let hub = Hub::start(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", br#"{"weight_map": {"a": "../../../../evil.safetensors"}}"#),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let e = message(resolve_with("org/name", &hub.config(cache.path()), None));
    assert!(e.contains("weight_map") && e.contains("evil"), "{e}");
    let other = tempfile::tempdir().unwrap();
    hub.set(|b| b.etag = Some("../../evil".into()));
    let e = message(resolve_with("org/name", &hub.config(other.path()), None));
    assert!(e.contains("ETag"), "{e}");
    assert!(!other.path().join("evil").exists());
}

#[test]
fn paths_are_paths() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(resolve(path, None).unwrap(), dir.path());
    assert!(matches!(resolve(&format!("{path}/none.gguf"), None), Err(ModelError::NotFound { .. })));
    assert!(matches!(resolve("", None), Err(ModelError::NotFound { .. })));
}
