//! Which pages a sequence needs to go on from the end of a block. See `docs/kv-file.md`, *Complete*.

use super::head::BLOCK_TOKENS;
use super::{Entry, KvFile};
use crate::{BlockKey, Form, StoreError};
use serde_json::{Value, json};
use std::collections::HashMap;

/// A layer, in what decides about its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// Channels of a head.
    pub dim: u32,
    /// A token sees itself and so many less one before it; all where `None`.
    pub sliding: Option<u64>,
    /// First tokens that stay exact, in whole pages.
    pub sinks: u64,
    /// Tokens behind a page before it is encoded.
    pub exact: u64,
    /// By KV head: whether the body is written by a recipe.
    pub encoded: Vec<bool>,
}

/// What is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A whole block, and so all before it.
    Block(BlockKey),
    /// A page.
    Page {
        /// Position of its first token.
        start: u64,
        /// Its layer.
        layer: u16,
        /// Its KV head.
        head: u16,
        /// Its form.
        form: Form,
    },
}

impl Layer {
    /// The form in which the page of this head at `start` is needed to go on at position `end`, if it is.
    pub fn needs(&self, head: usize, start: u64, end: u64) -> Option<Form> {
        let last = start.saturating_add(BLOCK_TOKENS as u64);
        if self.sliding.is_some_and(|window| last.saturating_add(window) <= end.saturating_add(1)) {
            return None;
        }
        let encoded = self.encoded.get(head).copied().unwrap_or(false) && start >= self.sinks;
        Some(if encoded && end < last.saturating_add(self.exact) { Form::Exact } else { Form::Kept })
    }

    pub(super) fn to_json(&self) -> Value {
        let Layer { dim, sliding, sinks, exact, encoded } = self;
        json!({"dim": dim, "sliding": sliding, "sinks": sinks, "exact": exact, "encoded": encoded})
    }

    pub(super) fn from_json(json: &Value) -> Option<Layer> {
        let sliding = match &json["sliding"] {
            Value::Null => None,
            window => Some(window.as_u64()?),
        };
        Some(Layer {
            dim: json["dim"].as_u64()?.try_into().ok()?,
            sliding,
            sinks: json["sinks"].as_u64()?,
            exact: json["exact"].as_u64()?,
            encoded: json["encoded"].as_array()?.iter().map(Value::as_bool).collect::<Option<_>>()?,
        })
    }
}

impl KvFile {
    /// What this file lacks for a sequence to go on from the end of block `i`; `None` where it does not say how its
    /// layers are kept. Looks at heads of blocks only: whether a page is intact is seen when it is read.
    ///
    /// # Errors
    /// [`StoreError::Io`]; [`StoreError::Corrupt`] where there is no block `i`.
    pub fn missing(&self, i: usize) -> Result<Option<Vec<Missing>>, StoreError> {
        let layers = self.identity().map_or(&[][..], |identity| &identity.about.layers);
        let last = self.block(i)?;
        if layers.is_empty() {
            return Ok(None);
        }
        let places: HashMap<BlockKey, usize> = self.blocks().iter().enumerate().map(|(i, b)| (b.key, i)).collect();
        let end = last.start + last.tokens.len() as u64;
        let (mut missing, mut at) = (Vec::new(), i);
        loop {
            let head = match self.head(at) {
                Ok(head) => head,
                Err(error @ StoreError::Io { .. }) => return Err(error),
                Err(_) => {
                    missing.push(Missing::Block(self.block(at)?.key));
                    return Ok(Some(missing));
                }
            };
            let find = |page: &Entry| (page.layer, page.head, page.form);
            for (layer, of) in layers.iter().enumerate() {
                for lane in 0..of.encoded.len() {
                    let Some(form) = of.needs(lane, head.start, end) else { continue };
                    let (layer, lane) = (layer as u16, lane as u16);
                    if head.pages.binary_search_by_key(&(layer, lane, form), find).is_err() {
                        missing.push(Missing::Page { start: head.start, layer, head: lane, form });
                    }
                }
            }
            let Some(parent) = head.parent else { return Ok(Some(missing)) };
            // A parent at another place would be another sequence's.
            let fits = |&place: &usize| {
                let block = &self.blocks()[place];
                block.tokens.len() == BLOCK_TOKENS && block.start + BLOCK_TOKENS as u64 == head.start
            };
            match places.get(&parent).copied().filter(fits) {
                Some(place) => at = place,
                None => {
                    missing.push(Missing::Block(parent));
                    return Ok(Some(missing));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sliding_window_needs_the_pages_that_its_next_token_sees() {
        let layer = Layer { sliding: Some(64), encoded: vec![false], ..Layer::default() };
        // A token at 128 sees 65 to 128; one at 127 sees 64; one at 126 sees 63.
        assert_eq!([0, 64, 128].map(|start| layer.needs(0, start, 128)), [None, Some(Form::Kept), Some(Form::Kept)]);
        assert_eq!(layer.needs(0, 0, 127), None);
        assert_eq!(layer.needs(0, 0, 126), Some(Form::Kept));
    }

    /// The rule of the document beside that of the cache itself.
    #[test]
    fn forms_are_those_that_the_cache_reads() {
        let model = cachalot_kv::LayerGeometry {
            heads: 1,
            kv_heads: 1,
            head_dim: 16,
            scale: 1.0,
            softcap: None,
            window: None,
            rope: None,
            output: None,
        };
        let recipe = cachalot_kv::Registry::all().iter().find(|recipe| recipe.name == "kivi-2").unwrap();
        let plan = cachalot_kv::recipe::calibrate::synthetic(recipe, &[model]).unwrap();
        let mut lane = plan.lanes[0][0].clone();
        assert!(lane.body.is_some());
        for (sinks, window) in [(0, 0), (64, 0), (4, 100), (128, 64)] {
            (lane.sinks, lane.window) = (sinks, window);
            let layer = Layer { sinks: sinks as u64, exact: window as u64, encoded: vec![true], ..Layer::default() };
            for end in 0..700 {
                for page in 0..=end / 64 {
                    let kept = page < lane.sink_pages() || page < lane.body_end(end);
                    let form = layer.needs(0, page as u64 * 64, end as u64);
                    assert_eq!(
                        form,
                        Some(if kept { Form::Kept } else { Form::Exact }),
                        "{page} {end} {sinks} {window}"
                    );
                }
            }
        }
    }
}
