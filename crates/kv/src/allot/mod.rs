//! **allot**: how many tokens each layer and head may keep.

pub(crate) mod ada;
pub(crate) mod chunk;
pub(crate) mod pyramid;

use crate::score::{Method, Scene, by_score};
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
}

impl Budget {
    /// Tokens a head keeps of so many.
    pub fn tokens(self, all: usize) -> usize {
        match self {
            // As the reference library truncates, so that the same tokens stay.
            Budget::Share(share) => ((all as f64 * share) as usize).min(all),
            Budget::Tokens(tokens) => tokens.min(all),
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
        match text.parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(Budget::Share(share)),
            _ => Err(format!("`{text}` is neither a share above 0 and up to 1 nor a number of tokens")),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Share(share) => write!(f, "{share}"),
            Budget::Tokens(tokens) => write!(f, "{tokens}"),
        }
    }
}

/// How tokens are chosen by the scores of a method: the part of a method that builds on another.
pub(crate) trait Choose: fmt::Debug + Send + Sync {
    /// As [`Method::choose`], by the scores of `of`.
    fn choose(&self, of: &dyn Method, scores: &[Vec<f32>], kept: usize, budget: Budget) -> Vec<Vec<u32>>;

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
    fn observes(&self) -> usize {
        self.of.observes()
    }

    fn budget(&self, budget: Budget, tokens: usize, layer: usize, layers: usize) -> usize {
        self.of.budget(budget, tokens, layer, layers)
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        self.of.scores(scene)
    }

    fn choose(&self, scores: &[Vec<f32>], kept: usize, budget: Budget) -> Vec<Vec<u32>> {
        self.how.choose(&*self.of, scores, kept, budget)
    }

    fn least(&self) -> usize {
        self.of.least()
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
        for bad in ["0", "-1", "1.5", "x", "nan", "inf", ""] {
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
