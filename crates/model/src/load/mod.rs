//! From a path to a model that can run: a Hugging Face folder or one GGUF file.

mod blocks;
mod checkpoint;
mod names;
mod safetensors;
mod source;
#[cfg(test)]
mod tests;
mod weights;

pub use safetensors::{SafetensorsHeader, header as safetensors_header};
pub use weights::NonFinite;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cachalot_kernels::{Isa, Team, linear::Linear};
use serde_json::Value;

use crate::gguf::{self, Header};
use crate::model::{Joint, Layer, Model};
use crate::spec::{self, ModelSpec};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::{GenerationDefaults, ModelError};
use checkpoint::Checkpoint;
use names::Naming;
use source::Source;
use weights::Weights;

/// Configuration files larger than this are refused; published ones are a few kilobytes, indices a few megabytes.
const MAX_JSON: u64 = 64 << 20;

/// In which form weights are computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightMode {
    /// As the file has them: halves as halves, quantized blocks as integers with activations quantized to match.
    #[default]
    Native,
    /// Everything decoded to `f32`; for comparisons, at four bytes per weight.
    F32,
}

/// How far loading has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Parts packed so far.
    pub done: usize,
    /// Parts in all: the layers, the embedding table and the head.
    pub total: usize,
    /// Bytes of all weight files.
    pub bytes: u64,
}

/// Told how far loading has come, from any thread.
pub type ProgressFn = dyn Fn(LoadProgress) + Send + Sync;

/// How to load.
#[derive(Clone)]
pub struct LoadOptions {
    /// Instruction set of the kernels.
    pub isa: Isa,
    /// Threads that pack weights now and compute later.
    pub team: Arc<Team>,
    /// Called after each part.
    pub progress: Option<Arc<ProgressFn>>,
    /// Form of the weights.
    pub weights: WeightMode,
}

impl LoadOptions {
    /// The widest instruction set, weights as the file has them, nobody told.
    pub fn new(team: Arc<Team>) -> LoadOptions {
        LoadOptions { isa: Isa::detect(), team, progress: None, weights: WeightMode::Native }
    }
}

/// A model with everything that belongs to it.
pub struct Loaded {
    /// The weights and the forward pass.
    pub model: Arc<Model>,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How conversations become prompts, where the model has a template.
    pub template: Option<ChatTemplate>,
    /// Sampling settings that the model's authors suggest.
    pub generation: GenerationDefaults,
    /// What the numbers depend on; see [`load_weights`].
    pub digest: [u8; 32],
    /// The folder or file it was loaded from.
    pub source: PathBuf,
    /// A name for people: `general.name`, or the name of the folder or file.
    pub name: String,
}

/// What a path turned out to be.
enum Found {
    Folder(PathBuf),
    Gguf(PathBuf),
}

impl Model {
    /// Loads a Hugging Face folder (`config.json`, `model.safetensors` or shards, `tokenizer.json`) or a GGUF file.
    ///
    /// # Errors
    /// Anything that is wrong with the files: see [`ModelError`]. NaN and infinite weights only warn.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Loaded, ModelError> {
        match find(path)? {
            Found::Folder(dir) => {
                // Small files first: a folder without a tokenizer is found out before gigabytes are read.
                let tokenizer = Tokenizer::from_hf(&dir)?;
                let template = ChatTemplate::from_hf(&dir, &tokenizer)?;
                let generation = GenerationDefaults::from_hf(&dir)?;
                let (model, digest) = load_folder(&dir, options)?;
                let name = name_of(&dir);
                let (model, tokenizer) = (Arc::new(model), Arc::new(tokenizer));
                Ok(Loaded { model, tokenizer, template, generation, digest, source: dir, name })
            }
            Found::Gguf(file) => {
                let source = Source::open(&file)?;
                let header = parse(&source)?;
                let tokenizer = Tokenizer::from_gguf(&header.metadata)?;
                let template = ChatTemplate::from_gguf(&header.metadata, &tokenizer)?;
                let name = header.metadata.string("general.name")?.map_or_else(|| name_of(&file), str::to_owned);
                let (model, digest) = load_gguf(source, &header, options)?;
                let generation = GenerationDefaults::default();
                let (model, tokenizer) = (Arc::new(model), Arc::new(tokenizer));
                Ok(Loaded { model, tokenizer, template, generation, digest, source: file, name })
            }
        }
    }
}

