//! What a sequence's lanes hold and how: the outcome of a recipe on a model.

use crate::encode::KvFormat;
use crate::encode::codec::{Shape, Side};
use crate::encode::pipeline::Pipeline;
use crate::lane::Lane;
use crate::reduce::{Keep, When};
use crate::{KvError, LayerGeometry};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::{Arc, OnceLock};

/// How the body of a lane is written.
#[derive(Clone, Debug)]
pub struct Body {
    /// Keys of a page of 64 tokens.
    pub k: Arc<Pipeline>,
    /// Values of a page of 64 tokens.
    pub v: Arc<Pipeline>,
    digest: Arc<OnceLock<[u8; 32]>>,
}

impl Body {
    /// A body whose keys and values these pipelines write.
    pub fn new(k: Arc<Pipeline>, v: Arc<Pipeline>) -> Body {
        Body { k, v, digest: Arc::default() }
    }

    /// Tells formats apart: a digest of the stages' descriptions and the shapes they write.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| self.compute_digest())
    }

    fn compute_digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for side in [&self.k, &self.v] {
            hasher.update(format!("{:?}", side.shape()).as_bytes());
            for stage in side.describe() {
                hasher.update(&(stage.len() as u64).to_le_bytes()).update(stage.as_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }
}

/// One lane: `sinks | body | window` in position order.
///
/// Pages hold 64 tokens, counted from position zero. Those with a sink in them stay exact. A query at position `p` reads
/// any other page, whose tokens end before `end`, in its body format if `p >= end + window` and exactly before, so that the
/// result does not depend on how the tokens were cut into steps.
#[derive(Clone, Debug)]
pub struct LanePlan {
    /// First tokens that stay exact, in whole pages.
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
    /// What is kept of a context; everything where `None`.
    pub keep: Option<Keep>,
    /// Digest of the profile that tables were taken from, where any were.
    pub profile: Option<[u8; 32]>,
}

impl CachePlan {
    /// Everything in plain elements: `layers` gives the KV heads of each layer.
    pub fn exact(format: KvFormat, layers: impl Iterator<Item = usize>) -> CachePlan {
        let lane = LanePlan { sinks: 0, window: 0, exact: format, body: None, importance: false };
        CachePlan {
            name: format.to_string(),
            lanes: layers.map(|heads| vec![lane.clone(); heads]).collect(),
            keep: None,
            profile: None,
        }
    }
}

impl CachePlan {
    /// Whether a context stays in plain elements until its end, when it is reduced.
    pub fn holds(&self) -> bool {
        self.keep.as_ref().is_some_and(|keep| keep.when != When::Decode)
    }

    /// Tells apart plans that write the same tokens to other bytes, before anything is reduced: sequences whose plans have the
    /// same digest can share pages. All those that hold a context in the same plain elements can, whatever they keep of it.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let holds = self.holds();
        for (layer, lanes) in self.lanes.iter().enumerate() {
            for lane in lanes {
                hasher.update(&(layer as u64).to_le_bytes()).update(&[lane.exact.k as u8, lane.exact.v as u8]);
                if let Some(body) = lane.body.as_ref().filter(|_| !holds) {
                    let places = [lane.sinks as u64, lane.window as u64].map(u64::to_le_bytes);
                    hasher.update(b"body").update(places.as_flattened()).update(&body.digest());
                }
            }
        }
        if let Some(profile) = self.profile.filter(|_| !holds) {
            hasher.update(b"profile").update(&profile);
        }
        *hasher.finalize().as_bytes()
    }

    /// Bytes of `tokens` of every head of the layers that a method reduces, in whole pages, with their positions.
    fn bytes_of(&self, layers: &[LayerGeometry], tokens: usize) -> u64 {
        let mut sum = 0;
        for (layer, (lanes, g)) in self.lanes.iter().zip(layers).enumerate().filter(|(_, (_, g))| g.window.is_none()) {
            for (head, plan) in lanes.iter().enumerate() {
                sum += Lane::new(layer, head, g.head_dim, plan).bytes_of(tokens) + 4 * tokens;
            }
        }
        sum as u64
    }

    /// The most tokens of every head that take no more than `bytes`.
    pub(crate) fn tokens_within(&self, layers: &[LayerGeometry], bytes: u64) -> usize {
        let (mut low, mut high) = (0, 1 << 32);
        while low + 1 < high {
            let middle = (low + high) / 2;
            if self.bytes_of(layers, middle) <= bytes { low = middle } else { high = middle }
        }
        low
    }

    /// Whether it was made for layers like these.
    ///
    /// # Errors
    /// [`KvError::Config`] names the first layer that differs.
    pub fn check(&self, layers: &[LayerGeometry]) -> Result<(), KvError> {
        let fail = |what: String| Err(KvError::Config(format!("recipe `{}`: {what}", self.name)));
        if self.lanes.len() != layers.len() {
            return fail(format!("made for {} layers, the model has {}", self.lanes.len(), layers.len()));
        }
        for (i, (lanes, g)) in self.lanes.iter().zip(layers).enumerate() {
            if lanes.len() != g.kv_heads {
                return fail(format!("layer {i}: made for {} KV heads, the model has {}", lanes.len(), g.kv_heads));
            }
            for body in lanes.iter().filter_map(|lane| lane.body.as_ref()) {
                for (side, pipeline) in [(Side::Keys, &body.k), (Side::Values, &body.v)] {
                    let want = Shape { side, tokens: PAGE_TOKENS, channels: g.head_dim };
                    if pipeline.shape() != want {
                        return fail(format!("layer {i}: writes {:?}, the model needs {want:?}", pipeline.shape()));
                    }
                }
            }
            let first = &lanes[0];
            if lanes.iter().any(|l| l.sinks != first.sinks || l.window != first.window) {
                return fail(format!("layer {i}: heads with different sinks or windows"));
            }
        }
        Ok(())
    }
}

impl LanePlan {
    /// Pages at the start that stay exact for good.
    pub fn sink_pages(&self) -> usize {
        self.sinks.div_ceil(PAGE_TOKENS)
    }

    /// Pages before this one are read in their body format by a query at `position`; all are exact where this is at most
    /// [`LanePlan::sink_pages`].
    pub fn body_end(&self, position: usize) -> usize {
        match self.body {
            Some(_) => (position.saturating_sub(self.window) / PAGE_TOKENS).max(self.sink_pages()),
            None => 0,
        }
    }
}
