//! Which rows of moved stretches are computed anew.

use std::fmt;
use std::str::FromStr;

use cachalot_kv::mend::{Deviation, Filter, Select};

use super::Knobs;
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
    /// No row: stretches are moved, and that is all (PIE, He et al., 2024, for texts that are edited).
    Pie,
    /// Marked parts are read side by side, none knowing of the others (APE, Yang et al., 2025).
    Ape,
    /// Marked parts are moved and corrected by what others deviated by in their place (KVCOMM, Ye et al., 2025).
    KvComm,
}

const METHODS: [(&str, Method); 7] = [
    ("exact", Method::Exact),
    ("cacheblend", Method::CacheBlend),
    ("cacheblend-gradual", Method::CacheBlendGradual),
    ("kvshare", Method::KvShare),
    ("pie", Method::Pie),
    ("ape", Method::Ape),
    ("kvcomm", Method::KvComm),
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
    /// What single methods want to know.
    pub knobs: Knobs,
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
        Blend { method, share: Blend::SHARE, auto: false, knobs: Knobs::default() }
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
        let share = share.unwrap_or(Blend::SHARE);
        if !(0.0..=1.0).contains(&share) {
            return Err(EngineError::invalid("kv.reuse.share", share, "between 0 and 1"));
        }
        Ok(Blend { share, ..Blend::of(method) })
    }

    /// With something by its name, where the method has it.
    ///
    /// # Errors
    /// [`EngineError::InvalidParameter`] names what is wrong.
    pub fn with(self, name: &str, value: f64) -> Result<Blend, EngineError> {
        let mut knobs = self.knobs;
        match (name, self.method) {
            ("share", method) if knobs.list(method).is_none() => {
                Blend::named(self.method_name(), Some(value)).map(|blend| Blend { auto: self.auto, ..blend })
            }
            _ => knobs.set(self.method, name, value).map(|()| Blend { knobs, ..self }),
        }
    }

    /// The method's name.
    pub fn method_name(&self) -> &'static str {
        METHODS.iter().find(|(_, method)| *method == self.method).map_or("", |(name, _)| name)
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
            Method::Pie | Method::Ape | Method::KvComm => Select::Rows(Vec::new()),
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
        let name = self.method_name();
        if let Some(knobs) = self.knobs.list(self.method) {
            return write!(f, "{name}({knobs})");
        }
        match self.method {
            Method::Exact | Method::Pie => f.write_str(name),
            _ => write!(f, "{name}(share={})", self.share),
        }
    }
}

impl FromStr for Blend {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Blend, EngineError> {
        let wrong = || EngineError::invalid("kv.reuse", text, "a method's name, or name(share=0.15)");
        let Some((name, arguments)) = text.split_once('(') else { return Blend::named(text.trim(), None) };
        let argument = arguments.trim().strip_suffix(')').ok_or_else(wrong)?;
        argument.split(',').try_fold(Blend::named(name.trim(), None)?, |blend, argument| {
            let (key, value) = argument.split_once('=').ok_or_else(wrong)?;
            blend.with(key.trim(), value.trim().parse().map_err(|_| wrong())?)
        })
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
        for text in ["ape(temperature=0.8, scale=1)", "kvcomm(gamma=0.5, anchors=7)"] {
            assert_eq!(text.parse::<Blend>().unwrap().to_string(), text);
        }
        let ape: Blend = "ape".parse().unwrap();
        assert_eq!((ape.knobs.temperature, ape.knobs.scale), (0.9, 0.9));
        for text in ["ape(share=0.1)", "ape(temperature=0)", "kvcomm(scale=1)", "kvcomm(gamma=NaN)", "pie(gamma=0.1)"] {
            assert!(text.parse::<Blend>().is_err(), "{text}");
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
