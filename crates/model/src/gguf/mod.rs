//! GGUF files: a parser that believes nothing the file says before it has checked it.
//!
//! Every declared length is compared with the bytes that are left in the file before memory is taken for it, so a file
//! of a hundred bytes can never cost more than a few hundred. Versions 2 and 3, little-endian, one file per model.

mod header;
mod kind;
mod metadata;
mod reader;
mod value;

pub use header::{Header, TensorInfo, open, parse};
pub use kind::GgmlType;
pub use metadata::Metadata;
pub use value::{Array, Value};
