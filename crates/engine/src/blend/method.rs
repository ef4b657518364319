//! Which rows of moved stretches are computed anew.

use cachalot_kv::mend::{Deviation, Filter, Refresh, Select};

use crate::EngineError;

/// A way to use stretches that were computed elsewhere, with the numbers that it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// None: a prompt is computed whole.
    Exact,
    /// The rows whose values deviate most in the second layer go through all others (CacheBlend, Yao et al., 2025, as its code
    /// does it).
    CacheBlend {
        /// Of the moved rows, beyond those of the first layers; from 0 to 1.
        share: f64,
    },
    /// The same with fewer rows in every quarter of the layers, as its paper has it: of those that are still computed, the
    /// ones that deviate most go on.
    CacheBlendGradual {
        /// Mean of all layers.
        share: f64,
    },
    /// Keys and values are compared, and rows that hardly deviate are not computed whatever the share (KVShare, Yang et al.,
    /// 2025; its formulas are a reconstruction).
    KvShare {
        /// As CacheBlend's.
        share: f64,
        /// Rows that are computed again while an answer is generated.
        refresh: Option<Refresh>,
    },
    /// Rows that looked outside their chunk most when it was computed, as many as what stands before it now differs from then
    /// (Cache-Craft, Agarwal et al., 2025; see [`super::craft`]).
    CacheCraft {
        /// Factor of the rows that are computed again, calibrated for each model in the paper.
        alpha: f64,
    },
    /// No row: stretches are moved, and that is all (PIE, He et al., 2024, for texts that are edited).
    Pie,
    /// Marked parts are read side by side, none knowing of the others (APE, Yang et al., 2025).
    Ape {
        /// What scores over contexts are divided by; above 0.
        temperature: f64,
        /// How much the contexts weigh beside the rest; 1 is what their scores say.
        scale: f64,
    },
    /// Marked parts are moved and corrected by what others deviated by in their place (KVCOMM, Ye et al., 2025).
    KvComm {
        /// Entropy, as a share of the largest, above which a message is not foreseeable; from 0 to 1.
        gamma: f64,
        /// Anchors of one placeholder, at most.
        anchors: usize,
    },
}

impl Method {
    /// CacheBlend's share of rows.
    pub const SHARE: f64 = 0.15;
    /// Every method, with what its paper or code has.
    pub const ALL: [Method; 8] = [
        Method::Exact,
        Method::CacheBlend { share: Method::SHARE },
        Method::CacheBlendGradual { share: Method::SHARE },
        Method::KvShare { share: Method::SHARE, refresh: None },
        Method::CacheCraft { alpha: 1.0 },
        Method::Pie,
        Method::Ape { temperature: 0.9, scale: 0.9 },
        Method::KvComm { gamma: 0.3, anchors: 20 },
    ];
    /// The layer in which deviations are measured: the first that has heard of other tokens.
    const CHECK: usize = 1;
    /// What KVShare takes for no deviation, of the sum of squares over keys and values: above what half floats round.
    const LEAST: f32 = 0.1;

    /// A method by its name, with its defaults.
    ///
    /// # Errors
    /// [`EngineError::InvalidParameter`] lists the known ones.
    pub fn named(name: &str) -> Result<Method, EngineError> {
        Method::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Method::ALL.iter().map(Method::name).collect();
            EngineError::invalid("kv.reuse", name, format!("one of {}", known.join(", ")))
        })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Exact => "exact",
            Method::CacheBlend { .. } => "cacheblend",
            Method::CacheBlendGradual { .. } => "cacheblend-gradual",
            Method::KvShare { .. } => "kvshare",
            Method::CacheCraft { .. } => "cache-craft",
            Method::Pie => "pie",
            Method::Ape { .. } => "ape",
            Method::KvComm { .. } => "kvcomm",
        }
    }

    /// Whether it knows chunks by what they are among others: an edited text has none.
    pub fn wants_chunks(&self) -> bool {
        matches!(self, Method::CacheCraft { .. } | Method::Ape { .. } | Method::KvComm { .. })
    }

    /// Rows that are computed anew, for a model of so many layers.
    pub fn select(&self, layers: usize) -> Select {
        let deviating = |of, filters, least| Select::Deviating { of, filters, least };
        let filter = |after: usize, share: f64| Filter { after, share: share.min(1.0) };
        match *self {
            Method::Exact => deviating(Deviation::Values, Vec::new(), 0.0),
            Method::CacheBlend { share } => deviating(Deviation::Values, vec![filter(Method::CHECK, share)], 0.0),
            Method::KvShare { share, .. } => {
                deviating(Deviation::Both, vec![filter(Method::CHECK, share)], Method::LEAST)
            }
            // Cache-Craft's rows are known when its chunks are.
            Method::Pie | Method::CacheCraft { .. } | Method::Ape { .. } | Method::KvComm { .. } => {
                Select::Rows(Vec::new())
            }
            Method::CacheBlendGradual { share } => {
                // A quarter of the layers each; the mean is the share.
                let parts = [1.4, 1.1, 0.9, 0.6];
                let quarter = |i: usize| (Method::CHECK + 1).max(i * layers / 4) - usize::from(i > 0);
                let filters = parts.iter().enumerate().map(|(i, part)| match i {
                    0 => filter(Method::CHECK, part * share),
                    _ => filter(quarter(i), part * share),
                });
                let mut filters: Vec<Filter> = filters.collect();
                filters.dedup_by_key(|filter| filter.after);
                deviating(Deviation::Values, filters, 0.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradual_shares_fall_and_have_the_share_as_their_mean() {
        for layers in [8, 30, 61] {
            let method = Method::CacheBlendGradual { share: 0.2 };
            let Select::Deviating { filters, .. } = method.select(layers) else { panic!() };
            assert!(filters.windows(2).all(|pair| pair[0].after < pair[1].after && pair[0].share > pair[1].share));
            let ends = filters.iter().skip(1).map(|filter| filter.after + 1).chain([layers]);
            let mut from = Method::CHECK + 1;
            let rows: f64 = (filters.iter().zip(ends))
                .map(|(filter, end)| {
                    let rows = (end - from) as f64 * filter.share;
                    from = end;
                    rows
                })
                .sum();
            let mean = rows / (layers - Method::CHECK - 1) as f64;
            assert!((mean - 0.2).abs() < 0.02, "{layers}: {mean} {filters:?}");
        }
    }
}
