//! In which order prompts that are all known beforehand are best computed (BatchLLM, Zheng et al., 2024).
//!
//! 1. `tree`: a compact prefix tree of all prompts.
//! 2. `collapse`: where prompts share prefixes of prefixes, which one prefix is a group's.
//! 3. [`Plan`]: groups in order, those first that generate much for what they read; members of a group follow each other.
//!
//! The engine finds common prefixes by itself and shares nested ones too. What the plan adds is that those who share come
//! together, while what they share is there.

mod collapse;
mod plan;
mod tree;

pub use plan::{Group, Plan, Wanted};