/// Loads the weights alone, without tokenizer and template, with their digest.
///
/// The digest is a BLAKE3 over everything the model's numbers depend on: `config.json` and every byte of the weight
/// files (of a GGUF file, all of it), their lengths, and the [`WeightMode`]. It says nothing of the tokenizer of a
/// Hugging Face folder.
///
/// # Errors
/// As [`Model::load`].
pub fn load_weights(path: &Path, options: &LoadOptions) -> Result<(Model, [u8; 32]), ModelError> {
    match find(path)? {
        Found::Folder(dir) => load_folder(&dir, options),
        Found::Gguf(file) => {
            let source = Source::open(&file)?;
            let header = parse(&source)?;
            load_gguf(source, &header, options)
        }
    }
}

/// Reads only the description: `config.json` or a GGUF header. Costs milliseconds.
///
/// # Errors
/// As [`Model::load`], for what it reads.
pub fn read_spec(path: &Path) -> Result<ModelSpec, ModelError> {
    match find(path)? {
        Found::Folder(dir) => {
            let config = dir.join("config.json");
            spec::huggingface::spec(&config, &json_file(&config)?)
        }
        Found::Gguf(file) => {
            let source = Source::open(&file)?;
            let header = parse(&source)?;
            let factors = rope_factors(&header, &source)?;
            spec::gguf::spec(&header, factors)
        }
    }
}

fn find(path: &Path) -> Result<Found, ModelError> {
    let missing = |mend: &str| ModelError::NotFound { what: "model".into(), path: path.into(), mend: mend.into() };
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => missing("give a Hugging Face folder or a .gguf file"),
        _ => ModelError::io(path, e),
    })?;
    if meta.is_file() {
        if path.extension().is_some_and(|e| e == "safetensors" || e == "json") {
            return Err(missing("this is one file of a model; give the folder that it lies in"));
        }
        return Ok(Found::Gguf(path.into()));
    }
    if path.join("config.json").is_file() {
        return Ok(Found::Folder(path.into()));
    }
    // A folder that holds nothing but one GGUF file means that file.
    let entries = std::fs::read_dir(path).map_err(|e| ModelError::io(path, e))?;
    let mut ggufs: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "gguf")).collect();
    match (ggufs.pop(), ggufs.is_empty()) {
        (Some(only), true) => Ok(Found::Gguf(only)),
        (Some(_), false) => Err(missing("there are several .gguf files in this folder; name one of them")),
        (None, _) => Err(missing("the folder has neither a config.json nor a .gguf file")),
    }
}

fn name_of(path: &Path) -> String {
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    stem.map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into_owned())
}

/// Reads a JSON file of bounded size.
pub(crate) fn json_file(path: &Path) -> Result<Value, ModelError> {
    let file = File::open(path).map_err(|e| ModelError::io(path, e))?;
    let len = file.metadata().map_err(|e| ModelError::io(path, e))?.len();
    if len > MAX_JSON {
        return Err(ModelError::config(path, "(file)", format!("{len} bytes; at most {MAX_JSON} are read")));
    }
    serde_json::from_reader(BufReader::new(file)).map_err(|e| ModelError::config(path, "(file)", e.to_string()))
}

fn parse(source: &Source) -> Result<Header, ModelError> {
    gguf::parse(BufReader::with_capacity(1 << 16, source.reader()?), source.len(), source.path())
}

