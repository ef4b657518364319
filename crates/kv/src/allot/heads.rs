//! Budgets that differ by head, from a table that calibration made: how much each KV head needs.
//!
//! RazorAttention (Tang et al., 2024) and DuoAttention (Xiao et al., 2024) keep some heads whole and give the others sinks and
//! recent tokens; HeadKV (Fu et al., 2024) and Tangram (2026) give every head its share; UNComp (Xiong et al., 2024) has two
//! groups of heads.

use super::{Budget, Choose};
use crate::LayerGeometry;
use crate::encode::stage::Tensors;
use crate::reduce::{Merge, Passes, Stage};
use crate::score::{Method, Place};
use std::sync::Arc;

/// Name of the tensor in a profile: one number for every KV head of every layer, in their order.
pub(crate) const TENSOR: &str = "heads";

/// What calibration found out about heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// `[layer][head]`.
    values: Vec<Vec<f32>>,
    /// Rank of each head among all, the most needy first.
    ranks: Vec<Vec<usize>>,
}

impl Table {
    /// The table of a profile, if it has one that fits these layers.
    pub(crate) fn of(profile: &dyn Tensors, layers: &[LayerGeometry]) -> Option<Table> {
        let (_, values) = profile.tensor(TENSOR)?;
        let heads = layers.iter().map(|g| g.kv_heads);
        (values.len() == heads.clone().sum::<usize>()).then(|| Table::new(values, heads))
    }

    fn new(values: &[f32], heads: impl Iterator<Item = usize>) -> Table {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
        let mut ranks = vec![0; values.len()];
        order.iter().enumerate().for_each(|(rank, &head)| ranks[head] = rank);
        let mut at = 0;
        let cut = heads.map(|heads| {
            at += heads;
            (values[at - heads..at].to_vec(), ranks[at - heads..at].to_vec())
        });
        let (values, ranks) = cut.unzip();
        Table { values, ranks }
    }

    fn heads(&self) -> usize {
        self.ranks.iter().map(Vec::len).sum()
    }

    fn rank(&self, place: Place) -> Option<usize> {
        self.ranks.get(place.layer)?.get(place.head).copied()
    }

    fn value(&self, place: Place) -> Option<f64> {
        self.values.get(place.layer)?.get(place.head).map(|&x| f64::from(x))
    }

    /// Of a head, its share of the sum of all; negative numbers count as zero.
    fn share(&self, place: Place) -> Option<f64> {
        let sum: f64 = self.values.iter().flatten().map(|&x| f64::from(x.max(0.0))).sum();
        self.value(place).map(|x| if sum > 0.0 { x.max(0.0) / sum } else { 1.0 / self.heads() as f64 })
    }
}

/// How a table becomes budgets.
#[derive(Clone, Debug)]
pub(crate) enum Rule {
    /// The first of the ranking keep everything, the others `sinks + recent`: DuoAttention. As many as the budget allows
    /// where no share of `full` heads is given.
    Full {
        /// Share of heads.
        full: Option<f64>,
        /// Tokens of the others.
        others: usize,
    },
    /// This share of heads keeps everything, the others what the budget leaves: RazorAttention.
    Rest {
        /// Share of heads.
        full: f64,
        /// Fewest tokens of the others.
        least: usize,
    },
    /// A `floor` of the budget for all, the rest by the table: HeadKV.
    Share {
        /// Share of the budget.
        floor: f64,
        /// Tokens that every head keeps beside that.
        window: usize,
    },
    /// Proportional to the table, a head at most whole: Tangram.
    Proportional,
    /// The better half has twice what the others have: UNComp.
    Halves,
}

/// Heads keep what a table gives them, the best by the scores of another method.
#[derive(Debug)]
pub(crate) struct ByHead {
    /// `None` until a profile is there.
    pub table: Option<Table>,
    pub rule: Rule,
    /// What becomes of the others, before what the method has.
    pub merge: Option<Arc<dyn Merge>>,
    /// Layers beyond which fewer rows are read.
    pub stages: Vec<Stage>,
}

impl ByHead {
    fn tokens(&self, table: &Table, mean: usize, tokens: usize, place: Place) -> Option<usize> {
        let (heads, rank) = (table.heads(), table.rank(place)?);
        let (n, b) = (tokens as f64, mean as f64);
        let among = |share: f64| (rank as f64) < (heads as f64 * share).round();
        Some(match self.rule {
            Rule::Full { full, others } => {
                let others = others.min(tokens) as f64;
                let share = full.unwrap_or_else(|| if n > others { (b - others) / (n - others) } else { 1.0 });
                if among(share) { tokens } else { others as usize }
            }
            Rule::Rest { full, least } => {
                // A budget that these heads would use up alone is for fewer of them.
                let least_share = least as f64 / n;
                let full = full.min(((b / n - least_share) / (1.0 - least_share).max(f64::MIN_POSITIVE)).max(0.0));
                let count = (heads as f64 * full).round();
                let rest = (b * heads as f64 - n * count) / (heads as f64 - count).max(1.0);
                if among(full) { tokens } else { (rest.max(least as f64) as usize).min(tokens) }
            }
            Rule::Share { floor, window } => {
                let past = b - window as f64;
                let own = table.share(place)? * past * (1.0 - floor) * heads as f64 + past * floor;
                own.round().max(0.0) as usize + window
            }
            Rule::Proportional => (proportional(table, b / n, place)? * n).round() as usize,
            Rule::Halves => {
                if rank < heads / 2 {
                    (b * 4.0 / 3.0) as usize
                } else {
                    (b * 2.0 / 3.0) as usize
                }
            }
        })
    }
}

