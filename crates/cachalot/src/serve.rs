//! `cachalot serve`: the HTTP server.

use crate::args::{KvArgs, ModelArgs};
use crate::load::Ready;
use crate::tiers::TierArgs;
use crate::{Failure, load, session, size};
use cachalot_engine::reuse::Order;
use cachalot_engine::session::{SessionConfig, Sessions, Shelf};
use cachalot_engine::{Blend, EngineHandle, ReplayConfig, ReuseConfig};
use cachalot_kv::KvFormat;
use cachalot_server::{Backend, EngineBackend, NamedKey, Server, ServerConfig, keys_of_file};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    kv: KvArgs,
    /// Address to listen on; 0.0.0.0 lets other machines in.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Key that requests must carry; may be given several times, or in the environment separated by commas.
    #[arg(long, env = "CACHALOT_API_KEYS", value_delimiter = ',', hide_env_values = true, value_name = "KEY")]
    api_key: Vec<String>,
    /// File of more keys, `tenant:key` a line: all keys of a tenant share what is computed for it. A key without a name is a tenant of
    /// its own, as those above.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Name under which the model is served; its own by default.
    #[arg(long, value_name = "NAME")]
    served_name: Option<String>,
    /// Another name that requests may use; may be given several times.
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Origin whose web pages may call the server, `*` for all; may be given several times.
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Most sequences computed together.
    #[arg(long, default_value_t = 32)]
    max_batch: usize,
    /// Most requests waiting; beyond it clients get a 429.
    #[arg(long, default_value_t = 256)]
    queue: usize,
    /// Largest request body.
    #[arg(long, default_value = "4MiB", value_parser = size::parse, value_name = "BYTES")]
    body_limit: u64,
    /// Seconds from a request's arrival to the end of its answer.
    #[arg(long, default_value_t = 3600)]
    timeout: u64,
    /// Seconds that running answers get to finish when the server is told to stop.
    #[arg(long, default_value_t = 30)]
    grace: u64,
    /// Most open connections.
    #[arg(long, default_value_t = 4096)]
    max_connections: usize,
    #[command(flatten)]
    replay: ReplayArgs,
    #[command(flatten)]
    reuse: ReuseArgs,
    #[command(flatten)]
    tiers: TierArgs,
    #[command(flatten)]
    sessions: SessionArgs,
}

/// Named sessions that survive the server.
#[derive(Args)]
struct SessionArgs {
    /// Keep named sessions in this folder; without it they are refused.
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_kv_reuse")]
    kv_sessions: Option<PathBuf>,
    /// Share of the KV budget that pinned sessions may hold, as in 25%.
    #[arg(long, default_value = "50%", value_parser = percentage, value_name = "PERCENT")]
    kv_session_pins: f64,
}

impl SessionArgs {
    fn open(&self, handle: EngineHandle, ready: &Ready) -> Result<Option<Sessions>, Failure> {
        let Some(folder) = &self.kv_sessions else { return Ok(None) };
        let shelf = Shelf::open(folder, Shelf::MOST, session::now())?;
        let config = SessionConfig { pin_share: self.kv_session_pins, ..session::session_config(ready) };
        Ok(Some(Sessions::new(handle, shelf, config)))
    }
}

/// What is computed once for prompts that begin alike.
#[derive(Args)]
pub struct ReuseArgs {
    /// Compute every prompt from its first token.
    #[arg(long)]
    no_kv_reuse: bool,
    /// Share of the KV budget that pinned prompts of one API key may hold, as in 10%.
    #[arg(long, default_value = "25%", value_parser = percentage, value_name = "PERCENT")]
    kv_pins: f64,
    /// Tokens between positions that other prompts can go on from, where the recipe encodes what the window has passed.
    #[arg(long, default_value_t = 1024, value_name = "TOKENS")]
    kv_reuse_every: usize,
    /// Use stretches of prompts that were computed in other contexts, and compute those rows anew that this method says
    /// (`cacheblend`, `cacheblend(share=0.2)`, `cacheblend-gradual`, `kvshare`, `cache-craft(alpha=1)`, `pie`, `ape`, `kvcomm`): answers are no longer those of a prompt that
    /// is computed whole. Requests may ask for it themselves, or for `exact`.
    #[arg(long, value_name = "METHOD", conflicts_with = "no_kv_reuse")]
    kv_reuse_chunks: Option<Blend>,
    /// Find such stretches by their content in prompts whose clients mark none.
    #[arg(long, requires = "kv_reuse_chunks")]
    kv_reuse_cut: bool,
    /// Which of the requests that wait is next: by `arrival`, or by `hit-rate`, the share of a prompt that is there already; ten
    /// seconds of waiting count as much as all of it.
    #[arg(long, default_value_t, value_name = "ORDER")]
    schedule: Order,
}

