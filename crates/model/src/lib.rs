//! Weights, tokenizers, chat templates and the decoder's forward pass.
//!
//! A path (a Hugging Face folder or a GGUF file) becomes a [`Model`] with its [`tokenizer`] and [`template`], or a
//! [`ModelError`] that says what is wrong with it.
//!
//! - [`gguf`]: a hardened parser of GGUF headers.
//! - [`spec`]: every supported configuration as one description of one decoder.
//! - [`load`]: tensors to packed weights, with checks.
//! - [`model`], [`forward`], [`decoder`]: the weights in memory, the forward pass, and the seam to the engine.
//! - [`passes`]: what some recipes compute over a context once more.
//! - [`hub`]: model names to paths.

pub mod decoder;
pub mod error;
pub mod forward;
pub mod gguf;
pub mod hub;
pub mod load;
pub mod model;
pub mod passes;
pub mod spec;
pub mod template;
pub mod tokenizer;

pub use decoder::Decoder;
pub use error::ModelError;
pub use load::{LoadOptions, LoadProgress, Loaded, NonFinite, WeightMode, load_weights, read_spec};
pub use model::{Model, geometry};
pub use spec::{LayerSpec, ModelSpec};
pub use tokenizer::GenerationDefaults;
