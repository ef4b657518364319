//! Which sampling parameters are accepted.

use super::Sampling;
use crate::EngineError;

/// Bounds of penalties and biases: far beyond any use, and small enough that sums stay finite.
const WIDE: f32 = 100.0;

impl Sampling {
    /// Checks every parameter; `vocab` is the number of logits of the model.
    ///
    /// # Errors
    /// [`EngineError::InvalidParameter`] with name, value and what is allowed.
    pub fn validate(&self, vocab: usize) -> Result<(), EngineError> {
        let check = |ok: bool, name, value: f32, allowed| {
            if ok { Ok(()) } else { Err(EngineError::invalid(name, value, allowed)) }
        };
        let wide = |value: f32| value.abs() <= WIDE;
        let t = self.temperature;
        check(t.is_finite() && t >= 0.0, "temperature", t, "a finite number, 0 (greedy) or more")?;
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "above 0, at most 1")?;
        check((0.0..=1.0).contains(&self.min_p), "min_p", self.min_p, "between 0 and 1")?;
        let r = self.repetition_penalty;
        check((0.01..=WIDE).contains(&r), "repetition_penalty", r, "between 0.01 and 100, where 1 is off")?;
        check(wide(self.presence_penalty), "presence_penalty", self.presence_penalty, "between -100 and 100")?;
        check(wide(self.frequency_penalty), "frequency_penalty", self.frequency_penalty, "between -100 and 100")?;
        for &(id, bias) in &self.logit_bias {
            check(wide(bias), "logit_bias", bias, "between -100 and 100")?;
            if id as usize >= vocab {
                let allowed = format!("a token id below the vocabulary's {vocab}");
                return Err(EngineError::invalid("logit_bias", id, allowed));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_checked_and_named() {
        let ok = Sampling::default();
        assert_eq!(ok.validate(10), Ok(()));
        let edge = Sampling { temperature: 0.0, top_p: 1.0, min_p: 1.0, logit_bias: vec![(9, -100.0)], ..ok.clone() };
        assert_eq!(edge.validate(10), Ok(()));
        let bad = [
            ("temperature", Sampling { temperature: -0.1, ..ok.clone() }),
            ("temperature", Sampling { temperature: f32::NAN, ..ok.clone() }),
            ("temperature", Sampling { temperature: f32::INFINITY, ..ok.clone() }),
            ("top_p", Sampling { top_p: 0.0, ..ok.clone() }),
            ("top_p", Sampling { top_p: 1.01, ..ok.clone() }),
            ("top_p", Sampling { top_p: f32::NAN, ..ok.clone() }),
            ("min_p", Sampling { min_p: -0.1, ..ok.clone() }),
            ("min_p", Sampling { min_p: f32::NAN, ..ok.clone() }),
            ("repetition_penalty", Sampling { repetition_penalty: 0.0, ..ok.clone() }),
            ("repetition_penalty", Sampling { repetition_penalty: f32::NAN, ..ok.clone() }),
            ("presence_penalty", Sampling { presence_penalty: f32::INFINITY, ..ok.clone() }),
            ("frequency_penalty", Sampling { frequency_penalty: f32::NAN, ..ok.clone() }),
            ("logit_bias", Sampling { logit_bias: vec![(0, 101.0)], ..ok.clone() }),
            ("logit_bias", Sampling { logit_bias: vec![(10, 1.0)], ..ok.clone() }),
        ];
        for (name, sampling) in bad {
            let error = sampling.validate(10).unwrap_err();
            assert!(matches!(&error, EngineError::InvalidParameter { name: n, .. } if *n == name), "{error}");
        }
    }
}
