//! Numbers about numbers. Everything random is drawn from a seed.

mod bootstrap;
mod quantile;
mod random;
mod wilson;

pub use bootstrap::bootstrap;
pub use quantile::{median, quantile};
pub use random::Random;
pub use wilson::wilson;

/// A 95% interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether a value lies within, ends included.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}
