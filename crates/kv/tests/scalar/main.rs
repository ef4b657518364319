//! Scalar formats: third-party bytes, the numbers their papers give, and what holds for all of them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod ggml;
mod golden;
mod methods;
mod mixed;
mod properties;
mod support;
