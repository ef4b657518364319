//! A prompt whose front is computed while blocks behind it are read.
//!
//! A block can only be computed once all before it are there, and be read at any time: so computing comes from the front, and
//! what is read meanwhile is taken up when computing has come to it. Whoever is faster decides where they meet. Computing waits
//! a while for what is nearly there; then it goes on, and what it overtakes is given up.

use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{CachePlan, KvCache, SequenceKv};

use super::below::FetchId;
use super::fetch::{Lower, Stage};
use super::{Reuse, Thread, usable};
use crate::observe;

/// What a sequence has to do with what is read for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meanwhile {
    /// Computing goes on.
    Compute,
    /// It has come to what is read, and that is about to be there.
    Wait,
    /// It is there: see [`Reuse::adopt`].
    Take,
}

/// Blocks `from..to` are read while those before them are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beside {
    pub id: FetchId,
    pub from: usize,
    pub to: usize,
    /// Until then it is waited for.
    pub until: Duration,
}

impl Thread {
    /// Whether its sequence can begin a second time, further on, and be what it was: not one whose budget is a share of what was
    /// free, nor one that is put together from stretches of others.
    pub(super) fn may_begin_twice(&self, plan: &CachePlan) -> bool {
        plan.keep.is_none() && self.blend().is_none() && self.before.is_none() && self.wish.edit.is_none()
    }

    /// Wants nothing of what is read for it any more.
    pub(super) fn give_up(&mut self) {
        self.claim = None;
        if let Stage::Beside(_) = self.stage {
            self.stage = Stage::Done;
        }
    }
}

impl Reuse {
    /// What a sequence that has computed so many tokens is to do about the blocks that are read for it.
    pub fn meanwhile(&mut self, thread: &mut Thread, computed: usize, now: Duration) -> Meanwhile {
        let Stage::Beside(beside) = thread.stage else { return Meanwhile::Compute };
        let Some(fetch) = self.lower.fetching.get_mut(&beside.id) else {
            thread.give_up();
            return Meanwhile::Compute;
        };
        if computed >= beside.to * PAGE_TOKENS {
            thread.give_up();
            self.lower.cancel(beside.id);
            observe::fetch("overtaken");
            return Meanwhile::Compute;
        }
        if computed < beside.from * PAGE_TOKENS {
            return Meanwhile::Compute;
        }
        if fetch.left == 0 {
            return Meanwhile::Take;
        }
        fetch.waited = true;
        if now < beside.until { Meanwhile::Wait } else { Meanwhile::Compute }
    }

    /// Lets a sequence go on from behind the blocks that were read while it computed: `fresh` is an empty one of the same kind,
    /// which begins with what it has computed and what was read. Tokens that it need not compute; none where what was read is
    /// lost or damaged, and it goes on as it is.
    pub fn adopt(
        &mut self,
        cache: &KvCache,
        kv: &mut SequenceKv,
        mut fresh: SequenceKv,
        thread: &mut Thread,
        tokens: &[u32],
    ) -> usize {
        let Stage::Beside(Beside { id, .. }) = thread.stage else { return 0 };
        thread.give_up();
        let (Some(fetch), Some(domain)) = (self.lower.fetching.remove(&id), thread.domain) else { return 0 };
        self.take_up(fetch);
        let computed = kv.len();
        let found = self.tree.find(domain, tokens);
        let most = found.tokens.min(tokens.len().saturating_sub(1)).min(fresh.unobserved());
        if usable(cache, &fresh, &self.tree.along(&found.path), most).is_none_or(|at| at <= computed) {
            return 0;
        }
        let begun = self.begin(cache, &mut fresh, thread, tokens);
        // What it has computed itself was not saved.
        self.tokens -= begun.tokens.min(computed) as u64;
        if begun.tokens <= computed {
            thread.computed = computed;
            return 0;
        }
        *kv = fresh;
        self.beside += (begun.tokens - computed) as u64;
        observe::fetch("beside");
        begun.tokens - computed
    }

    /// Lets go of blocks that were read for somebody who has not come to them yet. False where there are none.
    pub(super) fn drop_fetch(&mut self) -> bool {
        let held = self.lower.fetching.iter().filter(|(_, fetch)| !fetch.parcels.is_empty());
        let Some(id) = held.map(|(id, _)| *id).max_by_key(|id| id.0) else { return false };
        self.lower.fetching.remove(&id);
        self.lower.cancel(id);
        true
    }
}

impl Lower {
    /// Gives up a fetch, as far as it is not read.
    fn cancel(&mut self, id: FetchId) {
        if let Some(below) = &mut self.below {
            below.cancel(id);
        }
    }

    /// What is on its way finds nobody who takes it in.
    pub(super) fn forget(&mut self) {
        self.notes.clear();
        let ids: Vec<FetchId> = self.fetching.drain().map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.cancel(id));
    }
}
