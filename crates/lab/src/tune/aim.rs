//! What a search is after, and where settings are measured.

use super::space::Setting;
use crate::LabError;
use serde::{Deserialize, Serialize};

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Aim {
    /// The fewest bytes whose mean divergence is at most this.
    Smallest {
        /// In nats.
        kl: f64,
    },
    /// The least divergence within so many bytes.
    Best {
        /// Of the whole sequence.
        bytes: u64,
    },
}

/// Where settings are measured.
pub trait Bench {
    /// Bytes of a sequence.
    ///
    /// # Errors
    /// Where the setting is impossible.
    fn bytes(&mut self, setting: &Setting) -> Result<u64, LabError>;

    /// Mean divergence of each. One that is certain to exceed `limit` need not be measured to its end: what it has come to by
    /// then is enough.
    ///
    /// # Errors
    /// Where nothing can be measured.
    fn divergence(&mut self, settings: &[Setting], limit: f64) -> Result<Vec<Seen>, LabError>;

    /// Tokens computed so far.
    fn spent(&self) -> u64;
}

/// A divergence as far as it was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// In nats: the mean, or less of it where it was given up.
    pub kl: f64,
    /// Whether it was measured to its end.
    pub whole: bool,
}

/// A setting that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// The setting.
    pub setting: Setting,
    /// Its bytes.
    pub bytes: u64,
    /// Its divergence, or what it had come to when it was given up.
    pub kl: f64,
    /// Whether it was measured to its end.
    pub whole: bool,
    /// Tokens computed when it was known.
    pub spent: u64,
}

impl Aim {
    /// Whether it is met.
    pub fn met(self, tried: &Tried) -> bool {
        match self {
            Aim::Smallest { kl } => tried.kl <= kl,
            Aim::Best { bytes } => tried.bytes <= bytes,
        }
    }

    /// Least is best.
    fn value(self, tried: &Tried) -> (f64, f64) {
        match self {
            Aim::Smallest { .. } => (tried.bytes as f64, tried.kl),
            Aim::Best { .. } => (tried.kl, tried.bytes as f64),
        }
    }

    /// Of two that were tried, whether the first is better.
    pub fn prefers(self, one: &Tried, other: &Tried) -> bool {
        match (self.met(one), self.met(other)) {
            (true, true) => self.value(one) < self.value(other),
            (met, other_met) if met != other_met => met,
            _ => one.kl < other.kl,
        }
    }

    /// The best, if any meets the aim.
    pub fn best(self, tried: &[Tried]) -> Option<&Tried> {
        let met = tried.iter().filter(|tried| self.met(tried));
        met.reduce(|best, tried| if self.prefers(tried, best) { tried } else { best })
    }
}
