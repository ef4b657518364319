//! What reading shared pages together gives: attention of one decode step of forks of one context, over the cache of a
//! SmolLM2-shaped model (30 layers, 9 query and 3 KV heads of 64), with and without; median times, and, where the system says
//! them, means of the processor's, which a machine that does other things too does not lengthen as much:
//! `cargo run --release -p cachalot-kv --example shared_speed [RECIPE [FORKS [CONTEXT [ROUNDS]]]]`.

use cachalot_kernels::{Isa, Team};
use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::{CacheConfig, KvCache, LayerGeometry, Rope, Segment, SequenceKv};
use std::sync::Arc;
use std::time::Instant;

const LAYERS: usize = 30;
const CHUNK: usize = 512;

type Failure = Box<dyn std::error::Error>;

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect()
}

fn step(cache: &KvCache, seqs: &mut [SequenceKv], rows: usize) -> Result<f64, Failure> {
    let all = seqs.len() * rows;
    seqs.iter_mut().try_for_each(|seq| cache.reserve(seq, rows))?;
    let (q, k, v) = (numbers(all * 576), numbers(all * 192), numbers(all * 192));
    let mut out = vec![0.0; all * 576];
    let mut segments: Vec<Segment<'_>> = seqs.iter_mut().map(|seq| Segment { seq, rows }).collect();
    let start = Instant::now();
    for layer in 0..LAYERS {
        cache.attend(layer, &mut segments, &q, &k, &v, &mut out)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    cache.advance(&mut segments);
    seqs.iter_mut().for_each(|seq| cache.settle(seq));
    Ok(seconds)
}

/// Seconds of all threads, in hundredths; zero where the system does not say.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<(), Failure> {
    let argument = |n: usize| std::env::args().nth(n);
    let recipe = argument(1).unwrap_or_else(|| "f16".to_owned());
    let number = |n: usize, default: usize| argument(n).map_or(Ok(default), |text| text.parse::<usize>());
    let (forks, context, rounds) = (number(2, 64)?, number(3, 4096)?, number(4, 7)?);
    let rope = Arc::new(Rope::new((0..32).map(|i| 1e5f32.powf(-i as f32 / 32.0)).collect(), 1.0, 8192));
    let layer = LayerGeometry {
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        scale: 0.125,
        softcap: None,
        window: None,
        rope: Some(rope),
        output: None,
    };
    let layers = vec![layer; LAYERS];
    let plan = Arc::new(Recipe::parse(&recipe, Files::Allowed)?.plan(&layers, None)?);
    let config = CacheConfig::with_plan(layers, 8 << 30, plan);
    let mut cache = KvCache::new(config, Arc::new(Team::of_all_cores()), Isa::detect())?;
    let mut root = [cache.create()];
    for at in (0..context).step_by(CHUNK) {
        step(&cache, &mut root, CHUNK.min(context - at))?;
    }
    let mut seqs = (0..forks).map(|_| cache.fork(&root[0])).collect::<Result<Vec<_>, _>>()?;
    let (mut times, mut worked) = ([Vec::new(), Vec::new()], [0.0; 2]);
    for round in 0..2 * rounds {
        cache = cache.with_sharing(round % 2 == 0);
        let before = processor();
        times[round % 2].push(step(&cache, &mut seqs, 1)?);
        worked[round % 2] += processor() - before;
    }
    let [together, alone] = times.map(|times| median(times) * 1e3);
    let [worked, worked_alone] = worked.map(|seconds| seconds * 1e3 / rounds as f64);
    println!(
        "{recipe}: {forks} forks of {context} tokens, attention of a step: {together:.1} ms together, {alone:.1} ms alone, \
         {:.2} times; of the processor {worked:.0} and {worked_alone:.0} ms, {:.2} times",
        alone / together,
        worked_alone / worked
    );
    Ok(())
}
