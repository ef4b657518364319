//! **allot**: how many tokens each layer and head may keep.

pub(crate) mod ada;
pub(crate) mod chunk;
pub(crate) mod critical;
pub(crate) mod crush;
pub(crate) mod fastkv;
pub mod heads;
pub(crate) mod prefix;
pub(crate) mod pyramid;
pub(crate) mod variance;
pub(crate) mod zipvl;

use crate::observe::Wish;
use crate::reduce::{Merge, Passes, When};
use crate::score::{Method, Place, Scene, Scored, by_score};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// How much of a context stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// This share of the tokens, rounded down.
    Share(f64),
    /// So many tokens of every head, on average.
    Tokens(usize),
    /// As many tokens of every head, on average, as take so many bytes in all. A plan for a model knows how many.
    Bytes(u64),
    /// As many as take this share of what is free in the pool when the context begins. A sequence knows how many.
    Free(f64),
}

impl Budget {
    /// Tokens a head keeps of so many.
    pub fn tokens(self, all: usize) -> usize {
        match self {
            // As the reference library truncates, so that the same tokens stay.
            Budget::Share(share) => ((all as f64 * share) as usize).min(all),
            Budget::Tokens(tokens) => tokens.min(all),
            // Not known yet: no more than all.
            Budget::Bytes(_) | Budget::Free(_) => all,
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        if let Ok(tokens) = text.parse::<usize>()
            && tokens > 1
        {
            return Ok(Budget::Tokens(tokens));
        }
        if let Some(bytes) = bytes(text) {
            return Ok(Budget::Bytes(bytes));
        }
        if let Some(rest) = text.strip_prefix("free") {
            let divisor = if rest.is_empty() { Some(1.0) } else { rest.strip_prefix('/').and_then(|n| n.parse().ok()) };
            if let Some(divisor) = divisor.filter(|n: &f64| n.is_finite() && *n >= 1.0) {
                return Ok(Budget::Free(1.0 / divisor));
            }
        }
        match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(Budget::Share(share)),
            _ => Err(format!(
                "`{text}` is none of a share above 0 and up to 1, a number of tokens, bytes such as 64MiB, and free/2"
            )),
        }
    }
}

/// `64MiB` and the like.
fn bytes(text: &str) -> Option<u64> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("B", 0)];
    let (number, shift) = units.iter().find_map(|&(unit, shift)| Some((text.strip_suffix(unit)?, shift)))?;
    let bytes = number.parse::<f64>().ok()? * f64::from(1u32 << shift);
    (1.0..1e18).contains(&bytes).then_some(bytes as u64)
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Share(share) => write!(f, "{share}"),
            Budget::Tokens(tokens) => write!(f, "{tokens}"),
            Budget::Bytes(bytes) => write!(f, "{bytes}B"),
            Budget::Free(share) => write!(f, "free/{}", 1.0 / share),
        }
    }
}

/// How tokens are chosen by the scores of a method: the part of a method that builds on another.
pub(crate) trait Choose: fmt::Debug + Send + Sync {
    /// As [`Method::choose`], by the scores of `of`.
    fn choose(
        &self,
        of: &dyn Method,
        scene: &Scene<'_>,
        scores: &[Vec<f32>],
        kept: &[usize],
        budget: Budget,
    ) -> Vec<Vec<u32>> {
        of.choose(scene, scores, kept, budget)
    }

    /// As [`Method::budget`].
    fn budget(&self, of: &dyn Method, budget: Budget, tokens: usize, place: Place) -> usize {
        of.budget(budget, tokens, place)
    }

    /// As [`Method::allot`].
    fn allot(&self, of: &dyn Method, layers: &[Scored<'_>], budget: Budget, kept: &mut [Vec<usize>]) {
        of.allot(layers, budget, kept);
    }

    /// As [`Method::passes`].
    fn passes(&self, of: &dyn Method) -> Passes {
        of.passes()
    }

    /// As [`Method::merge`].
    fn merge(&self, of: &dyn Method) -> Option<Arc<dyn Merge>> {
        of.merge()
    }

    /// What it adds, for people.
    fn describe(&self) -> String;
}

/// A method whose scores are another's.
#[derive(Debug)]
pub(crate) struct Over<C> {
    pub of: Arc<dyn Method>,
    pub how: C,
}

impl<C: Choose> Method for Over<C> {
    fn wish(&self) -> Wish {
        self.of.wish()
    }

    fn budget(&self, budget: Budget, tokens: usize, place: Place) -> usize {
        self.how.budget(&*self.of, budget, tokens, place)
    }

    fn leader(&self, layer: usize) -> usize {
        self.of.leader(layer)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        self.of.scores(scene)
    }

    fn allot(&self, layers: &[Scored<'_>], budget: Budget, kept: &mut [Vec<usize>]) {
        self.how.allot(&*self.of, layers, budget, kept);
    }

    fn choose(&self, scene: &Scene<'_>, scores: &[Vec<f32>], kept: &[usize], budget: Budget) -> Vec<Vec<u32>> {
        self.how.choose(&*self.of, scene, scores, kept, budget)
    }

    fn least(&self) -> usize {
        self.of.least()
    }

    fn when(&self) -> When {
        self.of.when()
    }

    fn passes(&self) -> Passes {
        self.how.passes(&*self.of)
    }

    fn merge(&self) -> Option<Arc<dyn Merge>> {
        self.how.merge(&*self.of)
    }

    fn describe(&self) -> String {
        format!("{}; {}", self.of.describe(), self.how.describe())
    }
}

/// The `kept` best tokens in ascending order; of equal ones the earlier.
pub(crate) fn top(scores: &[f32], kept: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    if kept < order.len() && kept > 0 {
        order.select_nth_unstable_by(kept - 1, by_score(scores));
    }
    order.truncate(kept);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_read_as_written_and_round_down() {
        assert_eq!("0.25".parse(), Ok(Budget::Share(0.25)));
        assert_eq!("1".parse(), Ok(Budget::Share(1.0)));
        assert_eq!("512".parse(), Ok(Budget::Tokens(512)));
        assert_eq!("1.5MiB".parse(), Ok(Budget::Bytes(3 << 19)));
        assert_eq!("free/4".parse(), Ok(Budget::Free(0.25)));
        for bad in ["0", "-1", "1.5", "x", "nan", "inf", "", "0B", "-3MiB", "MiB", "free/0.5", "free/x", "freee"] {
            assert!(bad.parse::<Budget>().is_err(), "{bad}");
        }
        // The dossier's: floating point of `1 - r` matters.
        for (r, n, kept) in [(0.9, 10, 0), (0.9, 100, 9), (0.7, 1000, 300)] {
            assert_eq!(Budget::Share(1.0 - r).tokens(n), kept);
        }
    }

    #[test]
    fn of_equal_scores_the_earlier_token_stays() {
        assert_eq!(top(&[1.0, 2.0, 1.0, 2.0, 1.0], 3), [0, 1, 3]);
        assert!(top(&[0.5; 4], 0).is_empty());
        assert_eq!(top(&[0.5; 4], 9), [0, 1, 2, 3]);
    }
}
