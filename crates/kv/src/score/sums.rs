//! Scores from what every token has received from all rows: H2O (Zhang et al., 2023), Scissorhands (Liu et al., 2023),
//! Keyformer (Adnan et al., 2024), kvpress's observed attention, and the ranking of PrefixKV (Wang et al., 2024), Elastic
//! Cache (Liu et al., 2024) and ZipVL (He et al., 2024).

use super::{Method, Scene};
use crate::allot::{Budget, top};
use crate::observe::{Columns, Gather, Last, Wish};
use crate::reduce::{Merge, When};
use std::sync::Arc;

/// What the sum becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Norm {
    /// The sum itself: the earlier a token, the more rows it has seen.
    Sum,
    /// Divided by the rows that saw the token.
    Mean,
    /// Fewer is better.
    Negative,
}

/// Recent tokens that stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Recent {
    /// This share of what may stay.
    Share(f64),
    /// So many.
    Tokens(usize),
}

/// The tokens that received the most, and recent ones.
#[derive(Debug)]
pub(super) struct Heavy {
    pub columns: Columns,
    pub norm: Norm,
    /// First tokens that stay.
    pub sinks: usize,
    pub recent: Recent,
    /// One ranking for all heads of a layer.
    pub shared: bool,
    pub when: When,
    pub merge: Option<Arc<dyn Merge>>,
}

impl Heavy {
    pub fn of(gather: Gather) -> Heavy {
        Heavy {
            columns: Columns { gather, last: Last::All },
            norm: Norm::Sum,
            sinks: 0,
            recent: Recent::Tokens(0),
            shared: false,
            when: When::Both,
            merge: None,
        }
    }

    fn recent(&self, kept: usize) -> usize {
        match self.recent {
            Recent::Share(share) => (kept as f64 * share) as usize,
            Recent::Tokens(tokens) => tokens.min(kept),
        }
    }
}

impl Method for Heavy {
    fn wish(&self) -> Wish {
        Wish { columns: Some(self.columns), ..Wish::default() }
    }

    fn scores(&self, scene: &Scene<'_>) -> Vec<Vec<f32>> {
        let group = scene.geometry.group() as f64;
        let score = |head: usize, slot: usize, received: f64| match self.norm {
            Norm::Sum => received / group,
            Norm::Mean => received / (group * scene.observers(head, slot).max(1) as f64),
            Norm::Negative => -received,
        };
        let heads = scene.heads().map(|head| {
            let received = scene.received(head).into_iter().enumerate();
            received.map(|(slot, received)| score(head, slot, received) as f32).collect()
        });
        let mut scores: Vec<Vec<f32>> = heads.collect();
        if self.shared {
            scores = shared(&scores);
        }
        for scores in &mut scores {
            scores.iter_mut().take(self.sinks).for_each(|score| *score = f32::INFINITY);
        }
        scores
    }

    fn choose(&self, _: &Scene<'_>, scores: &[Vec<f32>], kept: &[usize], _: Budget) -> Vec<Vec<u32>> {
        let lane = |(scores, &kept): (&Vec<f32>, &usize)| {
            let recent = self.recent(kept).min(scores.len());
            let past = scores.len() - recent;
            let mut chosen = top(&scores[..past], kept - recent.min(kept));
            chosen.extend(past as u32..scores.len() as u32);
            chosen
        };
        scores.iter().zip(kept).map(lane).collect()
    }

    fn least(&self) -> usize {
        self.sinks + if let Recent::Tokens(tokens) = self.recent { tokens } else { 0 }
    }

    fn when(&self) -> When {
        self.when
    }

    fn merge(&self) -> Option<Arc<dyn Merge>> {
        self.merge.clone()
    }

    fn describe(&self) -> String {
        let what = match (self.columns.gather, self.norm) {
            (Gather::Below, _) => "rows that gave a token less than an equal share (fewer is better)",
            (Gather::Noisy { .. }, _) => "attention with Gumbel noise, summed over all rows",
            (Gather::Max, _) => "the largest attention of any row",
            (Gather::Sum, Norm::Mean) => "attention received, per row that could give it",
            (Gather::Sum | Gather::Repeated, _) => "attention received, summed over all rows",
        };
        let rows = match self.columns.last {
            Last::Probes(share) => format!(", of the last {share} of the rows and as many of the others, drawn"),
            _ => String::new(),
        };
        let heads = if self.shared { ", the same tokens for all heads of a layer" } else { "" };
        let recent = match self.recent {
            Recent::Share(share) => format!("; {share} of the budget for recent tokens"),
            Recent::Tokens(0) => String::new(),
            Recent::Tokens(tokens) => format!("; the last {tokens} stay"),
        };
        let sinks = if self.sinks > 0 { format!("; the first {} stay", self.sinks) } else { String::new() };
        format!("{what}{rows}{heads}{sinks}{recent}")
    }
}

/// The mean over heads, for each of them, where they have the same slots.
pub(super) fn shared(scores: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut mean = vec![0.0; scores.first().map_or(0, Vec::len)];
    if scores.iter().any(|head| head.len() != mean.len()) {
        return scores.to_vec();
    }
    scores.iter().for_each(|head| mean.iter_mut().zip(head).for_each(|(mean, x)| *mean += x / scores.len() as f32));
    vec![mean; scores.len()]
}
