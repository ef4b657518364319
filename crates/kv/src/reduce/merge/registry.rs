//! Every way of merging by name.

use super::cam::Cam;
use super::chelsea::Chelsea;
use super::compensation::Compensation;
use super::d2o::D2o;
use super::elastic::Elastic;
use super::ems::Ems;
use super::kvmerger::{KvMerger, Makeup};
use super::merging::Merging;
use super::{Merge, Weight};
use crate::encode::stage::{Args, StageError, StageSpec};
use crate::recipe::nearest;
use std::sync::Arc;

/// A line of the registry.
pub struct MergeEntry {
    /// As recipes name it.
    pub name: &'static str,
    /// One line, arguments included.
    pub summary: &'static str,
    build: fn(&Args) -> Result<Arc<dyn Merge>, StageError>,
}

/// All ways of merging.
pub const MERGES: &[MergeEntry] = &[
    MergeEntry {
        name: "cam",
        summary: "values spread over the next tokens, by chance; cam(targets=32, seed=0)",
        build: |args| {
            let seed = args.integer("seed", 0, 0..=u32::MAX as usize)? as u64;
            Ok(Arc::new(Cam { targets: args.integer("targets", 32, 1..=1024)?, seed }))
        },
    },
    MergeEntry {
        name: "d2o",
        summary: "into the most similar key, if similar enough; d2o(decay=0.5, weight=paper|exact)",
        build: |args| {
            let decay = f64::from(args.number("decay", 0.5, 0.0..=1.0)?);
            Ok(Arc::new(D2o { decay, weight: weight(args, Weight::Paper)? }))
        },
    },
    MergeEntry {
        name: "ems",
        summary: "the better ones into the most similar center; ems(band=1, least=0.6, weight=paper|exact)",
        build: |args| {
            let (band, least) =
                (f64::from(args.number("band", 1.0, 0.0..=64.0)?), args.number("least", 0.6, -1.0..=1.0)?);
            Ok(Arc::new(Ems { band, least, weight: weight(args, Weight::Paper)? }))
        },
    },
    MergeEntry {
        name: "kvmerger",
        summary: "runs of similar neighbours; kvmerger(reserved=0.5, sigma=5, makeup=value|log|none)",
        build: |args| {
            let makeup = match args.text("makeup").unwrap_or("value") {
                "value" => Makeup::Value,
                "log" => Makeup::Log,
                "none" => Makeup::None,
                other => return Err(args.error(format!("`makeup={other}` is not one of value, log, none"))),
            };
            let reserved = f64::from(args.number("reserved", 0.5, 0.0..=1.0)?);
            Ok(Arc::new(KvMerger { reserved, makeup, sigma: args.number("sigma", 5.0, 0.0..=1e6)? }))
        },
    },
    MergeEntry {
        name: "chelsea",
        summary: "clusters within chunks, exact weights; chelsea(chunk=64, sinks=4, window=64)",
        build: |args| {
            let chunk = args.integer("chunk", 64, 4..=4096)?;
            let (sinks, window) = (args.integer("sinks", 4, 0..=1024)?, args.integer("window", 64, 0..=1 << 20)?);
            Ok(Arc::new(Chelsea { chunk, sinks, window }))
        },
    },
    MergeEntry {
        name: "elastic",
        summary: "into the nearest by position; elastic(weight=paper|exact)",
        build: |args| Ok(Arc::new(Elastic { weight: weight(args, Weight::Paper)? })),
    },
    MergeEntry {
        name: "merging",
        summary: "values into the most similar key, by norms (kvpress)",
        build: |_| Ok(Arc::new(Merging)),
    },
    MergeEntry {
        name: "compensation",
        summary: "one token for all that went; compensation(weight=exact|paper)",
        build: |args| Ok(Arc::new(Compensation { weight: weight(args, Weight::Exact)? })),
    },
];

fn weight(args: &Args, default: Weight) -> Result<Weight, StageError> {
    match args.text("weight") {
        None => Ok(default),
        Some("paper") => Ok(Weight::Paper),
        Some("exact") => Ok(Weight::Exact),
        Some(other) => Err(args.error(format!("`weight={other}` is not one of paper, exact"))),
    }
}

/// The way of merging that a call stands for.
///
/// # Errors
/// Names that are not known and arguments that are not possible.
pub fn build(spec: &StageSpec) -> Result<Arc<dyn Merge>, StageError> {
    let args = Args::new(spec.clone());
    let Some(entry) = MERGES.iter().find(|entry| entry.name == spec.name) else {
        let meant = nearest(&spec.name, MERGES.iter().map(|entry| entry.name));
        let meant = meant.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
        return Err(args.error(format!("no way of merging has this name{meant}")));
    };
    let merge = (entry.build)(&args)?;
    args.done()?;
    Ok(merge)
}
