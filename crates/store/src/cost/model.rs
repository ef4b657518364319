//! How long things take on this machine.

use super::fit::Fit;
use crate::StoreError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const VERSION: u32 = 1;

/// Prefill by length, tiers by latency and bandwidth, codecs by speed. Observed while a server runs, kept as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostModel {
    version: u32,
    prefill: Fit,
    tiers: BTreeMap<String, Fit>,
    codecs: BTreeMap<String, Fit>,
}

impl Default for CostModel {
    /// Guesses for a small model on a few cores, a disk and a fast codec; the first observations count far more.
    fn default() -> CostModel {
        // A step, a token, a token looking at another.
        let prefill = Fit::new(&[1e-3, 1e-3, 1e-7]);
        CostModel { version: VERSION, prefill, tiers: BTreeMap::new(), codecs: BTreeMap::new() }
    }
}

/// A step, its tokens, and the pairs of tokens its attention looks at.
fn prefill_features(tokens: usize, start: usize) -> [f64; 3] {
    let (n, start) = (tokens as f64, start as f64);
    [1.0, n, n * (start + (n + 1.0) / 2.0)]
}

/// A tenth of a millisecond, and a gigabyte a second.
fn tier() -> Fit {
    Fit::new(&[1e-4, 1e-9])
}

/// Nothing, and half a gigabyte a second.
fn codec() -> Fit {
    Fit::new(&[1e-6, 2e-9])
}

impl CostModel {
    /// A machine that takes `token` seconds for a token, and of each of these tiers `byte` seconds for a byte, until something else
    /// is observed.
    pub fn guess(token: f64, tiers: &[(&str, f64)]) -> CostModel {
        let tier = |&(name, byte): &(&str, f64)| (name.to_owned(), Fit::new(&[1e-9, byte.max(1e-15)]));
        let prefill = Fit::new(&[1e-9, token.max(1e-12), 1e-15]);
        CostModel { prefill, tiers: tiers.iter().map(tier).collect(), ..CostModel::default() }
    }

    /// A step that computed `tokens` from position `start` on took so long.
    pub fn observe_prefill(&mut self, tokens: usize, start: usize, seconds: f64) {
        self.prefill.observe(&prefill_features(tokens, start), seconds);
    }

    /// A read of `bytes` from a tier took so long, from the request to the last byte.
    pub fn observe_tier(&mut self, name: &str, bytes: u64, seconds: f64) {
        self.tiers.entry(name.to_owned()).or_insert_with(tier).observe(&[1.0, bytes as f64], seconds);
    }

    /// Decoding to `bytes` of pages took so long.
    pub fn observe_decode(&mut self, name: &str, bytes: u64, seconds: f64) {
        self.codecs.entry(name.to_owned()).or_insert_with(codec).observe(&[1.0, bytes as f64], seconds);
    }

    /// Seconds to compute `tokens` from position `start` on; none for no tokens.
    pub fn prefill(&self, tokens: usize, start: usize) -> f64 {
        if tokens == 0 { 0.0 } else { self.prefill.predict(&prefill_features(tokens, start)) }
    }

    /// Seconds until the first byte of a tier.
    pub fn latency(&self, name: &str) -> f64 {
        self.tiers.get(name).unwrap_or(&tier()).weight(0)
    }

    /// Seconds for so many more bytes of a tier.
    pub fn transfer(&self, name: &str, bytes: u64) -> f64 {
        bytes as f64 * self.tiers.get(name).unwrap_or(&tier()).weight(1)
    }

    /// Seconds to decode to so many bytes of pages; none where there is no codec.
    pub fn decode(&self, name: &str, bytes: u64) -> f64 {
        match name {
            "none" => 0.0,
            _ => bytes as f64 * self.codecs.get(name).unwrap_or(&codec()).weight(1),
        }
    }

    /// How many observations there were of prefill, of all tiers and of all codecs.
    pub fn observations(&self) -> [u64; 3] {
        let all = |fits: &BTreeMap<String, Fit>| fits.values().map(Fit::observations).sum();
        [self.prefill.observations(), all(&self.tiers), all(&self.codecs)]
    }

    /// As JSON.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where JSON cannot say it.
    pub fn to_json(&self) -> Result<String, StoreError> {
        serde_json::to_string_pretty(self).map_err(|error| corrupt(error.to_string()))
    }

    /// What [`CostModel::to_json`] wrote.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for anything else; [`CostModel::default`] is good enough then.
    pub fn from_json(json: &str) -> Result<CostModel, StoreError> {
        let model: CostModel = serde_json::from_str(json).map_err(|error| corrupt(error.to_string()))?;
        let fits = model.tiers.values().chain(model.codecs.values());
        match model.version == VERSION && model.prefill.is_sound(3) && fits.into_iter().all(|fit| fit.is_sound(2)) {
            true => Ok(model),
            false => Err(corrupt("another version, or numbers that are none".to_owned())),
        }
    }
}

fn corrupt(what: String) -> StoreError {
    StoreError::Corrupt { place: "cost model".to_owned(), what }
}
