//! Model names to paths, downloading what is missing.
//!
//! A name that is a path is that path. `org/name`, `org/name@revision` and `org/name:file.gguf` are looked up on the
//! hub; the files land in the cache that all Hugging Face clients share. Environment: `HF_HOME` (or `HF_HUB_CACHE`) is
//! the cache, `HF_ENDPOINT` the hub, `HF_TOKEN` the token, `HF_HUB_OFFLINE=1` forbids any request.
//!
//! Downloads that break off continue where they stopped, within one call (a few times) and in the next call. All files
//! come from one commit, the one that the revision is when the call begins.

mod cache;
mod fetch;
mod spec;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ModelError;
use cache::Place;
use fetch::{Client, Failure, RepoInfo};
pub use spec::HubSpec;

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubProgress {
    /// Name in the repository.
    pub file: String,
    /// Which of the files this is, from 0.
    pub index: usize,
    /// How many there are; grows when an index of shards has been read.
    pub files: usize,
    /// Bytes on disk, those of an earlier attempt included.
    pub done: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// Where the hub and the cache are.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Base address without a slash at its end.
    pub endpoint: String,
    /// The cache's `hub` folder.
    pub cache: PathBuf,
    /// Sent as a bearer token.
    pub token: Option<String>,
    /// Use nothing but the cache.
    pub offline: bool,
    /// How often a transfer that breaks off is continued before giving up.
    pub retries: u32,
    /// Wait before the first of them; doubles each time.
    pub backoff: Duration,
}

impl HubConfig {
    /// From the environment; see the module's head.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok().map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        // Only the default asks for a home directory.
        let cache = match (var("HF_HUB_CACHE"), var("HF_HOME")) {
            (Some(folder), _) => PathBuf::from(folder),
            (None, Some(home)) => Path::new(&home).join("hub"),
            (None, None) => {
                let home = std::env::home_dir().unwrap_or_else(std::env::temp_dir);
                home.join(".cache").join("huggingface").join("hub")
            }
        };
        let saved = || hf_hub::Cache::new(cache.clone()).token();
        let on = |v: String| matches!(v.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on");
        HubConfig {
            endpoint: var("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".into())
                .trim_end_matches('/')
                .into(),
            token: var("HF_TOKEN").or_else(saved),
            offline: var("HF_HUB_OFFLINE").is_some_and(on),
            cache,
            retries: 5,
            backoff: Duration::from_secs(1),
        }
    }
}

/// The path of a model: `spec` itself if it is one, otherwise downloaded with the environment's settings. A folder, or
/// the file that was named.
///
/// # Errors
/// [`ModelError::NotFound`] if it is neither a path nor a name, or missing offline; [`ModelError::Hub`] if the hub
/// refuses or cannot be reached; [`ModelError::Io`] for the cache.
pub fn resolve(spec: &str, progress: Option<&dyn Fn(&HubProgress)>) -> Result<PathBuf, ModelError> {
    resolve_with(spec, &HubConfig::from_env(), progress)
}

/// As [`resolve`] with given settings.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(
    spec: &str,
    config: &HubConfig,
    progress: Option<&dyn Fn(&HubProgress)>,
) -> Result<PathBuf, ModelError> {
    if !spec.is_empty() && Path::new(spec).exists() {
        return Ok(PathBuf::from(spec));
    }
    let spec = HubSpec::parse(spec)?;
    let job = Job { place: Place::new(&config.cache, &spec), client: Client::new(config), spec, config, progress };
    if config.offline { job.cached() } else { job.download() }
}

/// A bar on standard error for [`resolve`]'s progress; invisible where that is no terminal.
pub fn progress_bar() -> impl Fn(&HubProgress) {
    let bar = indicatif::ProgressBar::new(0);
    if let Ok(style) =
        indicatif::ProgressStyle::with_template("{prefix} {msg} {bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    {
        bar.set_style(style);
    }
    move |p| {
        if bar.message() != p.file {
            bar.set_message(p.file.clone());
            // Bytes of an earlier attempt count as done, not as speed.
            bar.set_position(p.done);
            bar.reset_eta();
        }
        bar.set_prefix(format!("[{}/{}]", p.index + 1, p.files));
        bar.set_length(p.total);
        bar.set_position(p.done);
        if p.index + 1 == p.files && p.done == p.total {
            bar.finish_and_clear();
        }
    }
}

/// Small files of a model folder, in the order in which they are fetched. Only the first must exist.
const SMALL_FILES: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.json",
    INDEX,
];
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

struct Job<'a> {
    spec: HubSpec,
    place: Place,
    client: Client<'a>,
    config: &'a HubConfig,
    progress: Option<&'a dyn Fn(&HubProgress)>,
}

