//! Speed of attention alone, over the cache of a SmolLM2-shaped model (30 layers, 9 query and 3 KV heads of 64):
//! `cargo run --release -p cachalot-kv --example attention_speed [RECIPE [INSTRUCTION_SET [DEPTHS]]]`.

use cachalot_kernels::{Isa, Team};
use cachalot_kv::recipe::{Recipe, expression::Files};
use cachalot_kv::{CacheConfig, KvCache, LayerGeometry, Rope, Segment};
use std::sync::Arc;
use std::time::Instant;

const LAYERS: usize = 30;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let recipe = std::env::args().nth(1).unwrap_or_else(|| "f16".to_owned());
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
    let team = Arc::new(Team::of_all_cores());
    let layers = vec![layer; LAYERS];
    let plan = Arc::new(Recipe::parse(&recipe, Files::Allowed)?.plan(&layers, None)?);
    let isa = std::env::args().nth(2).map_or(Ok(Isa::detect()), |name| name.parse())?;
    let config = CacheConfig::with_plan(layers.clone(), 1 << 30, plan.clone());
    let cache = KvCache::new(config, team.clone(), isa)?;
    let mut seq = cache.create();
    let chunk = 512;
    let rows = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect() };
    let mut step = |tokens: usize| -> Result<f64, Box<dyn std::error::Error>> {
        cache.reserve(&mut seq, tokens)?;
        let (q, k, v) = (rows(tokens * 576), rows(tokens * 192), rows(tokens * 192));
        let mut out = vec![0.0; tokens * 576];
        let mut segments = [Segment { seq: &mut seq, rows: tokens }];
        let start = Instant::now();
        for layer in 0..LAYERS {
            cache.attend(layer, &mut segments, &q, &k, &v, &mut out)?;
        }
        cache.advance(&mut segments);
        cache.settle(&mut seq);
        Ok(start.elapsed().as_secs_f64())
    };
    let mut done = 0;
    let depths = std::env::args().nth(3).unwrap_or_else(|| "512,4096,7680".to_owned());
    for depth in depths.split(',').map(str::parse::<usize>) {
        let depth = depth?;
        let mut last = 0.0;
        while done < depth {
            last = step(chunk)?;
            done += chunk;
        }
        let mut times = (0..std::env::var("STEPS").map_or(20, |s| s.parse().unwrap_or(20)))
            .map(|_| step(1))
            .collect::<Result<Vec<_>, _>>()?;
        times.sort_by(f64::total_cmp);
        let bytes = cache.bytes_per_token() * depth as f64;
        println!(
            "{isa} depth {depth}: prefill chunk {:.3} ms a token, decode {:.2} ms, {:.1} GB/s",
            last / chunk as f64 * 1e3,
            times[0] * 1e3,
            bytes / times[0] / 1e9
        );
    }
    Ok(())
}
