//! Numbers that methods take.

use std::fmt;

use cachalot_kv::mend::Refresh;

use super::{Blend, Method};
use crate::EngineError;

impl Blend {
    /// Names of the numbers that some method takes.
    pub const OPTIONS: [&str; 4] = ["share", "alpha", "every", "rows"];
    /// Tokens of an answer between two times that rows are computed again, where only their number is said.
    const EVERY: usize = 32;
    /// Rows that are then computed again, where only the tokens between are said.
    const ROWS: usize = 8;
    /// Most of either.
    const MOST: f64 = 65_536.0;

    /// With another number: `share` of 0 to 1; `alpha` of 0 to 100, of `cache-craft`; `every` and `rows`, of `kvshare`. No rows
    /// switch that off.
    ///
    /// # Errors
    /// [`EngineError::InvalidParameter`] names what is wrong.
    pub fn with(self, name: &str, value: f64) -> Result<Blend, EngineError> {
        let within = |name, low: f64, high: f64| match (low..=high).contains(&value) {
            true => Ok(value),
            false => Err(EngineError::invalid(name, value, format!("between {low} and {high}"))),
        };
        let whole = |name, low: f64| match value.fract() == 0.0 {
            true => within(name, low, Blend::MOST).map(|value| value as usize),
            false => Err(EngineError::invalid(name, value, "a whole number")),
        };
        let refresh = self.refresh.unwrap_or(Refresh { every: Blend::EVERY, rows: Blend::ROWS });
        match (name, self.method) {
            ("share", _) => Ok(Blend { share: within("kv.reuse.share", 0.0, 1.0)?, ..self }),
            ("alpha", Method::CacheCraft) => Ok(Blend { alpha: within("kv.reuse.alpha", 0.0, 100.0)?, ..self }),
            ("every", Method::KvShare) => {
                let every = whole("kv.reuse.every", 1.0)?;
                Ok(Blend { refresh: Some(Refresh { every, ..refresh }), ..self })
            }
            ("rows", Method::KvShare) => {
                let rows = whole("kv.reuse.rows", 0.0)?;
                Ok(Blend { refresh: Some(Refresh { rows, ..refresh }).filter(|refresh| refresh.rows > 0), ..self })
            }
            _ => {
                let allowed = "share; alpha of cache-craft; every and rows of kvshare";
                Err(EngineError::invalid("kv.reuse", name, allowed))
            }
        }
    }
}

/// The numbers of a method, as they are read.
pub(super) fn write(blend: &Blend, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match (blend.method, blend.refresh) {
        (Method::Exact | Method::Pie, _) => Ok(()),
        (Method::CacheCraft, _) => write!(f, "(alpha={})", blend.alpha),
        (_, Some(Refresh { every, rows })) => write!(f, "(share={}, every={every}, rows={rows})", blend.share),
        _ => write!(f, "(share={})", blend.share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for text in ["cache-craft(alpha=0.5)", "kvshare(share=0.2, every=16, rows=4)"] {
            assert_eq!(text.parse::<Blend>().unwrap().to_string(), text);
        }
        let refresh = |text: &str| text.parse::<Blend>().unwrap().refresh;
        assert_eq!(refresh("kvshare(rows=4)"), Some(Refresh { every: 32, rows: 4 }));
        assert_eq!(refresh("kvshare(every=7)"), Some(Refresh { every: 7, rows: 8 }));
        assert_eq!((refresh("kvshare(rows=0)"), refresh("kvshare")), (None, None));
        for text in [
            "cache-craft(rows=3)",
            "cacheblend(alpha=1)",
            "cache-craft(alpha=-1)",
            "cache-craft(alpha=NaN)",
            "kvshare(every=0)",
            "kvshare(rows=1.5)",
            "kvshare(rows=1e9)",
            "kvshare(share=0.1,)",
        ] {
            assert!(text.parse::<Blend>().is_err(), "{text}");
        }
    }
}
