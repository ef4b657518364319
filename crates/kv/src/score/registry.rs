//! Every method by name.

use super::Method;
use super::keydiff::KeyDiff;
use super::norm::Knorm;
use super::positional::StreamingLlm;
use super::window::{SnapKv, Tova};
use crate::allot::ada::AdaKv;
use crate::allot::chunk::ChunkKv;
use crate::allot::{Choose, Over};
use crate::encode::stage::{Args, StageError, StageSpec};
use crate::recipe::nearest;
use std::sync::Arc;

/// A line of the registry.
pub struct MethodEntry {
    /// As recipes name it.
    pub name: &'static str,
    /// One line, arguments included.
    pub summary: &'static str,
    build: fn(&Args) -> Result<Arc<dyn Method>, StageError>,
}

/// All methods.
pub const METHODS: &[MethodEntry] = &[
    MethodEntry {
        name: "streamingllm",
        summary: "the first tokens and the last ones; streamingllm(sinks=4)",
        build: |args| Ok(Arc::new(StreamingLlm { sinks: args.integer("sinks", 4, 0..=1024)? })),
    },
    MethodEntry { name: "knorm", summary: "keys of small norm", build: |_| Ok(Arc::new(Knorm)) },
    MethodEntry { name: "keydiff", summary: "keys unlike the mean direction", build: |_| Ok(Arc::new(KeyDiff)) },
    MethodEntry {
        name: "tova",
        summary: "attention of the last query, one set for all heads",
        build: |_| Ok(Arc::new(Tova)),
    },
    MethodEntry {
        name: "snapkv",
        summary: "attention of the last queries, smoothed; snapkv(window=64, kernel=5)",
        build: |args| Ok(Arc::new(snapkv(args, None)?)),
    },
    MethodEntry {
        name: "pyramidkv",
        summary: "snapkv with budgets that shrink with depth; pyramidkv(window=64, kernel=5, beta=20)",
        build: |args| Ok(Arc::new(snapkv(args, Some(args.integer("beta", 20, 1..=1000)?))?)),
    },
    MethodEntry {
        name: "adakv",
        summary: "heads of a layer share their budget by scores of another method; adakv(of=snapkv, floor=0.2)",
        build: |args| over(args, AdaKv { floor: f64::from(args.number("floor", 0.2, 0.0..=1.0)?) }),
    },
    MethodEntry {
        name: "chunkkv",
        summary: "whole chunks by scores of another method, one set for all heads; chunkkv(of=snapkv, chunk=20)",
        build: |args| over(args, ChunkKv { chunk: args.integer("chunk", 20, 1..=4096)? }),
    },
];

fn snapkv(args: &Args, beta: Option<usize>) -> Result<SnapKv, StageError> {
    let kernel = args.integer("kernel", 5, 1..=63)?;
    if kernel % 2 == 0 {
        return Err(args.error(format!("`kernel={kernel}` has no middle; take an odd number")));
    }
    Ok(SnapKv { window: args.integer("window", 64, 1..=1024)?, kernel, beta })
}

/// A way of choosing by the scores of the method `of`.
fn over(args: &Args, how: impl Choose + 'static) -> Result<Arc<dyn Method>, StageError> {
    let name = args.text("of").unwrap_or("snapkv");
    let of = build(&StageSpec { name: name.to_owned(), args: [].into() });
    Ok(Arc::new(Over { of: of.map_err(|error| args.error(error.to_string()))?, how }))
}

/// The entry of a name.
pub fn method(name: &str) -> Option<&'static MethodEntry> {
    METHODS.iter().find(|entry| entry.name == name)
}

/// The method that a call stands for.
///
/// # Errors
/// Names that are not known and arguments that are not possible.
pub fn build(spec: &StageSpec) -> Result<Arc<dyn Method>, StageError> {
    let args = Args::new(spec.clone());
    let Some(entry) = method(&spec.name) else {
        let meant = nearest(&spec.name, METHODS.iter().map(|entry| entry.name));
        let meant = meant.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
        return Err(args.error(format!("no method has this name{meant}")));
    };
    let method = (entry.build)(&args)?;
    args.done()?;
    Ok(method)
}