impl ReuseArgs {
    fn config(&self) -> ReuseConfig {
        ReuseConfig {
            enabled: !self.no_kv_reuse,
            every: self.kv_reuse_every.max(64),
            order: self.schedule,
            blend: self.kv_reuse_chunks.map(|blend| Blend { auto: self.kv_reuse_cut, ..blend }),
            ..ReuseConfig::default()
        }
    }
}

/// Comparing answers with the exact cache: what a request's `"kv": {"report": true}` asks for, and what shadows do unasked.
#[derive(Args)]
struct ReplayArgs {
    /// Share of all requests that are compared with the exact cache, unasked, as in 1%; `/metrics` tells.
    #[arg(long, default_value = "0%", value_parser = percentage, value_name = "PERCENT")]
    kv_shadow: f64,
    /// The exact cache that answers are compared with: f16, bf16, f32, or k=f32,v=f16.
    #[arg(long, default_value = "f16", value_name = "FORMAT")]
    kv_reference: KvFormat,
    /// Seconds after its answer when a comparison is given up.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    kv_replay_seconds: u64,
    /// Most rows (tokens) that comparisons add to a step in which requests have rows, too.
    #[arg(long, default_value_t = 16, value_name = "ROWS")]
    kv_replay_rows: usize,
}

impl ReplayArgs {
    fn config(&self) -> ReplayConfig {
        ReplayConfig {
            reference: self.kv_reference,
            shadow: self.kv_shadow,
            beside: self.kv_replay_rows,
            patience: Duration::from_secs(self.kv_replay_seconds),
            ..ReplayConfig::default()
        }
    }
}

/// A percentage as a share. Without its sign, 1 could be all or a hundredth.
fn percentage(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    match number.filter(|number| (0.0..=100.0).contains(number)) {
        Some(number) => Ok(number / 100.0),
        None => Err(format!("`{text}` is not a percentage; write 0% to 100%, such as 0.5%")),
    }
}

pub fn serve(args: ServeArgs) -> Result<(), Failure> {
    let ready = load::load(&args.model)?;
    let reuse = ReuseConfig {
        lossy: args.tiers.kv_lossy.as_deref().map(Arc::from),
        allow_lossy: args.tiers.kv_lossy_default,
        evict: args.tiers.policy(),
        pin_share: args.reuse.kv_pins,
        ..args.reuse.config()
    };
    let engine = load::engine_with(&ready, &args.kv, args.max_batch, args.queue, args.replay.config(), reuse)?;
    args.tiers.attach(&engine.handle())?;
    let named_keys = args.api_key_file.map(|path| named_keys(&path)).transpose()?.unwrap_or_default();
    let config = ServerConfig {
        host: args.host,
        port: args.port,
        api_keys: args.api_key,
        named_keys,
        cors_origins: args.cors,
        model_id: args.served_name,
        aliases: args.alias,
        kv_recipe: args.kv.kv.to_string(),
        body_limit: usize::try_from(args.body_limit)?,
        request_timeout: Duration::from_secs(args.timeout),
        grace: Duration::from_secs(args.grace),
        max_connections: args.max_connections,
        ..ServerConfig::default()
    };
    let grace = config.grace;
    let mut backend = EngineBackend::new(&config, engine.handle(), ready.loaded.clone());
    if let Some(sessions) = args.sessions.open(engine.handle(), &ready)? {
        backend = backend.with_sessions(sessions);
    }
    let sessions = backend.sessions();
    let backend = Arc::new(backend);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let server = Server::bind(config, backend).await?;
        let budget = size::show(engine.handle().stats().kv_budget_bytes);
        let (name, kv) = (&ready.loaded.name, &args.kv.kv);
        eprintln!("{name}, KV {kv} within {budget}; listening on http://{}", server.local_addr());
        server.run(stopped()).await;
        if let Some(sessions) = sessions {
            // The last answers are out; what they said is to be there tomorrow.
            if tokio::time::timeout(grace, sessions.settled()).await.is_err() {
                eprintln!("error: not all sessions could be saved within the time of grace");
            }
        }
        Ok::<(), Failure>(())
    })?;
    engine.shutdown_within(grace);
    Ok(())
}

/// Keys of a file, of which there is at least one: a file that was emptied by mistake must not open the server to everybody.
fn named_keys(path: &Path) -> Result<Vec<NamedKey>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let keys = keys_of_file(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    match keys.is_empty() {
        true => Err(format!("{}: there is no key in it", path.display()).into()),
        false => Ok(keys),
    }
}

/// Completes when the process is asked to stop.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler there is nothing to wait for, and serving goes on until the process is killed.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_have_their_sign() {
        assert_eq!((percentage("0%"), percentage("1 %"), percentage("0.5%")), (Ok(0.0), Ok(0.01), Ok(0.005)));
        for bad in ["1", "", "%", "-1%", "101%", "NaN%", "a%"] {
            assert!(percentage(bad).unwrap_err().contains("such as 0.5%"), "{bad}");
        }
    }
}
