//! Rotary position: from the schemes that configurations name to frequencies.

use std::f64::consts::PI;
use std::path::Path;

use serde::Serialize;

use crate::ModelError;

/// Schemes that can be named, for messages.
pub(super) const KNOWN_SCHEMES: &str = "known RoPE schemes: default, linear, llama3, yarn";

/// One rotary scheme.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Channels that are turned, from the first of a head; even.
    pub rotary_dim: usize,
    /// What is done to the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// What is done to the frequencies for longer contexts.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Nothing.
    Default,
    /// All frequencies divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a smooth step between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths beyond `original / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context the model was first trained with.
        original: f64,
    },
    /// YaRN (Peng et al., 2023): a ramp between divided and kept frequencies, and a factor on cosine and sine.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Context the model was first trained with.
        original: f64,
        /// Turns within the original context above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which it is divided by the whole factor.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded outwards to whole channels.
        truncate: bool,
        /// Multiplies cosine and sine.
        attention_factor: f64,
    },
    /// Each frequency divided by its own number (GGUF's `rope_freqs.weight`, after an optional common divisor).
    Factors {
        /// Divisor of all frequencies.
        common: f64,
        /// `rotary_dim / 2` divisors.
        factors: Vec<f32>,
    },
}

/// YaRN's default attention factor, with `mscale` as multiplier of the logarithm.
pub(super) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

impl RopeSpec {
    pub(super) fn check(&self, path: &Path, head_dim: usize) -> Result<(), ModelError> {
        let bad = |reason: String| Err(ModelError::config(path, "RoPE", reason));
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return bad(format!("base {} is not a number above 1", self.theta));
        }
        if self.rotary_dim == 0 || self.rotary_dim > head_dim || !self.rotary_dim.is_multiple_of(2) {
            return bad(format!(
                "{} rotated channels in heads of {head_dim}; an even number is needed",
                self.rotary_dim
            ));
        }
        let positive = |values: &[f64]| values.iter().all(|v| v.is_finite() && *v > 0.0);
        let fine = match &self.scaling {
            RopeScaling::Default => true,
            RopeScaling::Linear { factor } => positive(&[*factor]),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                positive(&[*factor, *low_freq_factor, *high_freq_factor, *original])
                    && high_freq_factor > low_freq_factor
            }
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor, .. } => {
                positive(&[*factor, *original, *beta_fast, *beta_slow, *attention_factor])
            }
            RopeScaling::Factors { common, factors } => {
                factors.len() == self.rotary_dim / 2
                    && positive(&[*common])
                    && factors.iter().all(|f| f.is_finite() && *f > 0.0)
            }
        };
        if fine { Ok(()) } else { bad(format!("impossible numbers in {:?}", self.scaling)) }
    }

    /// Radians per position for each of the `rotary_dim / 2` pairs of channels.
    pub fn inv_freq(&self) -> Vec<f32> {
        let plain = self.plain();
        match &self.scaling {
            RopeScaling::Default => plain,
            RopeScaling::Linear { factor } => plain.iter().map(|f| (f64::from(*f) / factor) as f32).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => plain
                .iter()
                .map(|f| llama3(f64::from(*f), *factor, *low_freq_factor, *high_freq_factor, *original) as f32)
                .collect(),
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let (low, high) = self.correction(*original, *beta_fast, *beta_slow, *truncate);
                let ramp = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let blend = |(i, f): (usize, &f32)| f64::from(*f) * (1.0 - ramp(i) + ramp(i) / factor);
                plain.iter().enumerate().map(|pair| blend(pair) as f32).collect()
            }
            RopeScaling::Factors { common, factors } => {
                plain.iter().zip(factors).map(|(f, d)| (f64::from(*f) / common / f64::from(*d)) as f32).collect()
            }
        }
    }

    /// Multiplies cosine and sine: 1 but for yarn.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    /// Unscaled frequencies. The power is rounded to `f32` before it is inverted, as transformers does: at position
    /// 8,000 the last bit of a frequency already shows in the angle.
    fn plain(&self) -> Vec<f32> {
        let pairs = self.rotary_dim / 2;
        let power = |i: usize| self.theta.powf(f64::from((2 * i) as f32 / self.rotary_dim as f32)) as f32;
        (0..pairs).map(|i| 1.0 / power(i)).collect()
    }

    /// Between which pairs of channels yarn's ramp lies.
    fn correction(&self, original: f64, beta_fast: f64, beta_slow: f64, truncate: bool) -> (f64, f64) {
        let dim = self.rotary_dim as f64;
        let at = |turns: f64| dim * (original / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (low, high) = (at(beta_fast), at(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // Equal ends would divide by zero.
        if low == high { (low, high + 0.001) } else { (low, high) }
    }
}

fn llama3(f: f64, factor: f64, low_freq_factor: f64, high_freq_factor: f64, original: f64) -> f64 {
    let wavelength = 2.0 * PI / f;
    if wavelength < original / high_freq_factor {
        f
    } else if wavelength > original / low_freq_factor {
        f / factor
    } else {
        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scaling: RopeScaling) -> RopeSpec {
        RopeSpec { theta: 10_000.0, rotary_dim: 64, scaling }
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original: 2048.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: 1.0,
        };
        let (plain, yarn) = (spec(RopeScaling::Default).inv_freq(), spec(scaling).inv_freq());
        assert_eq!(plain[0], yarn[0]);
        assert!((plain[31] / yarn[31] - 4.0).abs() < 1e-4);
        assert!(plain.iter().zip(&yarn).all(|(p, y)| p / y >= 0.9999 && p / y <= 4.0001));
    }

    #[test]
    fn llama3_is_continuous_at_both_steps() {
        for wavelength in [8192.0, 8192.0 / 4.0] {
            let f = 2.0 * PI / wavelength;
            let (below, above) =
                (llama3(f * 0.999_999, 8.0, 1.0, 4.0, 8192.0), llama3(f * 1.000_001, 8.0, 1.0, 4.0, 8192.0));
            assert!((below - above).abs() < 1e-4 * f, "{below} {above}");
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        let path = Path::new("config.json");
        assert!(spec(RopeScaling::Linear { factor: 0.0 }).check(path, 64).is_err());
        assert!(spec(RopeScaling::Default).check(path, 32).is_err());
        assert!(spec(RopeScaling::Default).check(path, 64).is_ok());
        assert!(RopeSpec { rotary_dim: 7, ..spec(RopeScaling::Default) }.check(path, 64).is_err());
        assert!(RopeSpec { theta: f64::NAN, ..spec(RopeScaling::Default) }.check(path, 64).is_err());
    }
}
