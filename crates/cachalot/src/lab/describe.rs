//! What the laboratory's commands share: profiles, the description of a run, progress and warnings.

use crate::Failure;
use crate::args::ModelArgs;
use crate::bench::machine;
use crate::load::Ready;
use cachalot_kv::profile::Profile;
use cachalot_lab::Text;
use cachalot_lab::report::Run;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Warnings that are shown one by one.
const SHOWN: usize = 10;

pub fn profiles(paths: &[PathBuf]) -> Result<Vec<Arc<Profile>>, Failure> {
    paths.iter().map(|path| Ok(Arc::new(Profile::read(path)?))).collect()
}

/// Everything needed to repeat a run.
pub fn run(args: &ModelArgs, ready: &Ready, text: &Text, settings: Value) -> Run {
    let loaded = &ready.loaded;
    let digest = cachalot_kv::profile::hex(&loaded.digest);
    let program =
        std::env::current_exe().and_then(std::fs::read).map(|bytes| blake3::hash(&bytes).to_hex().to_string());
    Run {
        command: std::env::args().collect(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        program_digest: program.ok(),
        model: json!({
            "name": loaded.name,
            "source": loaded.source,
            "digest": digest,
            "architecture": loaded.model.spec.architecture,
            "context": loaded.model.spec.context,
            "exact_weights": args.exact_weights,
        }),
        text: json!({ "path": text.path(), "bytes": text.bytes(), "digest": text.digest() }),
        settings,
        machine: json!({
            "processor": machine::processor(),
            "isa": ready.isa.name(),
            "threads": ready.team.threads(),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
        }),
    }
}

/// Time left on standard error; invisible where that is not a terminal.
pub fn bar(what: &'static str) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {bar:32} {percent:>3}% {human_pos} of {human_len} tokens, {eta} left");
    let bar = ProgressBar::new(0).with_message(what);
    if let Ok(style) = style { bar.with_style(style) } else { bar }
}

/// What was left out of files, say.
pub fn warn<'a>(warnings: impl IntoIterator<Item = &'a String>) {
    let mut rest = 0;
    for (i, warning) in warnings.into_iter().enumerate() {
        if i < SHOWN {
            eprintln!("warning: {warning}");
        } else {
            rest += 1;
        }
    }
    if rest > 0 {
        eprintln!("warning: and {rest} more");
    }
}
