//! Which rows of moved stretches are computed anew.

use std::fmt;
use std::str::FromStr;

use cachalot_kv::mend::{Deviation, Filter, Refresh, Select};

use crate::EngineError;

/// A method's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// None: a prompt is computed whole.
    Exact,
    /// The rows whose values deviate most in the second layer go through all others (CacheBlend, Yao et al., 2025, as its code
    /// does it).
    CacheBlend,
    /// The same with fewer rows in every quarter of the layers, as its paper has it: of those that are still computed, the
    /// ones that deviate most go on.
    CacheBlendGradual,
    /// Keys and values are compared, and rows that hardly deviate are not computed whatever the share (KVShare, Yang et al.,
    /// 2025; its formulas are a reconstruction).
    KvShare,
    /// Rows that looked outside their chunk most when it was computed, as many as what stands before it now differs from then
    /// (Cache-Craft, Agarwal et al., 2025; see [`super::craft`]).
    CacheCraft,
    /// No row: stretches are moved, and that is all (PIE, He et al., 2024, for texts that are edited).
    Pie,
}

const METHODS: [(&str, Method); 6] = [
    ("exact", Method::Exact),
    ("cacheblend", Method::CacheBlend),
    ("cacheblend-gradual", Method::CacheBlendGradual),
    ("kvshare", Method::KvShare),
    ("cache-craft", Method::CacheCraft),
    ("pie", Method::Pie),
];

/// How stretches that were computed elsewhere are used: `cacheblend`, or `cacheblend(share=0.2)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Blend {
    /// Which rows are computed anew.
    pub method: Method,
    /// Of the moved rows, beyond those of the first layers; from 0 to 1.
    pub share: f64,
    /// Cut prompts whose client marks nothing by their content.
    pub auto: bool,
    /// Cache-Craft's factor of the rows that are computed again: its α, calibrated for each model there.
    pub alpha: f64,
    /// KVShare's rows that are computed again while an answer is generated.
    pub refresh: Option<Refresh>,
}

impl Blend {
    /// CacheBlend's share of rows.
    pub const SHARE: f64 = 0.15;
    /// The layer in which deviations are measured: the first that has heard of other tokens.
    const CHECK: usize = 1;
    /// What KVShare takes for no deviation, of the sum of squares over keys and values: above what half floats round.
    const LEAST: f32 = 0.1;

    /// A method with its defaults.
    pub fn of(method: Method) -> Blend {
        Blend { method, share: Blend::SHARE, auto: false, alpha: 1.0, refresh: None }
    }

    /// A method by its name, with what is not the default.
    ///
    /// # Errors
    /// [`EngineError::InvalidParameter`] names what is wrong.
    pub fn named(name: &str, share: Option<f64>) -> Result<Blend, EngineError> {
        let Some(&(_, method)) = METHODS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = METHODS.iter().map(|(name, _)| *name).collect();
            return Err(EngineError::invalid("kv.reuse", name, format!("one of {}", known.join(", "))));
        };
        let blend = Blend::of(method);
        share.map_or(Ok(blend.clone()), |share| blend.with("share", share))
    }

    /// For a model of so many layers.
    pub fn select(&self, layers: usize) -> Select {
        let deviating = |of, filters, least| Select::Deviating { of, filters, least };
        let filter = |after: usize, part: f64| Filter { after, share: (part * self.share).min(1.0) };
        let first = filter(Blend::CHECK, 1.0);
        match self.method {
            Method::Exact => deviating(Deviation::Values, Vec::new(), 0.0),
            Method::CacheBlend => deviating(Deviation::Values, vec![first], 0.0),
            Method::KvShare => deviating(Deviation::Both, vec![first], Blend::LEAST),
            // Cache-Craft's rows are known when its chunks are.
            Method::Pie | Method::CacheCraft => Select::Rows(Vec::new()),
            Method::CacheBlendGradual => {
                // A quarter of the layers each; the mean is the share.
                let parts = [1.4, 1.1, 0.9, 0.6];
                let quarter = |i: usize| (Blend::CHECK + 1).max(i * layers / 4) - usize::from(i > 0);
                let filters = parts.iter().enumerate().map(|(i, part)| match i {
                    0 => filter(Blend::CHECK, *part),
                    _ => filter(quarter(i), *part),
                });
                let mut filters: Vec<Filter> = filters.collect();
                filters.dedup_by_key(|filter| filter.after);
                deviating(Deviation::Values, filters, 0.0)
            }
        }
    }
}

impl fmt::Display for Blend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = METHODS.iter().find(|(_, method)| *method == self.method).map_or("", |(name, _)| name);
        f.write_str(name)?;
        super::options::write(self, f)
    }
}

impl FromStr for Blend {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Blend, EngineError> {
        let wrong = || EngineError::invalid("kv.reuse", text, "a method's name, or name(share=0.15)");
        let Some((name, arguments)) = text.split_once('(') else { return Blend::named(text.trim(), None) };
        let arguments = arguments.trim().strip_suffix(')').ok_or_else(wrong)?;
        let mut blend = Blend::named(name.trim(), None)?;
        for argument in arguments.split(',') {
            let (key, value) = argument.split_once('=').ok_or_else(wrong)?;
            blend = blend.with(key.trim(), value.trim().parse().map_err(|_| wrong())?)?;
        }
        Ok(blend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_as_they_are_written() {
        for text in ["exact", "pie", "cacheblend(share=0.15)", "kvshare(share=0.5)", "cacheblend-gradual(share=1)"] {
            assert_eq!(text.parse::<Blend>().unwrap().to_string(), text);
        }
        assert_eq!("cacheblend".parse::<Blend>().unwrap().share, Blend::SHARE);
        for text in ["", "blend", "cacheblend(share=2)", "cacheblend(share=NaN)", "cacheblend(share", "cacheblend(x=1)"]
        {
            assert!(text.parse::<Blend>().is_err(), "{text}");
        }
    }

    #[test]
    fn gradual_shares_fall_and_have_the_share_as_their_mean() {
        for layers in [8, 30, 61] {
            let blend = Blend::named("cacheblend-gradual", Some(0.2)).unwrap();
            let Select::Deviating { filters, .. } = blend.select(layers) else { panic!() };
            assert!(filters.windows(2).all(|pair| pair[0].after < pair[1].after && pair[0].share > pair[1].share));
            let ends = filters.iter().skip(1).map(|filter| filter.after + 1).chain([layers]);
            let mut from = Blend::CHECK + 1;
            let rows: f64 = (filters.iter().zip(ends))
                .map(|(filter, end)| {
                    let rows = (end - from) as f64 * filter.share;
                    from = end;
                    rows
                })
                .sum();
            let mean = rows / (layers - Blend::CHECK - 1) as f64;
            assert!((mean - 0.2).abs() < 0.02, "{layers}: {mean} {filters:?}");
        }
    }
}
