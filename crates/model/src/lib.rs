//! Weights, tokenizers, chat templates and the decoder's forward pass.
//!
//! A path (a Hugging Face folder or a GGUF file) becomes a [`ModelError`] that says what is wrong with it, or a model.

pub mod error;
pub mod gguf;
pub mod hub;
pub mod spec;
pub mod template;
pub mod tokenizer;

pub use error::ModelError;
