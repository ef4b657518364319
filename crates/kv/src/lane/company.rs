//! What lanes of several sequences have in common.

use super::{Lane, Slot};
use crate::page::SealedPage;
use std::sync::Arc;

impl Lane {
    /// Page `index`, where others may hold it too and it has one form only.
    pub(crate) fn shared(&self, index: usize) -> Option<&Arc<SealedPage>> {
        let entry = self.entry(index)?;
        match (&entry.slot, &entry.body) {
            (Slot::Shared(page), None) if Arc::strong_count(page) > 1 => Some(page),
            _ => None,
        }
    }

    /// Tells lanes apart that read a page in different ways: the pipelines of their body, and what a reduction left. Equal
    /// only where these are the same in memory.
    pub(crate) fn manner(&self) -> [usize; 3] {
        let body = self.plan.body.as_ref();
        let kept = self.kept.as_ref().map_or(0, |kept| Arc::as_ptr(kept).addr());
        [body.map_or(0, |body| Arc::as_ptr(&body.k).addr()), body.map_or(0, |body| Arc::as_ptr(&body.v).addr()), kept]
    }
}
