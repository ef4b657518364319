//! `cachalot bench`: speed at several depths, memory, and bytes moved beside what the memory can deliver.

pub mod machine;

use crate::args::{KvArgs, ModelArgs};
use crate::load::Ready;
use crate::{Failure, load, size};
use cachalot_kv::{CacheConfig, CachePlan, KvCache, Segment, SequenceKv};
use cachalot_model::Decoder;
use clap::Args;
use std::sync::Arc;
use std::time::Instant;

#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    kv: KvArgs,
    /// Depths to measure at, in tokens; those beyond the context are left out. Default: 512, 4096 and 7936.
    #[arg(long, value_delimiter = ',')]
    depths: Vec<usize>,
    /// Tokens to decode at each depth.
    #[arg(long, default_value_t = 32)]
    decode: usize,
    /// Tokens of a prefill step.
    #[arg(long, default_value_t = 512)]
    chunk: usize,
    /// Times to repeat; medians are reported.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// What one depth came to.
#[derive(serde::Serialize)]
struct Depth {
    depth: usize,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    /// Weights and key-value cache that one decoded token reads.
    bytes_per_token: u64,
    kv_bytes: u64,
    /// Bytes moved per second while decoding, relative to the measured memory bandwidth.
    share_of_bandwidth: f64,
}

pub fn bench(args: BenchArgs) -> Result<(), Failure> {
    let ready = load::load(&args.model)?;
    let context = ready.loaded.model.spec.context;
    let asked = if args.depths.is_empty() { vec![512, 4096, 7936] } else { args.depths.clone() };
    let (depths, beyond): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|&depth| depth > 0 && depth + args.decode <= context);
    for depth in &beyond {
        eprintln!("left out: {depth} tokens and {} to decode do not fit the context of {context}", args.decode);
    }
    if depths.is_empty() || args.repeat == 0 || args.chunk == 0 || args.decode == 0 {
        return Err(format!("nothing to measure: choose depths below {context} and at least one token").into());
    }
    let layers = ready.loaded.model.layer_geometry();
    let plan = Arc::new(args.kv.kv.plan(&layers, load::profile(&ready, &args.kv)?.as_deref())?);
    let bar = load::bar("measuring");
    bar.set_length((depths.len() * args.repeat) as u64);
    let mut rows = Vec::new();
    for &depth in &depths {
        let mut runs = Vec::new();
        for _ in 0..args.repeat {
            runs.push(measure(&ready, &args, &plan, depth)?);
            bar.inc(1);
        }
        rows.push((depth, runs));
    }
    bar.finish_and_clear();
    // Before the bandwidth is measured, which takes a large buffer.
    let (peak, _) = machine::resident().unwrap_or_default();
    let bandwidth = machine::read_bandwidth(&ready.team);
    let rows: Vec<Depth> = rows.iter().map(|(depth, runs)| row(&ready, *depth, runs, bandwidth)).collect();
    if args.json {
        let report = serde_json::json!({
            "model": ready.loaded.name,
            "kv": args.kv.kv.to_string(),
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
    println!("{}, KV {}, {isa}, {threads} threads, {}", ready.loaded.name, args.kv.kv, machine::processor());
    println!("memory reads {:.1} GB/s; peak resident {}\n", bandwidth / 1e9, size::show(peak));
    println!("  depth   prefill tok/s   decode tok/s   read per token   of bandwidth");
    for row in &rows {
        println!(
            "{:>7}   {:>13.1}   {:>12.1}   {:>14}   {:>11.0}%",
            row.depth,
            row.prefill_tokens_per_second,
            row.decode_tokens_per_second,
            size::show(row.bytes_per_token),
            100.0 * row.share_of_bandwidth
        );
    }
    Ok(())
}

/// One run: prefill and decode tokens per second, and the bytes of cache at the end.
fn measure(ready: &Ready, args: &BenchArgs, plan: &Arc<CachePlan>, depth: usize) -> Result<(f64, f64, u64), Failure> {
    let model = &ready.loaded.model;
    let config = CacheConfig::with_plan(model.layer_geometry(), load::budget(&args.kv), plan.clone());
    let cache = KvCache::new(config, ready.team.clone(), ready.isa)?;
    let vocab = model.spec.vocab;
    let tokens: Vec<u32> = (0..depth).map(|i| ((i * 7919 % 40000 + 100) % vocab) as u32).collect();
    let mut seq = cache.create();
    let step = |seq: &mut SequenceKv, tokens: &[u32], last: bool| -> Result<f64, Failure> {
        let start = Instant::now();
        cache.reserve(seq, tokens.len())?;
        let logits: &[usize] = if last { &[tokens.len() - 1] } else { &[] };
        model.forward(&cache, &mut [Segment { seq, rows: tokens.len() }], tokens, logits)?;
        cache.settle(seq);
        Ok(start.elapsed().as_secs_f64())
    };
    let mut prefill = 0.0;
    let chunks = tokens.chunks(args.chunk);
    let count = chunks.len();
    for (i, chunk) in chunks.enumerate() {
        prefill += step(&mut seq, chunk, i + 1 == count)?;
    }
    let mut times = Vec::new();
    for i in 0..args.decode {
        times.push(step(&mut seq, &[((500 + i) % vocab) as u32], true)?);
    }
    Ok((depth as f64 / prefill, 1.0 / median(times), seq.bytes()))
}

fn row(ready: &Ready, depth: usize, runs: &[(f64, f64, u64)], bandwidth: f64) -> Depth {
    let decode = median(runs.iter().map(|run| run.1).collect());
    let kv_bytes = runs.iter().map(|run| run.2).max().unwrap_or_default();
    let bytes = ready.loaded.model.bytes_per_step() as u64 + kv_bytes;
    Depth {
        depth,
        prefill_tokens_per_second: median(runs.iter().map(|run| run.0).collect()),
        decode_tokens_per_second: decode,
        bytes_per_token: bytes,
        kv_bytes,
        share_of_bandwidth: bytes as f64 * decode / bandwidth,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
