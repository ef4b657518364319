//! Arguments that several commands share.

use crate::size;
use cachalot_engine::{Beam, Sampling};
use cachalot_kernels::Isa;
use cachalot_kv::recipe::expression::Files;
use cachalot_kv::{Recipe, RecipeError};
use cachalot_model::tokenizer::GenerationDefaults;
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Which model, and what runs it.
#[derive(Args, Clone)]
pub struct ModelArgs {
    /// A Hugging Face folder, a .gguf file, or org/name[@revision] on the hub; the embedded model if absent.
    #[arg(short, long, env = "CACHALOT_MODEL")]
    pub model: Option<String>,
    /// Threads; all cores if absent.
    #[arg(short, long)]
    pub threads: Option<NonZeroUsize>,
    /// Instruction set: portable, avx2, avx512 or amx; the widest this machine has if absent. All return the same bits.
    #[arg(long, env = "CACHALOT_ISA")]
    pub isa: Option<Isa>,
    /// Decode quantized weights to f32 instead of rounding activations to 16 bits: slower, larger, for comparisons.
    #[arg(long)]
    pub exact_weights: bool,
}

/// The key-value cache.
#[derive(Args, Clone)]
pub struct KvArgs {
    /// How keys and values are kept: a recipe (see `cachalot kv list`), a .toml file, or an expression such as
    /// "kivi-2(window=64)", "int4(rotate=hadamard)" or k=q8_0,v=q4_0.
    #[arg(long, default_value = "f16", value_name = "RECIPE", value_parser = recipe)]
    pub kv: Recipe,
    /// What `cachalot calibrate` made for this model, each file for the recipes it suits.
    #[arg(long, value_delimiter = ',', value_name = "FILES", env = "CACHALOT_KV_PROFILE")]
    pub kv_profile: Vec<PathBuf>,
    /// Most bytes of key-value cache, as in 4GiB; half of the memory that is free if absent.
    #[arg(long, value_parser = size::parse, value_name = "BYTES")]
    pub kv_budget: Option<u64>,
    /// Most tokens of prompt and answer together; what the model was made for if absent.
    #[arg(short, long, default_value_t = 0, hide_default_value = true)]
    pub context: usize,
}

/// A recipe by name, by file or as an expression.
pub fn recipe(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::parse(text, Files::Allowed)
}

/// How tokens are chosen. What is absent comes from the model's own defaults; where it has none, choice is greedy.
#[derive(Args, Clone)]
pub struct SamplingArgs {
    /// Divides the logits; 0 always takes the most likely token.
    #[arg(short = 'T', long)]
    pub temperature: Option<f32>,
    /// Keep this many of the most likely tokens; 0 keeps all.
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens that together reach this probability.
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the most likely one.
    #[arg(long)]
    pub min_p: Option<f32>,
    /// Makes tokens of prompt and answer less likely; 1 is off.
    #[arg(long)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted from logits of tokens that the answer has.
    #[arg(long, allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Subtracted from logits of tokens for every time the answer has them.
    #[arg(long, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Search for the answer that is most likely as a whole with so many beams, instead of drawing tokens.
    #[arg(long, value_name = "WIDTH", value_parser = clap::value_parser!(u8).range(1..=128))]
    pub beams: Option<u8>,
    /// With beams: above 0 favours long answers, below 0 short ones.
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true, requires = "beams", value_name = "POWER")]
    pub length_penalty: f32,
    /// Makes a sampled answer repeatable.
    #[arg(long)]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The search for the most likely answer, if it is wanted.
    pub fn beam(&self) -> Option<Beam> {
        self.beams.map(|width| Beam { width: width.into(), length_penalty: self.length_penalty, ..Beam::default() })
    }

    /// The arguments over the model's defaults.
    pub fn over(&self, model: &GenerationDefaults) -> Sampling {
        let off = Sampling::default();
        Sampling {
            temperature: self.temperature.or(model.default_temperature()).unwrap_or(0.0),
            top_k: self.top_k.or(model.top_k.map(|k| k as usize)).unwrap_or(off.top_k),
            top_p: self.top_p.or(model.top_p).unwrap_or(off.top_p),
            min_p: self.min_p.or(model.min_p).unwrap_or(off.min_p),
            repetition_penalty: self.repetition_penalty.or(model.repetition_penalty).unwrap_or(1.0),
            presence_penalty: self.presence_penalty.unwrap_or(off.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(off.frequency_penalty),
            seed: self.seed,
            logit_bias: Vec::new(),
        }
    }
}
