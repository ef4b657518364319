//! From arguments to a loaded model and a running engine, with progress on a terminal.

use crate::args::{KvArgs, ModelArgs};
use crate::bench::machine;
use crate::{Failure, embedded};
use cachalot_engine::{Engine, EngineConfig, ReplayConfig, ReuseConfig};
use cachalot_kernels::{Isa, Team};
use cachalot_kv::Profile;
use cachalot_model::template::ChatTemplate;
use cachalot_model::{LoadOptions, LoadProgress, Loaded, Model, WeightMode, hub};
use cachalot_store::Identity;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use std::sync::Arc;

/// A model in memory and what runs it.
pub struct Ready {
    pub loaded: Arc<Loaded>,
    pub team: Arc<Team>,
    pub isa: Isa,
}

/// Finds and loads the model.
pub fn load(args: &ModelArgs) -> Result<Ready, Failure> {
    let team = Arc::new(args.threads.map_or_else(Team::of_all_cores, Team::new));
    let isa = args.isa.unwrap_or_else(Isa::detect);
    let path = path(args)?;
    let bar = bar("loading");
    let shown = bar.clone();
    let progress = move |progress: LoadProgress| {
        shown.set_length(progress.total as u64);
        shown.set_position(progress.done as u64);
    };
    let weights = if args.exact_weights { WeightMode::F32 } else { WeightMode::Native };
    let options = LoadOptions { isa, team: team.clone(), progress: Some(Arc::new(progress)), weights };
    let loaded = Model::load(&path, &options);
    bar.finish_and_clear();
    Ok(Ready { loaded: Arc::new(loaded?), team, isa })
}

fn path(args: &ModelArgs) -> Result<PathBuf, Failure> {
    match &args.model {
        None => embedded::folder().map_err(|e| format!("cannot lay out the embedded model: {e}").into()),
        Some(spec) => Ok(hub::resolve(spec, Some(&hub::progress_bar()))?),
    }
}

/// An engine for `max_batch` sequences over a cache as the arguments want it.
pub fn engine(ready: &Ready, kv: &KvArgs, max_batch: usize, queue: usize) -> Result<Engine, Failure> {
    engine_with(ready, kv, max_batch, queue, ReplayConfig::default(), ReuseConfig::default())
}

/// See [`engine`]; answers are compared with the exact cache as `replay` says.
pub fn engine_with(
    ready: &Ready,
    kv: &KvArgs,
    max_batch: usize,
    queue: usize,
    replay: ReplayConfig,
    reuse: ReuseConfig,
) -> Result<Engine, Failure> {
    let config = EngineConfig {
        max_batch,
        queue,
        max_context: kv.context,
        kv: kv.kv.clone(),
        kv_profiles: profiles(ready, kv)?,
        kv_budget_bytes: budget(kv),
        replay,
        reuse: ReuseConfig { identity: identity(&ready.loaded), ..reuse },
        ..EngineConfig::default()
    };
    let cache = config.cache(ready.loaded.model.layer_geometry(), ready.team.clone(), ready.isa)?;
    let decoder = ready.loaded.model.clone();
    Ok(Engine::start(decoder, ready.loaded.tokenizer.clone(), cache, config))
}

/// What the bytes of the cache depend on, as far as the model goes.
pub fn identity(loaded: &Loaded) -> Identity {
    let mut text = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        text.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    field(loaded.template.as_ref().map_or("", ChatTemplate::source).as_bytes());
    (0..loaded.model.spec.vocab as u32).for_each(|id| field(&loaded.tokenizer.token_bytes(id)));
    let ropes = loaded.model.layer_geometry().iter().map(|g| format!("{:?}", g.rope)).collect::<Vec<_>>();
    let rope = blake3::hash(ropes.join(";").as_bytes()).to_hex().to_string();
    Identity { model: loaded.digest, tokenizer: *text.finalize().as_bytes(), rope, ..Identity::default() }
}

/// The profiles of the arguments, if they are this model's.
fn profiles(ready: &Ready, kv: &KvArgs) -> Result<Vec<Arc<Profile>>, Failure> {
    let read = |path: &PathBuf| {
        let profile = Profile::read(path)?;
        profile.check_model(&ready.loaded.digest)?;
        Ok(Arc::new(profile))
    };
    kv.kv_profile.iter().map(read).collect()
}

/// Bytes for the key-value cache: as asked, or half of what the machine has free.
pub fn budget(kv: &KvArgs) -> u64 {
    budget_or_half(kv.kv_budget)
}

/// As asked, or half of what the machine has free.
pub fn budget_or_half(asked: Option<u64>) -> u64 {
    asked.unwrap_or_else(|| machine::available_memory().unwrap_or(4 << 30) / 2)
}

/// A progress bar on standard error; invisible where that is not a terminal.
pub fn bar(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {bar:32} {percent:>3}% {eta}");
    let bar = ProgressBar::new(0).with_message(what);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}
