//! What a sequence's lanes hold and how: the outcome of a recipe on a model.

use crate::encode::KvFormat;
use crate::encode::pipeline::Pipeline;
use std::sync::Arc;

/// How the body of a lane is written.
#[derive(Clone, Debug)]
pub struct Body {
    /// Keys of a page of 64 tokens.
    pub k: Arc<Pipeline>,
    /// Values of a page of 64 tokens.
    pub v: Arc<Pipeline>,
}

/// One lane: `sinks | body | window` in position order.
///
/// Page 0 holds the sinks where there are any; body pages of 64 tokens follow. A query at position `p` reads a page that
/// ends before token `end` in its body format if `p >= end + window`, else exactly, so that the result does not depend on
/// how the tokens were cut into steps.
#[derive(Clone, Debug)]
pub struct LanePlan {
    /// First tokens that stay exact; at most 64, zero for none.
    pub sinks: usize,
    /// Tokens behind a page before it is encoded.
    pub window: usize,
    /// Format of sinks, window and the page being filled.
    pub exact: KvFormat,
    /// Format of the rest; `None` where everything stays exact.
    pub body: Option<Body>,
    /// Whether the encoder wants to know how much each token matters.
    pub importance: bool,
}

/// The lanes of every layer, `[layer][head]`, made by a recipe for one model. Sequences share it.
#[derive(Clone, Debug)]
pub struct CachePlan {
    /// As users name the recipe.
    pub name: String,
    /// `[layer][head]`; all heads of a layer agree in `sinks`, `window` and `importance`.
    pub lanes: Vec<Vec<LanePlan>>,
}

impl CachePlan {
    /// Everything in plain elements: `layers` gives the KV heads of each layer.
    pub fn exact(format: KvFormat, layers: impl Iterator<Item = usize>) -> CachePlan {
        let lane = LanePlan { sinks: 0, window: 0, exact: format, body: None, importance: false };
        CachePlan { name: format.to_string(), lanes: layers.map(|heads| vec![lane.clone(); heads]).collect() }
    }
}