/// The share that a head keeps: `factor * value`, at most all, with the factor that gives `mean` on average.
fn proportional(table: &Table, mean: f64, place: Place) -> Option<f64> {
    let all = || table.values.iter().flatten().map(|&x| f64::from(x.max(1e-6)));
    let average = |factor: f64| all().map(|x| (factor * x).min(1.0)).sum::<f64>() / table.heads() as f64;
    let (mut low, mut high) = (0.0, 1.0 / all().fold(f64::INFINITY, f64::min));
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if average(middle) < mean { low = middle } else { high = middle }
    }
    Some((high * table.value(place)?.max(1e-6)).min(1.0))
}

impl Choose for ByHead {
    fn budget(&self, of: &dyn Method, budget: Budget, tokens: usize, place: Place) -> usize {
        let mean = of.budget(budget, tokens, place);
        let table =
            self.table.as_ref().filter(|_| mean < tokens || matches!(self.rule, Rule::Full { full: Some(_), .. }));
        table.and_then(|table| self.tokens(table, mean, tokens, place)).unwrap_or(mean).min(tokens)
    }

    fn passes(&self, of: &dyn Method) -> Passes {
        if self.stages.is_empty() { of.passes() } else { Passes::Stages(self.stages.clone()) }
    }

    fn merge(&self, of: &dyn Method) -> Option<Arc<dyn Merge>> {
        self.merge.clone().or_else(|| of.merge())
    }

    fn describe(&self) -> String {
        let rule = match &self.rule {
            Rule::Full { full: Some(full), others } => {
                format!("{full} of the heads keep everything, the others {others} tokens")
            }
            Rule::Full { full: None, others } => {
                format!("as many heads as fit keep everything, the others {others} tokens")
            }
            Rule::Rest { full, .. } => format!("{full} of the heads keep everything, the others share the rest"),
            Rule::Share { floor, .. } => format!("{floor} of the budget for all heads alike, the rest by need"),
            Rule::Proportional => "heads keep in proportion to their need".to_owned(),
            Rule::Halves => "the needier half of the heads keeps twice as much".to_owned(),
        };
        let table = if self.table.is_some() { "" } else { " (all alike without a profile)" };
        format!("{rule}{table}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rule: Rule, values: &[f32], mean: usize, tokens: usize) -> Vec<usize> {
        let table = Table::new(values, std::iter::once(values.len()));
        let by = ByHead { table: None, rule, merge: None, stages: Vec::new() };
        let place = |head| Place { layer: 0, layers: 1, head };
        (0..values.len()).filter_map(|head| by.tokens(&table, mean, tokens, place(head))).collect()
    }

    #[test]
    fn budgets_add_up_and_follow_the_table() {
        let values = [0.9, 0.1, 0.4, 0.2];
        assert_eq!(counts(Rule::Full { full: Some(0.25), others: 60 }, &values, 500, 1000), [1000, 60, 60, 60]);
        assert_eq!(counts(Rule::Full { full: None, others: 100 }, &values, 550, 1000), [1000, 100, 1000, 100]);
        let rest = counts(Rule::Rest { full: 0.25, least: 4 }, &values, 600, 1000);
        assert_eq!((rest[0], rest.iter().sum::<usize>()), (1000, 2398));
        // HeadKV: a uniform table gives everyone the budget, and the total is the budget's.
        assert_eq!(counts(Rule::Share { floor: 0.5, window: 8 }, &[0.3; 4], 200, 1000), [200; 4]);
        assert_eq!(counts(Rule::Share { floor: 0.1, window: 8 }, &values, 200, 1000).iter().sum::<usize>(), 800);
        let shares = counts(Rule::Proportional, &values, 250, 1000);
        assert!(shares.iter().sum::<usize>().abs_diff(1000) <= 4 && shares[0] > 2 * shares[2] - 3, "{shares:?}");
        assert_eq!(counts(Rule::Proportional, &values, 1000, 1000), [1000; 4]);
        assert_eq!(counts(Rule::Halves, &values, 384, 4096), [512, 256, 512, 256]);
    }
}