fn rope_factors(header: &Header, source: &Source) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(t) = header.tensor("rope_freqs.weight") else { return Ok(None) };
    let n: usize = t.shape.iter().product();
    if t.code != gguf::GgmlType::F32.code() || n > 4096 {
        return Err(ModelError::Mismatch {
            tensor: t.name.clone(),
            expected: "a short vector of F32".into(),
            found: format!("{} of shape {:?}", gguf::GgmlType::describe(t.code), t.shape),
            path: source.path().into(),
        });
    }
    let bytes = source.read(t.offset, 4 * n)?;
    Ok(Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
}

fn load_folder(dir: &Path, options: &LoadOptions) -> Result<(Model, [u8; 32]), ModelError> {
    let config_source = Source::open(&dir.join("config.json"))?;
    let spec = spec::huggingface::spec(config_source.path(), &json_file(config_source.path())?)?;
    let checkpoint = safetensors::open_folder(dir)?;
    let naming = Naming::hugging_face(&checkpoint);
    finish(spec, &checkpoint, &naming, Some(&config_source), options)
}

fn load_gguf(source: Source, header: &Header, options: &LoadOptions) -> Result<(Model, [u8; 32]), ModelError> {
    let factors = rope_factors(header, &source)?;
    let spec = spec::gguf::spec(header, factors)?;
    let naming = Naming::gguf(&spec);
    if naming.interleaved() && spec.ropes.iter().any(|r| r.rotary_dim != spec.head_dim) {
        let what = format!("{}: a llama GGUF file that rotates part of a head", source.path().display());
        return Err(ModelError::unsupported(what, "rotary dimensions must be the head's"));
    }
    let checkpoint = Checkpoint::of_gguf(source, header);
    finish(spec, &checkpoint, &naming, None, options)
}

/// Packs the weights while another thread hashes the files.
fn finish(
    spec: ModelSpec,
    checkpoint: &Checkpoint,
    naming: &Naming,
    config: Option<&Source>,
    options: &LoadOptions,
) -> Result<(Model, [u8; 32]), ModelError> {
    let files = || config.into_iter().chain(checkpoint.sources());
    let (model, digest) = std::thread::scope(|scope| {
        let hash = || digest(files(), options.weights);
        let digest = std::thread::Builder::new().name("digest".into()).spawn_scoped(scope, hash);
        let model = build(spec, checkpoint, naming, options);
        let digest = match digest.map(|handle| handle.join()) {
            Ok(Ok(digest)) => digest,
            // No thread to be had: do it here.
            _ => hash(),
        };
        (model, digest)
    });
    // What was read may be a mixture of two files: say so before anything else that may be wrong with it.
    files().try_for_each(Source::unchanged)?;
    Ok((model?, digest?))
}

fn digest<'s>(files: impl Iterator<Item = &'s Source>, mode: WeightMode) -> Result<[u8; 32], ModelError> {
    let mut hasher = blake3::Hasher::new_derive_key("cachalot model digest v1");
    hasher.update(match mode {
        WeightMode::Native => b"native",
        WeightMode::F32 => b"as-f32",
    });
    for file in files {
        file.hash_into(&mut hasher)?;
    }
    Ok(*hasher.finalize().as_bytes())
}

fn build(
    spec: ModelSpec,
    checkpoint: &Checkpoint,
    naming: &Naming,
    options: &LoadOptions,
) -> Result<Model, ModelError> {
    let weights = Weights { checkpoint, mode: options.weights, odd: Mutex::new(Vec::new()) };
    let total = spec.layers.len() + 2;
    let (done, bytes) = (AtomicUsize::new(0), checkpoint.bytes());
    let step = || {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(progress) = &options.progress {
            progress(LoadProgress { done, total, bytes });
        }
    };
    let matrix = |name: String| weights.matrix(&name, None, spec.vocab, spec.hidden, None);
    let embedding = Arc::new(matrix(naming.embedding())?);
    step();
    let head = if spec.tied_embeddings { embedding.clone() } else { Arc::new(matrix(naming.head())?) };
    let final_norm = weights.norm(&naming.final_norm(), spec.hidden, spec.norm_plus_one)?;
    step();
    let slots: Vec<Mutex<Option<Result<Layer, ModelError>>>> = spec.layers.iter().map(|_| Mutex::new(None)).collect();
    options.team.for_each(slots.len(), |i| {
        let layer = layer(&spec, i, &weights, naming);
        if let Some(slot) = slots.get(i) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(layer);
        }
        step();
    });
    let mut layers = Vec::with_capacity(slots.len());
    for slot in slots {
        // Every slot was filled; an empty one would only shorten the list, which the next check finds.
        if let Some(layer) = slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
            layers.push(layer?);
        }
    }
    let mut odd = weights.odd.into_inner().unwrap_or_else(PoisonError::into_inner);
    odd.sort_by(|a, b| a.tensor.cmp(&b.tensor));
    Model::assemble(spec, embedding, head, final_norm, layers, odd, options)
}

