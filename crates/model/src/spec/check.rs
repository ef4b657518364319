//! Bounds: a configuration that names absurd sizes is refused before anything is allocated for it.

use std::path::Path;

use super::ModelSpec;
use crate::ModelError;

/// Bounds of one value: name in messages, value, largest.
type Bound = (&'static str, usize, usize);

/// Layers are checked on their own, before the list of them is built.
pub(super) fn layer_count(path: &Path, key: &str, n: usize) -> Result<usize, ModelError> {
    if (1..=1000).contains(&n) {
        return Ok(n);
    }
    Err(ModelError::config(path, key, format!("{n} layers; 1 to 1000 are possible")))
}

impl ModelSpec {
    /// Checks that sizes are possible and agree with each other.
    pub(super) fn checked(self, path: &Path) -> Result<ModelSpec, ModelError> {
        let bounds: [Bound; 7] = [
            ("vocabulary", self.vocab, 1_000_000),
            ("hidden size", self.hidden, 1_000_000),
            ("intermediate size", self.intermediate, 1_000_000),
            ("number of heads", self.heads, 4096),
            ("number of KV heads", self.kv_heads, 4096),
            ("head dimension", self.head_dim, 4096),
            ("context", self.context, 100_000_000),
        ];
        for (name, value, most) in bounds {
            if value == 0 || value > most {
                return Err(ModelError::config(path, name, format!("{value} is impossible; 1 to {most} are accepted")));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!("{} query heads cannot share {} KV heads evenly", self.heads, self.kv_heads);
            return Err(ModelError::config(path, "number of KV heads", reason));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(ModelError::config(path, "norm epsilon", format!("{} is not a small number", self.norm_eps)));
        }
        for cap in [self.logit_softcap].into_iter().chain(self.layers.iter().map(|l| l.attention_softcap)).flatten() {
            if !(cap.is_finite() && cap > 0.0) {
                return Err(ModelError::config(path, "softcap", format!("{cap} is not a positive number")));
            }
        }
        for layer in &self.layers {
            if layer.window == Some(0) {
                return Err(ModelError::config(path, "sliding window", "0 tokens; at least 1 is needed"));
            }
            if !(layer.attention_scale.is_finite() && layer.attention_scale > 0.0) {
                let reason = format!("{} is not a positive number", layer.attention_scale);
                return Err(ModelError::config(path, "attention scale", reason));
            }
        }
        for rope in &self.ropes {
            rope.check(path, self.head_dim)?;
        }
        Ok(self)
    }
}
