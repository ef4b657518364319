//! What lanes of several sequences have in common.

use super::{Lane, Slot};
use crate::page::SealedPage;
use std::sync::Arc;

impl Lane {
    /// Page `index` in the form that is asked for, where it has that form only and others may hold it too.
    pub(crate) fn shared(&self, index: usize, body: bool) -> Option<&Arc<SealedPage>> {
        let entry = self.entry(index)?;
        match (&entry.slot, &entry.body) {
            (Slot::Shared(page), None) if Arc::strong_count(page) > 1 && page.is_plain() != body => Some(page),
            _ => None,
        }
    }

    /// Which page `index` is, where others may hold it.
    pub(crate) fn shared_address(&self, index: usize) -> Option<usize> {
        self.shared(index, true).or(self.shared(index, false)).map(|page| Arc::as_ptr(page).addr())
    }

    /// Tells lanes apart that read a page in different ways: what a reduction left, and the pipelines of their body where it is
    /// read in that format. Equal only where these are the same in memory.
    pub(crate) fn manner(&self, body: bool) -> [usize; 3] {
        let pipelines = self.plan.body.as_ref().filter(|_| body);
        let address = pipelines.map_or([0; 2], |body| [Arc::as_ptr(&body.k).addr(), Arc::as_ptr(&body.v).addr()]);
        [address[0], address[1], self.kept.as_ref().map_or(0, |kept| Arc::as_ptr(kept).addr())]
    }
}
