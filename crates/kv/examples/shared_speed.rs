//! What reading shared pages together gives: attention of one decode step of forks of one context, over the cache of a
//! SmolLM2-shaped model (30 layers, 9 query and 3 KV heads of 64), with and without; median times, and, where the system says
//! them, means of the processor's, which a machine that does other things too does not lengthen as much:
//! `cargo run --release -p cachalot-kv --example shared_speed [RECIPE [FORKS [CONTEXT [ROUNDS]]]]`.

mod common;

use cachalot_kernels::Isa;
use common::{CHUNK, Failure, cache, step};

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
    let mut cache = cache(&recipe, 8 << 30, Isa::detect())?;
    let mut root = [cache.create()];
    for at in (0..context).step_by(CHUNK) {
        step(&cache, &mut root, CHUNK.min(context - at))?;
    }
    let mut seqs = (0..forks).map(|_| cache.fork(&root[0])).collect::<Result<Vec<_>, _>>()?;
    let (mut times, mut worked) = ([Vec::new(), Vec::new()], [0.0; 2]);
    for round in 0..2 * rounds {
        cache = cache.with_sharing(round % 2 == 0);
        let before = processor();
        times[round % 2].push(step(&cache, &mut seqs, 1)?.attention);
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
