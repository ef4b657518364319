//! How methods and their numbers are written.

use std::fmt;
use std::str::FromStr;

use cachalot_kv::mend::Refresh;

use super::{Blend, Method};
use crate::EngineError;

/// Tokens of an answer between two times that rows are computed again, where only their number is said; and rows that are then
/// computed again, where only the tokens between are said.
const REFRESH: Refresh = Refresh { every: 32, rows: 8 };
/// Most of either.
const MOST: f64 = 65_536.0;

impl Method {
    /// Names of the numbers that some method takes.
    pub const OPTIONS: [&str; 8] = ["share", "alpha", "every", "rows", "temperature", "scale", "gamma", "anchors"];

    /// With another number. No `rows` switch KVShare's second stage off.
    ///
    /// # Errors
    /// [`EngineError::InvalidParameter`] where the method has no such number, or not with this value.
    pub fn with(mut self, name: &str, value: f64) -> Result<Method, EngineError> {
        let wrong = |allowed: String| EngineError::invalid("kv.reuse", format!("{name}={value}"), allowed);
        let within = |low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(value),
            false => Err(wrong(format!("between {low} and {high}"))),
        };
        let whole = |low: f64, high: f64| match value.fract() == 0.0 {
            true => within(low, high).map(|value| value as usize),
            false => Err(wrong("a whole number".to_owned())),
        };
        match (&mut self, name) {
            (
                Method::CacheBlend { share } | Method::CacheBlendGradual { share } | Method::KvShare { share, .. },
                "share",
            ) => *share = within(0.0, 1.0)?,
            (Method::KvShare { refresh, .. }, "every") => {
                *refresh = Some(Refresh { every: whole(1.0, MOST)?, ..refresh.unwrap_or(REFRESH) });
            }
            (Method::KvShare { refresh, .. }, "rows") => {
                let rows = whole(0.0, MOST)?;
                *refresh = Some(Refresh { rows, ..refresh.unwrap_or(REFRESH) }).filter(|refresh| refresh.rows > 0);
            }
            (Method::CacheCraft { alpha }, "alpha") => *alpha = within(0.0, 100.0)?,
            (Method::Ape { temperature, .. }, "temperature") => *temperature = within(0.01, 10.0)?,
            (Method::Ape { scale, .. }, "scale") => *scale = within(0.0, 10.0)?,
            (Method::KvComm { gamma, .. }, "gamma") => *gamma = within(0.0, 1.0)?,
            (Method::KvComm { anchors, .. }, "anchors") => *anchors = whole(2.0, 1000.0)?,
            _ => return Err(wrong(format!("something that `{}` takes", self.name()))),
        }
        Ok(self)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Method::Exact | Method::Pie => Ok(()),
            Method::KvShare { share, refresh: Some(Refresh { every, rows }) } => {
                write!(f, "(share={share}, every={every}, rows={rows})")
            }
            Method::CacheBlend { share } | Method::CacheBlendGradual { share } | Method::KvShare { share, .. } => {
                write!(f, "(share={share})")
            }
            Method::CacheCraft { alpha } => write!(f, "(alpha={alpha})"),
            Method::Ape { temperature, scale } => write!(f, "(temperature={temperature}, scale={scale})"),
            Method::KvComm { gamma, anchors } => write!(f, "(gamma={gamma}, anchors={anchors})"),
        }
    }
}

impl fmt::Display for Blend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.method.fmt(f)
    }
}

impl FromStr for Blend {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Blend, EngineError> {
        let wrong = || EngineError::invalid("kv.reuse", text, "a method's name, or name(share=0.15)");
        let Some((name, arguments)) = text.split_once('(') else { return Method::named(text.trim()).map(Blend::of) };
        let arguments = arguments.trim().strip_suffix(')').ok_or_else(wrong)?;
        let method = arguments.split(',').try_fold(Method::named(name.trim())?, |method, argument| {
            let (key, value) = argument.split_once('=').ok_or_else(wrong)?;
            method.with(key.trim(), value.trim().parse().map_err(|_| wrong())?)
        })?;
        Ok(Blend::of(method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(text: &str) -> Method {
        text.parse::<Blend>().unwrap().method
    }

    #[test]
    fn methods_are_read_as_they_are_written() {
        for text in [
            "exact",
            "pie",
            "cacheblend(share=0.15)",
            "cacheblend-gradual(share=1)",
            "kvshare(share=0.5)",
            "kvshare(share=0.2, every=16, rows=4)",
            "cache-craft(alpha=0.5)",
            "ape(temperature=0.8, scale=1)",
            "kvcomm(gamma=0.5, anchors=7)",
        ] {
            assert_eq!(method(text).to_string(), text);
        }
        assert!(Method::ALL.iter().all(|known| method(known.name()) == *known && method(&known.to_string()) == *known));
        let refresh = |text: &str| match method(text) {
            Method::KvShare { refresh, .. } => refresh,
            _ => None,
        };
        assert_eq!(refresh("kvshare(rows=4)"), Some(Refresh { every: 32, rows: 4 }));
        assert_eq!(refresh("kvshare(every=7)"), Some(Refresh { every: 7, rows: 8 }));
        assert_eq!((refresh("kvshare(rows=0)"), refresh("kvshare")), (None, None));
        for text in [
            "",
            "blend",
            "pie(share=0.1)",
            "cacheblend(share=2)",
            "cacheblend(share=NaN)",
            "cacheblend(share",
            "cacheblend(x=1)",
            "cacheblend(alpha=1)",
            "cache-craft(rows=3)",
            "cache-craft(alpha=-1)",
            "cache-craft(alpha=NaN)",
            "kvshare(every=0)",
            "kvshare(rows=1.5)",
            "kvshare(rows=1e9)",
            "kvshare(share=0.1,)",
            "ape(share=0.1)",
            "ape(temperature=0)",
            "kvcomm(scale=1)",
            "kvcomm(gamma=NaN)",
            "kvcomm(anchors=2.5)",
        ] {
            assert!(text.parse::<Blend>().is_err(), "{text}");
        }
    }
}