impl Job<'_> {
    fn download(&self) -> Result<PathBuf, ModelError> {
        let (repo, revision) = (&self.spec.repo, &self.spec.revision);
        let info = match self.persistent(|| self.client.repo(repo, revision)) {
            Ok(info) => info,
            Err(failure) if failure.unreachable => {
                // What is complete in the cache serves as well as what the hub would say.
                if let Ok(path) = self.cached() {
                    tracing::warn!(%repo, "the hub cannot be reached; the model is taken from the cache");
                    return Ok(path);
                }
                return Err(self.error(None, failure));
            }
            Err(failure) => return Err(self.error(None, failure)),
        };
        let snapshot = self.place.snapshot(&info.commit);
        if let Some(file) = &self.spec.file {
            if !info.files.contains(file) {
                let others = gguf_files(&info);
                let reason = format!("the repository has no such file; its GGUF files: {}", or_none(&others));
                return Err(self.error(Some(file), Failure::lasting(reason, "name one of them")));
            }
            self.fetch(&info, file, 0, 1)?;
            self.place.remember(&info.commit)?;
            return Ok(snapshot.join(file));
        }
        let mut files: Vec<String> =
            SMALL_FILES.iter().filter(|f| info.files.iter().any(|have| have == *f)).map(|f| (*f).to_owned()).collect();
        self.check_folder(&info, &files)?;
        let single = info.files.iter().any(|f| f == SINGLE);
        if single {
            files.retain(|f| f != INDEX);
            files.push(SINGLE.into());
        }
        let mut index = 0;
        while let Some(file) = files.get(index).cloned() {
            self.fetch(&info, &file, index, files.len())?;
            if file == INDEX {
                files.extend(shards(&snapshot.join(INDEX))?);
            }
            index += 1;
        }
        self.place.remember(&info.commit)?;
        Ok(snapshot)
    }

    /// Refuses repositories that hold no model this program reads, before anything large is fetched.
    fn check_folder(&self, info: &RepoInfo, small: &[String]) -> Result<(), ModelError> {
        let weights = info.files.iter().any(|f| f == SINGLE || f == INDEX);
        if small.first().is_some_and(|f| f == "config.json") && weights {
            return Ok(());
        }
        let others = gguf_files(info);
        Err(self.error(
            None,
            if others.is_empty() {
                Failure::lasting(
                    "the repository has no config.json with model.safetensors and no GGUF file",
                    "choose a repository with safetensors weights",
                )
            } else {
                let mend = format!("name one, e.g. {}:{}", self.spec.repo, others[0]);
                Failure::lasting(format!("the repository has GGUF files: {}", others.join(", ")), mend)
            },
        ))
    }

    /// One file into the cache, if it is not there yet.
    fn fetch(&self, info: &RepoInfo, file: &str, index: usize, files: usize) -> Result<(), ModelError> {
        let (repo, commit) = (self.spec.repo.as_str(), info.commit.as_str());
        if self.place.snapshot(commit).join(file).exists() {
            return Ok(());
        }
        let about = self.persistent(|| self.client.file(repo, commit, file)).map_err(|f| self.error(Some(file), f))?;
        let lock = self.place.lock(&about.etag)?;
        let (blob, part) = self.place.blob(&about.etag);
        if std::fs::metadata(&blob).map_or(true, |m| m.len() != about.size) {
            let mut report = fetch::report(self.progress, file, index, files, about.size);
            self.persistent(|| self.client.download(repo, commit, file, &about, &part, &mut report))
                .map_err(|f| self.error(Some(file), f))?;
            std::fs::rename(&part, &blob).map_err(|source| ModelError::Io { path: blob, source })?;
        }
        self.place.link(commit, file, &about.etag)?;
        drop(lock);
        Ok(())
    }

    /// Tries again while the failure may pass.
    fn persistent<T>(&self, mut action: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut wait = self.config.backoff;
        for _ in 0..self.config.retries {
            match action() {
                Err(failure) if failure.transient && !failure.unreachable => {
                    tracing::warn!(reason = failure.reason, "trying again");
                    std::thread::sleep(wait);
                    wait *= 2;
                }
                other => return other,
            }
        }
        action()
    }

    /// The model as the cache has it; complete or an error that names the first missing file.
    fn cached(&self) -> Result<PathBuf, ModelError> {
        let missing = |file: &str, path: PathBuf| ModelError::NotFound {
            what: format!("{file} of {}@{} in the cache", self.spec.repo, self.spec.revision),
            path,
            mend: "HF_HUB_OFFLINE is set or the hub cannot be reached; download the model while online".into(),
        };
        let first = self.spec.file.as_deref().unwrap_or("config.json");
        let snapshot = self.place.known_snapshot().ok_or_else(|| missing(first, self.config.cache.clone()))?;
        let need = |file: &str| {
            let path = snapshot.join(file);
            if path.exists() { Ok(path) } else { Err(missing(file, path)) }
        };
        if let Some(file) = &self.spec.file {
            return need(file);
        }
        need("config.json")?;
        need("tokenizer.json")?;
        if need(SINGLE).is_err() {
            let index = need(INDEX).map_err(|_| missing(SINGLE, snapshot.join(SINGLE)))?;
            for shard in shards(&index)? {
                need(&shard)?;
            }
        }
        Ok(snapshot)
    }

    fn error(&self, file: Option<&str>, failure: Failure) -> ModelError {
        let revision = if self.spec.revision == "main" { String::new() } else { format!("@{}", self.spec.revision) };
        let file = file.map_or(String::new(), |f| format!(":{f}"));
        ModelError::Hub {
            what: format!("{}{revision}{file}", self.spec.repo),
            endpoint: self.config.endpoint.clone(),
            reason: failure.reason,
            mend: if failure.mend.is_empty() { "try again".into() } else { failure.mend },
        }
    }
}

fn gguf_files(info: &RepoInfo) -> Vec<String> {
    info.files.iter().filter(|f| f.ends_with(".gguf")).take(32).cloned().collect()
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The shards that an index names, each once. Names that are no plain file names are refused: they become paths.
fn shards(index: &Path) -> Result<BTreeSet<String>, ModelError> {
    let bad = |reason: String| ModelError::config(index, "weight_map", reason);
    let map = crate::tokenizer::read_object(index)?.unwrap_or_default();
    let map = map.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| bad("is missing".into()))?;
    let mut names = BTreeSet::new();
    for file in map.values() {
        match file.as_str().filter(|f| spec::is_name(f) && f.ends_with(".safetensors")) {
            Some(name) => names.insert(name.to_owned()),
            None => return Err(bad(format!("{file} is not the name of a safetensors file"))),
        };
    }
    Ok(names)
}
