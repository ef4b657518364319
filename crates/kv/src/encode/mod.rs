//! **encode**: how what stays in the cache is written.
//!
//! So far the plain element types; a page's keys and values each have their own.

pub mod codec;
mod element;
pub mod math;
pub mod part;
pub mod pipeline;
mod plain;
pub mod quantizer;
pub mod registry;
pub mod stage;
pub mod transform;

pub(crate) use plain::{read_keys, read_values, write_keys, write_values};

use crate::KvError;
use cachalot_kernels::attention::Element;
use std::fmt;
use std::str::FromStr;

/// The formats of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct KvFormat {
    /// Of the keys.
    pub k: Element,
    /// Of the values.
    pub v: Element,
}

impl KvFormat {
    /// Names that parse, without the two-sided form.
    pub const NAMES: &'static [&'static str] = &["f32", "f16", "bf16"];

    /// Bytes that one token of one lane takes, `width` channels wide.
    pub fn token_bytes(self, width: usize) -> usize {
        width * (self.k.bytes() + self.v.bytes())
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.k == self.v { write!(f, "{}", self.k) } else { write!(f, "k={},v={}", self.k, self.v) }
    }
}

impl FromStr for KvFormat {
    type Err = KvError;

    fn from_str(s: &str) -> Result<KvFormat, KvError> {
        let unknown = || KvError::UnknownFormat { name: s.to_owned(), known: Self::NAMES.join(", ") };
        let element = |s: &str| s.trim().parse::<Element>().map_err(|()| unknown());
        match s.split_once(',') {
            None => element(s).map(|e| KvFormat { k: e, v: e }),
            Some((k, v)) => {
                let k = k.trim().strip_prefix("k=").ok_or_else(unknown)?;
                let v = v.trim().strip_prefix("v=").ok_or_else(unknown)?;
                Ok(KvFormat { k: element(k)?, v: element(v)? })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_print() {
        for name in ["f32", "f16", "bf16", "k=f16,v=bf16"] {
            assert_eq!(name.parse::<KvFormat>().unwrap().to_string(), name);
        }
        assert_eq!("k=f16,v=f16".parse::<KvFormat>().unwrap().to_string(), "f16");
        for bad in ["", "q3", "f16,f16", "v=f16,k=f16", "k=,v=f16"] {
            let message = bad.parse::<KvFormat>().unwrap_err().to_string();
            assert!(message.contains("known are f32, f16, bf16"), "{message}");
        }
    }
}
