//! `cachalot bench`: speed at several depths, memory, and bytes moved beside what the memory can deliver.

mod crowd;
pub mod machine;
mod measure;

use crate::args::ModelArgs;
use crate::load::Ready;
use crate::{Failure, load, size};
use cachalot_kv::profile::Profile;
use cachalot_lab::{Subject, candidate};
use clap::Args;
use crowd::Share;
use measure::{Case, Run, begin};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// KV recipes to measure in turn, separated by commas.
    #[arg(long, default_value = "f16", value_name = "RECIPES")]
    kv: String,
    /// Calibration profiles of this model, each used for the recipe it was made for.
    #[arg(long, value_delimiter = ',', value_name = "FILES", env = "CACHALOT_KV_PROFILE")]
    kv_profile: Vec<PathBuf>,
    /// Most bytes of key-value cache, as in 4GiB; half of the memory that is free if absent.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    kv_budget: Option<u64>,
    /// Depths to measure at, in tokens; those beyond the context are left out. Default: 512, 4096 and 7936.
    #[arg(long, value_delimiter = ',')]
    depths: Vec<usize>,
    /// Tokens to decode at each depth.
    #[arg(long, default_value_t = 32)]
    decode: usize,
    /// Tokens of a prefill step.
    #[arg(long, default_value_t = 512)]
    chunk: usize,
    /// Requests that decode together after one prompt; speeds are of all of them.
    #[arg(long, default_value_t = 1, value_name = "N")]
    requests: usize,
    /// How these hold and read the prompt, to be measured in turn, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "together", value_name = "HOW")]
    share: Vec<Share>,
    /// Times to repeat; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Tokens that each recipe decodes before the next has its turn, so that all see the same noise of the machine: all caches
    /// are held at once. 0: each decodes all of its tokens before the next begins.
    #[arg(long, default_value_t = 0, value_name = "TOKENS")]
    turns: usize,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What one recipe came to at one depth.
#[derive(serde::Serialize)]
struct Depth {
    kv: String,
    depth: usize,
    /// Requests that decode together, and how they read the prompt.
    requests: usize,
    share: Share,
    prefill_tokens_per_second: f64,
    /// Of all requests together.
    decode_tokens_per_second: f64,
    /// What all processors together worked for a token, which other programs do not lengthen as they do the time; absent where
    /// the operating system does not say.
    decode_processor_seconds_per_token: Option<f64>,
    /// Weights and key-value cache that a step reads, for each of its tokens.
    bytes_per_token: u64,
    /// Of all requests; what they share counts once.
    kv_bytes: u64,
    /// Those of one request as the cache predicts them.
    kv_predicted_bytes: u64,
    /// Bytes of pages at most on the way, as the cache predicts it: while a step encodes pages it holds both forms.
    kv_peak_bytes: u64,
    /// Bytes that attention holds between threads, by the ledger.
    scratch_bytes: u64,
    /// By how much the peak of resident memory lay above what was resident before the cache was made; absent where the
    /// operating system does not say.
    resident_growth_bytes: Option<u64>,
    /// By how much resident memory lies above it once the context is reduced and some tokens are decoded.
    resident_after_bytes: Option<u64>,
    /// Memory mapped for pages then.
    pool_bytes: u64,
    /// Time of the reduction, as a share of the prefill; in the prefill's speed.
    reduction_share: f64,
    /// Bytes moved per second while decoding, relative to the measured memory bandwidth.
    share_of_bandwidth: f64,
}

