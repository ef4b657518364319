//! The hot loops of Cachalot: linear layers, attention over pages, element-wise operations, and the fork-join team
//! that runs them.
//!
//! Every kernel is written once, generic over [`simd::Simd`] (sixteen `f32` lanes), and instantiated per instruction
//! set. All instruction sets perform the same operations in the same order, so they return the same bits; the
//! portable one is the oracle of the tests and what machines without AVX2 get.
//!
//! This crate knows nothing of tensors libraries, files or HTTP.

pub mod attention;
pub mod codes;
pub mod columns;
pub mod divergence;
pub mod float8;
pub mod heap;
pub mod isa;
pub mod linear;
pub mod lookup;
pub mod nearest;
pub mod octants;
pub mod ops;
mod planes;
pub mod polar;
pub mod residual;
pub mod simd;
pub mod sparse;
pub mod subset;
pub mod team;
pub mod tile;
pub mod transpose;
pub mod triplets;
pub mod words;

pub use isa::Isa;
pub use linear::memory::{prefetch, prefetch_value};
pub use team::Team;