fn layer(spec: &ModelSpec, i: usize, weights: &Weights<'_>, naming: &Naming) -> Result<Layer, ModelError> {
    let Some(l) = spec.layers.get(i) else {
        return Err(ModelError::Forward { reason: format!("there is no layer {i}") });
    };
    let n = naming.layer(i, l.post_norms);
    let (hidden, dim, plus) = (spec.hidden, spec.head_dim, spec.norm_plus_one);
    let weight = |name: &str| format!("{name}.weight");
    let norm = |name: &str, width: usize| weights.norm(&weight(name), width, plus);
    let norm_if = |wanted: bool, name: &str, width: usize| wanted.then(|| norm(name, width)).transpose();
    let linear = |name: &str, biased: bool, out: usize, inp: usize, order: weights::Order<'_>| {
        let bias = biased.then(|| format!("{name}.bias"));
        weights.matrix(&weight(name), bias.as_deref(), out, inp, order)
    };
    // Row `2i + j` of a head in the file is row `i + j * dim/2` of the rotate-half order.
    let halves = |row: usize| row / dim * dim + 2 * (row % (dim / 2)) + row % dim / (dim / 2);
    let order: weights::Order<'_> = if naming.interleaved() { Some(&halves) } else { None };
    let qkv = if weights.checkpoint.has(&weight(&n.qkv)) {
        Joint::One(linear(&n.qkv, l.qkv_bias, spec.q_width() + 2 * spec.kv_width(), hidden, None)?)
    } else {
        Joint::of(vec![
            linear(&n.q, l.qkv_bias, spec.q_width(), hidden, order)?,
            linear(&n.k, l.qkv_bias, spec.kv_width(), hidden, order)?,
            linear(&n.v, l.qkv_bias, spec.kv_width(), hidden, None)?,
        ])
    };
    let gate_up = match n.gate_up.filter(|name| weights.checkpoint.has(&weight(name))) {
        Some(name) => Joint::One(linear(&name, l.mlp_bias, 2 * spec.intermediate, hidden, None)?),
        None => Joint::of(vec![
            linear(&n.gate, l.mlp_bias, spec.intermediate, hidden, None)?,
            linear(&n.up, l.mlp_bias, spec.intermediate, hidden, None)?,
        ]),
    };
    Ok(Layer {
        attention_norm: norm(&n.attention_norm, hidden)?,
        qkv,
        q_norm: norm_if(l.qk_norm, &n.q_norm, dim)?,
        k_norm: norm_if(l.qk_norm, &n.k_norm, dim)?,
        output: Arc::new(linear(&n.output, l.output_bias, hidden, spec.q_width(), None)?),
        post_attention_norm: norm_if(l.post_norms, &n.post_attention_norm, hidden)?,
        ffn_norm: norm(&n.ffn_norm, hidden)?,
        gate_up,
        down: linear(&n.down, l.mlp_bias, hidden, spec.intermediate, None)?,
        post_ffn_norm: norm_if(l.post_norms, &n.post_ffn_norm, hidden)?,
    })
}

/// A matrix and its bytes in memory are what a decode step reads.
pub(crate) fn linear_bytes<'a>(all: impl Iterator<Item = &'a Linear>) -> usize {
    all.map(Linear::bytes).sum()
}