pub fn bench(args: BenchArgs) -> Result<(), Failure> {
    let profiles = args.kv_profile.iter().map(|path| Ok(Arc::new(Profile::read(path)?)));
    let profiles = profiles.collect::<Result<Vec<_>, Failure>>()?;
    let candidates = candidate::resolve_list(&args.kv, &profiles)?;
    let ready = load::load(&args.model)?;
    let subject = Subject::new(&ready.loaded, ready.team.clone());
    let context = ready.loaded.model.spec.context;
    let asked = if args.depths.is_empty() { vec![512, 4096, 7936] } else { args.depths.clone() };
    let (depths, beyond): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|&depth| depth > 0 && depth + args.decode <= context);
    for depth in &beyond {
        eprintln!("left out: {depth} tokens and {} to decode do not fit the context of {context}", args.decode);
    }
    let least = [args.repeat, args.chunk, args.decode, args.requests, args.share.len()].into_iter().min();
    if depths.is_empty() || least == Some(0) {
        return Err(format!(
            "nothing to measure: choose depths below {context}, and at least one token, request and repetition"
        )
        .into());
    }
    let bar = load::bar("measuring");
    let mut rows: Vec<(Case<'_>, Vec<Run>)> = Vec::new();
    for &depth in &depths {
        for candidate in &candidates {
            let case = |share| (Case { depth, candidate: candidate.as_ref(), share }, Vec::new());
            rows.extend(args.share.iter().copied().map(case));
        }
    }
    bar.set_length((rows.len() * args.repeat) as u64);
    let (loading, _) = machine::resident().unwrap_or_default();
    // In turn, so that all see the same noise of the machine.
    for _ in 0..args.repeat {
        let mut waiting = Vec::new();
        for (case, runs) in &mut rows {
            let mut begun = begin(&subject, case, &args)?;
            bar.inc(1);
            if args.turns == 0 {
                begun.decode(&subject, args.decode)?;
                begun.look();
                runs.push(begun.end(&args));
            } else {
                waiting.push((begun, runs));
            }
        }
        for done in (0..args.decode).step_by(args.turns.max(1)) {
            for (begun, _) in &mut waiting {
                begun.decode(&subject, args.turns.min(args.decode - done))?;
            }
        }
        waiting.into_iter().for_each(|(begun, runs)| runs.push(begun.end(&args)));
    }
    bar.finish_and_clear();
    // Before the bandwidth is measured, which takes a large buffer.
    let peak = rows.iter().flat_map(|(_, runs)| runs).map(|run| run.peak_bytes).fold(loading, u64::max);
    let bandwidth = machine::read_bandwidth(&ready.team);
    let rows: Vec<Depth> = rows.iter().map(|(case, runs)| row(&ready, case, args.requests, runs, bandwidth)).collect();
    if args.json {
        let report = serde_json::json!({
            "model": ready.loaded.name,
            "kv": args.kv,
            "isa": ready.isa.name(),
            "threads": ready.team.threads(),
            "processor": machine::processor(),
            "version": env!("CARGO_PKG_VERSION"),
            "memory_bytes_per_second": bandwidth,
            "peak_resident_bytes": peak,
            "weight_bytes": ready.loaded.model.weight_bytes(),
            "chunk": args.chunk,
            "repeat": args.repeat,
            "depths": rows,
        });
        println!("{report:#}");
        return Ok(());
    }
    let (isa, threads) = (ready.isa, ready.team.threads());
    println!("{}, {isa}, {threads} threads, {}", ready.loaded.name, machine::processor());
    let name = |row: &Depth| match row.requests {
        1 => row.kv.clone(),
        requests => format!("{} × {requests} {}", row.kv, row.share.name()),
    };
    let width = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(2).max(2);
    println!("memory reads {:.1} GB/s; peak resident {}\n", bandwidth / 1e9, size::show(peak));
    println!("{:<width$}   depth   prefill tok/s   decode tok/s   read per token   of bandwidth         cache", "KV");
    for row in &rows {
        println!(
            "{:<width$} {:>7}   {:>13.1}   {:>12.1}   {:>14}   {:>11.0}%   {:>11}",
            name(row),
            row.depth,
            row.prefill_tokens_per_second,
            row.decode_tokens_per_second,
            size::show(row.bytes_per_token),
            100.0 * row.share_of_bandwidth,
            size::show(row.kv_bytes)
        );
    }
    Ok(())
}

fn row(ready: &Ready, case: &Case<'_>, requests: usize, runs: &[Run], bandwidth: f64) -> Depth {
    let middle = |of: fn(&Run) -> f64| median(runs.iter().map(of).collect());
    let most = |of: fn(&Run) -> u64| runs.iter().map(of).max().unwrap_or_default();
    let decode = middle(|run| run.decode_tokens_per_second);
    let kv_bytes = most(|run| run.kv_bytes);
    let bytes = (ready.loaded.model.bytes_per_step() as u64 + most(|run| run.kv_read_bytes)) / requests as u64;
    Depth {
        kv: case.candidate.name().to_owned(),
        depth: case.depth,
        requests,
        share: case.share,
        prefill_tokens_per_second: middle(|run| run.prefill_tokens_per_second),
        decode_tokens_per_second: decode,
        decode_processor_seconds_per_token: (runs.iter().all(|run| run.decode_processor_seconds.is_some()))
            .then(|| middle(|run| run.decode_processor_seconds.unwrap_or_default())),
        bytes_per_token: bytes,
        kv_bytes,
        kv_predicted_bytes: most(|run| run.kv_predicted_bytes),
        kv_peak_bytes: most(|run| run.kv_peak_bytes),
        scratch_bytes: most(|run| run.scratch_bytes),
        resident_growth_bytes: runs.iter().filter_map(|run| run.resident_growth_bytes).max(),
        pool_bytes: most(|run| run.pool_bytes),
        resident_after_bytes: runs.iter().filter_map(|run| run.resident_after_bytes).max(),
        reduction_share: middle(|run| run.reduction_share),
        share_of_bandwidth: bytes as f64 * decode / bandwidth,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
