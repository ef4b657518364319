//! Greedy decoding from token ids: prints the ids that follow, and the largest logits after the prompt.
//!
//! ```text
//! cargo run --release -p cachalot-model --example greedy -- MODEL 32 f16 1,4093,2,...
//! ```
//! MODEL is a Hugging Face folder or a GGUF file; then how many tokens, the KV format, and the prompt's ids. With
//! `CACHALOT_WEIGHTS=f32` the weights are decoded to f32 first; with `LOGITS=file` the logits after the prompt are
//! written there as little-endian f32.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cachalot_kernels::{Isa, Team};
use cachalot_kv::{CacheConfig, KvCache, Segment};
use cachalot_model::{Decoder, LoadOptions, WeightMode, load_weights};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, count, format, ids] = args.as_slice() else {
        return Err("usage: greedy MODEL COUNT KV_FORMAT ID,ID,...".into());
    };
    let count: usize = count.parse()?;
    let prompt = ids.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let team = Arc::new(Team::of_all_cores());
    let mut options = LoadOptions::new(team.clone());
    if std::env::var("CACHALOT_WEIGHTS").is_ok_and(|v| v == "f32") {
        options.weights = WeightMode::F32;
    }
    let start = Instant::now();
    let (model, digest) = load_weights(Path::new(model), &options)?;
    let digest: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
    eprintln!("loaded {} MB in {:.2?}, digest {digest}", model.weight_bytes() >> 20, start.elapsed());
    let cache = KvCache::new(CacheConfig::new(model.layer_geometry(), 4 << 30, format.parse()?), team, Isa::detect())?;
    let mut seq = cache.create();
    let mut step = |tokens: &[u32]| -> Result<Vec<f32>, Box<dyn Error>> {
        let mut logits = Vec::new();
        for (i, chunk) in tokens.chunks(512).enumerate() {
            cache.reserve(&mut seq, chunk.len())?;
            let last = (i + 1) * 512 >= tokens.len();
            let wanted = if last { vec![chunk.len() - 1] } else { vec![] };
            logits = model.forward(&cache, &mut [Segment { seq: &mut seq, rows: chunk.len() }], chunk, &wanted)?;
            cache.settle(&mut seq);
        }
        Ok(logits)
    };
    let start = Instant::now();
    let mut logits = step(&prompt)?;
    eprintln!("prompt of {}: {:.1} tokens/s", prompt.len(), prompt.len() as f64 / start.elapsed().as_secs_f64());
    if let Ok(path) = std::env::var("LOGITS") {
        std::fs::write(path, logits.iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    let start = Instant::now();
    let mut out = Vec::new();
    for _ in 0..count {
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i as u32);
        out.push(best);
        logits = step(&[best])?;
    }
    eprintln!("decode: {:.1} tokens/s", count as f64 / start.elapsed().as_secs_f64());
    println!("{}", out.iter().map(u32::to_string).collect::<Vec<_>>().join(","));
    Ok(())
}
