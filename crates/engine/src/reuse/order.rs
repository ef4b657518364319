//! In which order requests leave the queue.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Reuse, Thread};

/// Which of the requests that wait is next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The one that came first.
    #[default]
    Arrival,
    /// The one of whose prompt the largest share is there already, those that wait longer before others (KVShare, Yang et al.,
    /// 2025): see [`Order::rank`].
    HitRate,
}

impl Order {
    /// Waiting that counts as much as a prompt that is there as a whole: who has waited so much longer comes first whatever is
    /// there of either.
    pub const PATIENCE: Duration = Duration::from_secs(10);
    /// Requests that are compared, from the oldest on.
    pub(crate) const COMPARED: usize = 64;

    /// The highest is next: the share of the prompt's tokens that are there, and the time waited in units of [`Order::PATIENCE`].
    pub fn rank(there: usize, tokens: usize, waited: Duration) -> f64 {
        there as f64 / tokens.max(1) as f64 + waited.as_secs_f64() / Order::PATIENCE.as_secs_f64()
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::Arrival => "arrival",
            Order::HitRate => "hit-rate",
        })
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(text: &str) -> Result<Order, String> {
        [Order::Arrival, Order::HitRate]
            .into_iter()
            .find(|order| order.to_string() == text)
            .ok_or_else(|| format!("`{text}` is not one of arrival, hit-rate"))
    }
}

impl Reuse {
    /// See [`super::ReuseConfig::order`].
    pub fn order(&self) -> Order {
        self.config.order
    }

    /// Tokens of a prompt that are there, at its beginning or, where the request wants that, in other contexts.
    pub fn hits(&self, thread: &Thread, prompt: &[u32]) -> usize {
        let Some(domain) = thread.domain else { return 0 };
        let begun = self.tree.find(thread.before.unwrap_or(domain), prompt).tokens;
        if thread.blend().is_none() {
            return begun;
        }
        let chunks = thread.chunks(prompt).into_iter().filter(|chunk| chunk.start >= begun);
        let there =
            chunks.filter(|chunk| self.library.look(&self.tree, domain, &prompt[chunk.clone()], (&[], 1.0)).0 > 0);
        begun + there.map(|chunk| chunk.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_hits_come_first_and_waiting_wins_in_the_end() {
        let now = Duration::from_secs(1);
        assert!(Order::rank(90, 100, now) > Order::rank(80, 100, now));
        assert!(Order::rank(9, 10, now) > Order::rank(80, 100, now), "shares, not tokens");
        let aged = now + Order::PATIENCE + Duration::from_millis(1);
        assert!(Order::rank(0, 100, aged) > Order::rank(100, 100, now));
        for order in [Order::Arrival, Order::HitRate] {
            assert_eq!(order.to_string().parse(), Ok(order));
        }
        assert!("fifo".parse::<Order>().is_err());
    }
}
