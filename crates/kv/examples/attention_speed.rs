//! Speed of attention alone, over the cache of a SmolLM2-shaped model (30 layers, 9 query and 3 KV heads of 64):
//! `cargo run --release -p cachalot-kv --example attention_speed [RECIPE [INSTRUCTION_SET [DEPTHS]]]`.

mod common;

use cachalot_kernels::Isa;
use common::{CHUNK, Failure, cache, step};

fn main() -> Result<(), Failure> {
    let recipe = std::env::args().nth(1).unwrap_or_else(|| "f16".to_owned());
    let isa = std::env::args().nth(2).map_or(Ok(Isa::detect()), |name| name.parse())?;
    let cache = cache(&recipe, 1 << 30, isa)?;
    let mut seq = [cache.create()];
    let mut done = 0;
    let depths = std::env::args().nth(3).unwrap_or_else(|| "512,4096,7680".to_owned());
    for depth in depths.split(',').map(str::parse::<usize>) {
        let depth = depth?;
        let mut last = 0.0;
        while done < depth {
            last = step(&cache, &mut seq, CHUNK)?.whole;
            done += CHUNK;
        }
        let mut times = (0..std::env::var("STEPS").map_or(20, |s| s.parse().unwrap_or(20)))
            .map(|_| Ok(step(&cache, &mut seq, 1)?.whole))
            .collect::<Result<Vec<_>, Failure>>()?;
        times.sort_by(f64::total_cmp);
        let bytes = cache.bytes_per_token() * depth as f64;
        println!(
            "{isa} depth {depth}: prefill chunk {:.3} ms a token, decode {:.2} ms, {:.1} GB/s",
            last / CHUNK as f64 * 1e3,
            times[0] * 1e3,
            bytes / times[0] / 1e9
        );
    }
    Ok(())
}
