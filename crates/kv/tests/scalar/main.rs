//! Scalar formats: third-party bytes, the numbers their papers give, and what holds for all of them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod affine;
mod ggml;
mod golden;
mod levels;
mod mixed;
mod properties;
mod support;
