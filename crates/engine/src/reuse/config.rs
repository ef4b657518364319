//! How blocks are shared.

use std::sync::Arc;

use cachalot_kv::CachePlan;
use cachalot_store::tier::PolicyKind;
use cachalot_store::{Domain, Identity};

use super::Order;
use crate::blend::{Blend, EditId};

/// How blocks are shared between sequences.
#[derive(Clone, Debug)]
pub struct ReuseConfig {
    /// Whether they are.
    pub enabled: bool,
    /// Tokens between positions that other sequences can go on from, where a recipe encodes what the window has passed. Each
    /// takes the window's pages once more, in plain elements.
    pub every: usize,
    /// How stretches that were computed in another context are used, for requests that do not say: not at all where `None`.
    pub blend: Option<Blend>,
    /// In which order requests leave the queue.
    pub order: Order,
    /// Which blocks go first when memory is wanted.
    pub evict: PolicyKind,
    /// The codec that changes what goes below the pool, where there is one: it comes back to requests that allow it.
    pub lossy: Option<Arc<str>>,
    /// Whether requests do that do not say.
    pub allow_lossy: bool,
    /// Share of the KV budget that the pinned prompts of one tenant may hold.
    pub pin_share: f64,
    /// What every block's bytes depend on, beside recipe and tenant.
    pub identity: Identity,
}

impl Default for ReuseConfig {
    fn default() -> ReuseConfig {
        ReuseConfig {
            enabled: true,
            every: 1024,
            blend: None,
            order: Order::Arrival,
            evict: PolicyKind::Lru,
            lossy: None,
            allow_lossy: false,
            pin_share: 0.25,
            identity: Identity::default(),
        }
    }
}

impl ReuseConfig {
    /// Without sharing.
    pub fn off() -> ReuseConfig {
        ReuseConfig { enabled: false, ..ReuseConfig::default() }
    }

    /// Where sequences with this plan, of this tenant and after this edit, share; nowhere where `None`.
    pub fn domain(&self, plan: &CachePlan, tenant: &str, edit: Option<EditId>) -> Option<Domain> {
        self.enabled.then(|| self.identity(plan, tenant, edit).domain())
    }

    /// All that a block's bytes depend on beside its tokens.
    pub fn identity(&self, plan: &CachePlan, tenant: &str, edit: Option<EditId>) -> Identity {
        let exact = plan.lanes.iter().flatten().next().map(|lane| lane.exact.to_string()).unwrap_or_default();
        Identity {
            dtype: exact,
            recipe: plan.name.clone(),
            plan: edit.map_or(plan.digest(), |edit| edit.mix(plan.digest())),
            tenant: tenant.to_owned(),
            ..self.identity.clone()
        }
    }
}
