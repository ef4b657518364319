//! `cachalot info`: what a model is, and what its cache costs on this machine.

use crate::args::ModelArgs;
use crate::bench::machine;
use crate::{Failure, load, size};
use cachalot_kernels::Isa;
use cachalot_kv::{CacheConfig, KvCache, KvFormat};
use clap::Args;

#[derive(Args)]
pub struct InfoArgs {
    /// A Hugging Face folder, a .gguf file, or org/name on the hub; the embedded model if absent.
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What one KV format costs.
#[derive(serde::Serialize)]
struct Cost {
    recipe: String,
    bytes_per_token: f64,
    bytes_at_full_context: u64,
    /// Tokens that fit into the memory that is free; may be more than the model can use.
    tokens_in_free_memory: Option<u64>,
}

pub fn info(args: InfoArgs) -> Result<(), Failure> {
    let model = args.positional.or(args.model.model.clone());
    let ready = load::load(&crate::args::ModelArgs { model, ..args.model })?;
    let spec = &ready.loaded.model.spec;
    let available = machine::available_memory();
    let mut costs = Vec::new();
    for name in KvFormat::NAMES {
        let config = CacheConfig::new(ready.loaded.model.layer_geometry(), u64::MAX, name.parse()?);
        let cache = KvCache::new(config, ready.team.clone(), ready.isa)?;
        costs.push(Cost {
            recipe: (*name).to_owned(),
            bytes_per_token: cache.bytes_per_token(),
            bytes_at_full_context: cache.bytes_for_tokens(spec.context),
            tokens_in_free_memory: available.map(|bytes| (bytes as f64 / cache.bytes_per_token()) as u64),
        });
    }
    let weights = ready.loaded.model.weight_bytes() as u64;
    let isas: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    if args.json {
        let digest = cachalot_kv::profile::hex(&ready.loaded.digest);
        let report = serde_json::json!({
            "name": ready.loaded.name,
            "source": ready.loaded.source,
            "digest": digest,
            "spec": spec,
            "weight_bytes": weights,
            "chat_template": ready.loaded.template.is_some(),
            "kv": costs,
            "machine": {
                "processor": machine::processor(), "instruction_sets": isas, "threads": ready.team.threads(),
                "available_bytes": available,
            },
        });
        println!("{report:#}");
        return Ok(());
    }
    let windows = spec.layers.iter().filter(|layer| layer.window.is_some()).count();
    println!("{} ({})", ready.loaded.name, spec.architecture);
    println!("  {} layers, hidden {}, feed-forward {}", spec.layers.len(), spec.hidden, spec.intermediate);
    println!("  {} query heads over {} KV heads of {}", spec.heads, spec.kv_heads, spec.head_dim);
    println!("  vocabulary {}, context {} tokens", spec.vocab, spec.context);
    if windows > 0 {
        let window = spec.layers.iter().find_map(|layer| layer.window).unwrap_or_default();
        println!("  {windows} of the layers see a sliding window of {window} tokens");
    }
    println!("  weights {} in memory", size::show(weights));
    println!("  chat template: {}", if ready.loaded.template.is_some() { "yes" } else { "no" });
    println!("key-value cache");
    for cost in &costs {
        let fits = cost.tokens_in_free_memory.map_or(String::new(), |n| format!(", {n} tokens fit into free memory"));
        let full = size::show(cost.bytes_at_full_context);
        println!("  {:>5}: {:.0} bytes a token, {full} at full context{fits}", cost.recipe, cost.bytes_per_token);
    }
    println!("machine\n  {}, {} threads, {}", machine::processor(), ready.team.threads(), isas.join(" "));
    if let Some(bytes) = available {
        println!("  {} of memory free", size::show(bytes));
    }
    Ok(())
}
