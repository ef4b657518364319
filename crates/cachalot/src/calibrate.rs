//! `cachalot calibrate`: a model reads a text with an exact cache, and what a recipe wants to know is written to a file.

use crate::args::{self, ModelArgs};
use crate::load::{self, Ready};
use crate::{Failure, size};
use cachalot_kv::encode::codec::Side;
use cachalot_kv::profile::{Origin, hex};
use cachalot_kv::recipe::Needs;
use cachalot_kv::recipe::calibrate::{Collector, calibrate as make, heads};
use cachalot_kv::{CacheConfig, Element, KvCache, KvFormat, Profile, Recipe, Segment};
use cachalot_model::Decoder;
use cachalot_model::tokenizer::Specials;
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// Tokens that the model computes at once.
const STEP: usize = 512;
/// Fewer tokens than this fill no page once the sinks are left out.
const LEAST: usize = 256;

#[derive(Args)]
pub struct CalibrateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The recipe: a name, an expression or a .toml file.
    #[arg(long, value_name = "RECIPE", value_parser = args::recipe)]
    recipe: Recipe,
    /// A text like those the model will read. Not the one you measure with.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Most tokens of the text to read; its beginning, in pieces of --piece.
    #[arg(long, default_value = "16384")]
    tokens: NonZeroUsize,
    /// Tokens that are read as one text; the model's context, but at most 8192, if absent. What is learned of keys after
    /// rotary position holds for the positions it was learned at.
    #[arg(long)]
    piece: Option<NonZeroUsize>,
    /// Seed of everything random. The same seed gives the same file.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub fn calibrate(args: CalibrateArgs) -> Result<(), Failure> {
    let recipe = &args.recipe;
    if recipe.needs == Needs::Nothing {
        return Err(format!("the recipe {recipe} needs no profile: use it as it is").into());
    }
    let text = std::fs::read(&args.text).map_err(|e| format!("cannot read {}: {e}", args.text.display()))?;
    let digest = blake3::hash(&text).to_hex().to_string();
    let text = String::from_utf8(text).map_err(|_| format!("{} is no UTF-8 text", args.text.display()))?;
    let ready = load::load(&args.model)?;
    let pieces = pieces(&ready, &text, &args)?;
    let tokens = pieces.iter().map(Vec::len).sum();
    let collector = read(&ready, recipe.encode.sinks, &pieces)?;
    let bar = load::bar("calibrating");
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let tensors = make(recipe, &collector, args.seed, &ready.team, &progress);
    bar.finish_and_clear();
    let mut tensors = tensors?;
    let measure = recipe.keep.as_ref().and_then(|keep| keep.measures());
    if let Some(measure) = measure {
        tensors.push(match measure.repeats() {
            false => heads(measure, &collector, 0, &ready.team),
            true => {
                let (piece, period) = repeated(&ready, &pieces[0], args.seed);
                heads(measure, &read(&ready, 0, &[piece])?, period, &ready.team)
            }
        });
    }
    let origin = Origin {
        heads: measure.map(|measure| measure.name().to_owned()),
        model: hex(&ready.loaded.digest),
        model_name: ready.loaded.name.clone(),
        recipe: recipe.name.clone(),
        keys: recipe.encode.digest(Side::Keys),
        values: recipe.encode.digest(Side::Values),
        seed: args.seed,
        text: digest,
        tokens,
    };
    let profile = Profile::new(origin, tensors);
    // What cannot be used must not be written: better to know now.
    recipe.plan(&ready.loaded.model.layer_geometry(), Some(&profile))?;
    profile.write(&args.output)?;
    let (tensors, bytes) = (profile.names().count(), size::show(profile.bytes() as u64));
    println!("{}: {tensors} tensors, {bytes}, from {tokens} tokens", args.output.display());
    Ok(())
}

/// Longest piece where none is named.
const PIECE: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// The text in pieces that the model can read, each with the start token where the model wants one.
fn pieces(ready: &Ready, text: &str, args: &CalibrateArgs) -> Result<Vec<Vec<u32>>, Failure> {
    let tokenizer = &ready.loaded.tokenizer;
    let ids = tokenizer.encode(text, Specials::Plain)?;
    let ids = &ids[..ids.len().min(args.tokens.get())];
    if ids.len() < LEAST {
        let (have, file) = (ids.len(), args.text.display());
        return Err(
            format!("{file} gives {have} tokens; calibration needs at least {LEAST}, and better thousands").into()
        );
    }
    let start = tokenizer.bos().filter(|_| tokenizer.add_bos());
    let context = ready.loaded.model.spec.context.max(LEAST);
    let piece = args.piece.unwrap_or(PIECE).get().clamp(LEAST, context) - usize::from(start.is_some());
    Ok(ids.chunks(piece).map(|piece| start.into_iter().chain(piece.iter().copied()).collect()).collect())
}

/// Times that a text is repeated to find the heads that look for what came after it before, and its longest length, as in
/// RazorAttention.
const COPIES: usize = 4;
const PERIOD: usize = 2500;

/// A text that repeats itself, and the distance of its repetitions: the tokens of the piece in random order, so that nothing
/// but the repetition tells what comes next.
fn repeated(ready: &Ready, piece: &[u32], seed: u64) -> (Vec<u32>, usize) {
    let context = ready.loaded.model.spec.context.max(LEAST);
    let period = PERIOD.min((context - 1) / COPIES).min(piece.len() - 1);
    let mut block = piece[1..=period].to_vec();
    let mut state = seed;
    for i in (1..block.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        block.swap(i, (state >> 33) as usize % (i + 1));
    }
    (piece[..1].iter().copied().chain(block.repeat(COPIES)).collect(), period)
}

/// Lets the model read.
fn read(ready: &Ready, skip: usize, pieces: &[Vec<u32>]) -> Result<Collector, Failure> {
    let model = &ready.loaded.model;
    let layers = model.layer_geometry();
    let collector = Arc::new(Collector::new(layers.clone(), skip));
    let format = KvFormat { k: Element::F32, v: Element::F32 };
    // One piece at a time: bounded by its length, not by a budget.
    let cache = KvCache::new(CacheConfig::new(layers, u64::MAX, format), ready.team.clone(), ready.isa)?;
    let cache = cache.with_recorder(collector.clone());
    let bar = load::bar("reading");
    bar.set_length(pieces.iter().map(|piece| piece.len() as u64).sum());
    for piece in pieces {
        let mut seq = cache.create();
        for step in piece.chunks(STEP) {
            cache.reserve(&mut seq, step.len())?;
            model.forward(&cache, &mut [Segment { seq: &mut seq, rows: step.len() }], step, &[])?;
            cache.settle(&mut seq);
            bar.inc(step.len() as u64);
        }
    }
    bar.finish_and_clear();
    drop(cache);
    Arc::into_inner(collector).ok_or_else(|| "the rows that were read are still in use".into())
}
