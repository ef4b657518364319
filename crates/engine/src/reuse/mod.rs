//! Compute once: what sequences have computed stays for those that begin with the same tokens.
//!
//! The scheduler publishes blocks of 64 tokens as they are computed, and a sequence that enters begins with the longest run of
//! them that its first query can go on from. Pages are shared, counted, and never written again; those that nobody uses are
//! the first to go when memory is wanted. Only blocks of the same [`Domain`] are ever looked at: model, recipe, profile and
//! tenant are in it, and the tokens are compared besides.
//!
//! Where a recipe encodes what the window has passed, only some positions can be gone on from: every
//! [`ReuseConfig::every`] tokens, the end of a prompt, the end of an answer, and where prompts were seen to part.

pub mod below;
mod beside;
mod blend;
mod chunks;
mod comm;
mod config;
mod explain;
mod fetch;
pub(crate) mod held;
mod keep;
mod look;
mod lossy;
mod moved;
mod note;
mod order;
mod parallel;
mod parcel;
mod pins;
mod stretches;
mod timely;
pub(crate) mod tree;
mod weigh;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{KvCache, KvError, SequenceKv, SharedBlock};
use cachalot_store::tier::Tenant;
use cachalot_store::{BlockKey, Domain};

pub(crate) use beside::Meanwhile;
pub use config::ReuseConfig;
pub use explain::{Explanation, Stop};
pub(crate) use fetch::Wanted;
use fetch::{Lower, Stage};
pub use moved::{Chunk, Moved};
pub use note::NOTE_MAGIC;
pub use order::Order;
pub use parcel::Parcel;
pub use pins::Pinned;
use pins::Pins;
use stretches::Search;
use tree::Tree;

use crate::blend::craft::Context;
use crate::blend::{Anchors, Library, Wish};

/// What a sequence knows of blocks that it shares.
pub(crate) struct Thread {
    /// Where it may share; nowhere where `None`.
    pub domain: Option<Domain>,
    /// Whose it is, as tiers know it.
    pub tenant: Tenant,
    /// How far it has come with what is below the pool.
    stage: Stage,
    /// Blocks that it has where what it waits for has come.
    sought: usize,
    /// How far it has come with chunks of its prompt that are below.
    search: Search,
    /// Chunks of its prompt of which there are notes below, from the first.
    noted: usize,
    /// What is read for it while it computes is its own as long as it has this.
    claim: Option<Arc<()>>,
    /// Keys of its blocks, as far as they were needed.
    keys: Vec<BlockKey>,
    /// Where its blocks are shared as a lossy codec below gives them back.
    lossy: Option<Domain>,
    /// Where it shares exactly, while it is not settled what it begins with.
    exact: Option<Domain>,
    /// Tokens that are computed, also while a step has its cache.
    pub computed: usize,
    /// Blocks that have been published.
    published: usize,
    /// Positions that others may want to go on from, not yet reached.
    stops: BTreeSet<usize>,
    /// Whether it was looked for what it can begin with.
    pub attached: bool,
    /// Whether its pages are no longer what its tokens say: something was reduced, or came from another context.
    pub reduced: bool,
    /// What it wants of stretches that were computed elsewhere.
    wish: Arc<Wish>,
    /// Where it shared before it was edited.
    before: Option<Domain>,
    /// Stretches that it computes in a context put together from others.
    fresh: Vec<Range<usize>>,
    /// Whether others know the stretches of its prompt.
    told: bool,
    /// What those of them depend on that it computed whole, where it looked at that.
    contexts: Vec<(Range<usize>, Context<BlockKey>)>,
    /// Whether it was looked for what its prompt is put together from.
    pub prepared: bool,
    /// Messages of its prompt that become anchors when it ends.
    unforeseen: Vec<usize>,
    /// What became of its request's wish that its prompt stays.
    pub pinned: Option<Pinned>,
}

/// What a sequence begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Begun {
    /// Tokens whose cache was there.
    pub tokens: usize,
    /// Tokens that are the same in blocks that are there, whether they could be used or not.
    pub matched: usize,
    /// Blocks whose checksum was wrong; they are gone.
    pub corrupt: usize,
}

/// All blocks that are shared, and what became of them.
pub(crate) struct Reuse {
    config: ReuseConfig,
    tree: Tree,
    library: Library,
    anchors: Anchors,
    clock: u64,
    /// The scheduler's clock.
    now: Duration,
    pins: Pins,
    lower: Lower,
    /// Whose each domain is.
    owners: HashMap<Domain, Tenant>,
    /// Tokens that were not computed again.
    pub tokens: u64,
    /// Of them, those that were read while others were computed.
    pub beside: u64,
    /// Blocks that went for want of memory.
    pub evicted: u64,
}

impl Thread {
    /// Of a sequence in this domain.
    pub fn new(domain: Option<Domain>, tenant: &str, wish: Arc<Wish>) -> Thread {
        Thread {
            domain,
            tenant: Tenant::named(tenant),
            wish,
            before: None,
            fresh: Vec::new(),
            told: false,
            contexts: Vec::new(),
            prepared: false,
            unforeseen: Vec::new(),
            pinned: None,
            lossy: None,
            exact: None,
            stage: Stage::New,
            sought: 0,
            search: Search::New,
            noted: 0,
            claim: None,
            keys: Vec::new(),
            computed: 0,
            published: 0,
            stops: BTreeSet::new(),
            attached: false,
            reduced: false,
        }
    }

    /// Of one that was edited and shared there before.
    pub fn after(self, before: Option<Domain>) -> Thread {
        Thread { before, ..self }
    }

    /// Whether a sequence's pages may be shared with those that it shares with.
    fn shares(&self, kv: &SequenceKv) -> bool {
        !self.reduced && (kv.is_shareable() || self.wish.edit.is_some() && kv.is_whole())
    }

    /// Of a branch of the sequence.
    pub fn branch(&self) -> Thread {
        Thread {
            domain: self.domain,
            tenant: self.tenant,
            wish: self.wish.clone(),
            before: None,
            fresh: Vec::new(),
            told: true,
            contexts: Vec::new(),
            prepared: true,
            unforeseen: Vec::new(),
            pinned: self.pinned,
            lossy: self.lossy,
            exact: None,
            stage: Stage::Done,
            sought: 0,
            search: Search::Done,
            noted: usize::MAX,
            claim: None,
            keys: self.keys.clone(),
            computed: self.computed,
            published: self.published,
            stops: BTreeSet::new(),
            attached: self.attached,
            reduced: self.reduced,
        }
    }

    /// From the beginning, after its cache was lost.
    pub fn restart(&mut self) {
        (self.published, self.attached, self.reduced, self.computed) = (0, false, false, 0);
        self.prepared = false;
        self.give_up();
    }

    /// Wants the sequence to stop at a position, if it has not passed it.
    pub fn stop_at(&mut self, position: usize) {
        self.stops.insert(position);
    }

    /// Rows that a step which begins at `from` may have at most, so that it ends where others may want to go on.
    pub fn rows_to_stop(&self, from: usize, every: usize) -> usize {
        if self.domain.is_none() || self.reduced {
            return usize::MAX;
        }
        let regular = (from / every.max(1) + 1) * every.max(1);
        self.stops.range(from + 1..).next().map_or(regular, |&stop| stop.min(regular)) - from
    }

    /// Key of block `index` of `tokens`, which must have that many.
    fn key(&mut self, domain: Domain, tokens: &[u32], index: usize) -> BlockKey {
        while self.keys.len() <= index {
            let block = self.keys.len();
            let key = domain.key(self.keys.last().copied(), &tokens[block * PAGE_TOKENS..(block + 1) * PAGE_TOKENS]);
            self.keys.push(key);
        }
        self.keys[index]
    }
}

impl Reuse {
    pub fn new(config: ReuseConfig) -> Reuse {
        Reuse {
            tree: Tree::with(config.evict),
            config,
            library: Library::default(),
            anchors: Anchors::default(),
            clock: 0,
            now: Duration::ZERO,
            pins: Pins::default(),
            lower: Lower::default(),
            owners: HashMap::new(),
            tokens: 0,
            beside: 0,
            evicted: 0,
        }
    }

    /// See [`ReuseConfig::every`].
    pub fn every(&self) -> usize {
        self.config.every
    }

    /// Blocks and anchors, and their bytes.
    pub fn size(&self) -> (usize, u64) {
        let blocks = self.tree.len() + self.library.blocks() + self.anchors.len();
        (blocks, self.tree.bytes() + self.library.bytes() + self.anchors.bytes())
    }

    /// Bytes that eviction would free, if it is worth asking: at most `enough` matters.
    pub fn reclaimable(&self, enough: u64) -> u64 {
        // Counting is a look at every page.
        if self.size().1 == 0 || enough == 0 {
            return 0;
        }
        self.tree.reclaimable() + self.library.reclaimable() + self.anchors.bytes()
    }

    /// Tokens of blocks that are there for a prompt.
    pub fn matched(&self, thread: &Thread, tokens: &[u32]) -> usize {
        thread.domain.map_or(0, |domain| self.tree.find(domain, tokens).tokens)
    }

    /// Lets an empty sequence, which is to compute all `tokens`, begin with what is there of them. At least the last token is
    /// left to compute. Where nothing is there, nothing happens.
    pub fn begin(&mut self, cache: &KvCache, kv: &mut SequenceKv, thread: &mut Thread, tokens: &[u32]) -> Begun {
        thread.attached = true;
        let Some(domain) = thread.domain else { return Begun::default() };
        self.owners.insert(domain, thread.tenant);
        let mut begun = Begun::default();
        // What is read side by side begins with its prefix alone.
        let tokens = thread.layout(tokens).map_or(tokens, |layout| &tokens[..layout.prefix + 1]);
        loop {
            let found = self.tree.find(thread.before.unwrap_or(domain), tokens);
            begun.matched = begun.matched.max(found.tokens);
            let most = found.tokens.min(tokens.len().saturating_sub(1)).min(kv.unobserved());
            let blocks = self.tree.along(&found.path);
            let Some(at) = usable(cache, kv, &blocks, most) else { break };
            let used = &found.path[..at.div_ceil(PAGE_TOKENS)];
            if let Some(bad) = self.damaged(cache, used) {
                begun.corrupt += 1;
                self.tree.remove(bad);
                continue;
            }
            let blocks = &blocks[..used.len()];
            match cache.begin(kv, blocks, at) {
                Ok(()) => begun.tokens = at,
                // Without room for the copy of a block that is begun, whole blocks will do.
                Err(KvError::OutOfBudget { .. } | KvError::OutOfMemory { .. }) => {
                    let whole = usable(cache, kv, blocks, at / PAGE_TOKENS * PAGE_TOKENS);
                    if let Some(at) = whole.filter(|at| at.is_multiple_of(PAGE_TOKENS))
                        && cache.begin(kv, &blocks[..at / PAGE_TOKENS], at).is_ok()
                    {
                        begun.tokens = at;
                    }
                }
                Err(error) => tracing::warn!(%error, "blocks that match were not used"),
            }
            self.clock += 1;
            self.tree.touch(&found.path, self.clock);
            break;
        }
        let branch = begun.matched / PAGE_TOKENS * PAGE_TOKENS;
        if branch > begun.tokens && branch < tokens.len() {
            thread.stop_at(branch);
        }
        thread.computed = begun.tokens;
        self.tokens += begun.tokens as u64;
        begun
    }

    /// The first of some blocks whose bytes are not those that were sealed.
    fn damaged(&self, cache: &KvCache, path: &[usize]) -> Option<usize> {
        cache.first_damaged(&self.tree.along(path)).map(|index| path[index])
    }

    /// After a step, before the cache settles: the blocks that `kv` has now of `tokens` are there for others.
    pub fn publish(
        &mut self,
        cache: &KvCache,
        kv: &mut SequenceKv,
        thread: &mut Thread,
        tokens: &[u32],
        prompt: usize,
    ) {
        thread.computed = kv.len();
        if kv.len() >= prompt && prompt <= tokens.len() {
            self.learn(kv, thread, &tokens[..prompt]);
        }
        self.publish_blocks(cache, kv, thread, tokens, prompt);
        if kv.len() == prompt && prompt <= tokens.len() {
            self.pin(cache, thread, &tokens[..prompt]);
        }
    }

    fn publish_blocks(
        &mut self,
        cache: &KvCache,
        kv: &mut SequenceKv,
        thread: &mut Thread,
        tokens: &[u32],
        prompt: usize,
    ) {
        let Some(domain) = thread.domain.filter(|_| thread.shares(kv)) else { return };
        let len = kv.len().min(tokens.len());
        let full = len / PAGE_TOKENS;
        // The end of the prompt too, as far as whole blocks go: the next prompt may begin like this one.
        let end = (len == prompt).then_some(prompt / PAGE_TOKENS * PAGE_TOKENS);
        let at = match thread.stops.contains(&len) || len.is_multiple_of(self.config.every.max(1)) {
            true => Some(len),
            false => end,
        };
        thread.stops.retain(|&stop| stop > len);
        if at.is_none() && full <= thread.published {
            return;
        }
        let first = if at.is_some() { 0 } else { self.present(domain, thread, tokens) };
        let blocks = cache.share(kv, first..full, at);
        self.insert(domain, thread, tokens, first, blocks);
        thread.published = full;
        if len >= prompt {
            self.tell(domain, thread, tokens, full * PAGE_TOKENS, prompt);
        }
        if at.is_some() {
            self.keep_below(cache, domain, thread, &tokens[..len]);
            self.note_chunks(cache, kv.plan(), thread, (&tokens[..len], prompt));
        }
    }

    /// A sequence has ended: all it has of its tokens is there for others.
    pub fn retire(&mut self, cache: &KvCache, kv: SequenceKv, thread: &mut Thread, tokens: &[u32], prompt: usize) {
        if kv.moved() > 0 && thread.wish.edit.is_none() {
            return self.hold_fresh(cache, kv, thread, tokens);
        }
        let Some(domain) = thread.domain.filter(|_| thread.shares(&kv)) else { return };
        let tokens = &tokens[..kv.len().min(tokens.len())];
        let (plan, blocks) = (kv.plan().clone(), cache.retire(kv, 0));
        let held = if thread.unforeseen.is_empty() { Vec::new() } else { blocks.clone() };
        self.insert(domain, thread, tokens, 0, blocks);
        self.tell(domain, thread, tokens, tokens.len(), prompt);
        self.set_anchors(cache, &plan, thread, (tokens, prompt), &held);
        if tokens.len() >= prompt {
            self.pin(cache, thread, &tokens[..prompt]);
        }
        self.keep_below(cache, domain, thread, tokens);
        self.note_chunks(cache, &plan, thread, (tokens, prompt));
    }

    /// The first of the published blocks that is not there any more, or the number of them.
    fn present(&self, domain: Domain, thread: &mut Thread, tokens: &[u32]) -> usize {
        // Blocks go from the end.
        let mut there = thread.published;
        while there > 0 && !self.tree.contains(thread.key(domain, tokens, there - 1)) {
            there -= 1;
        }
        there
    }

    fn insert(&mut self, domain: Domain, thread: &mut Thread, tokens: &[u32], first: usize, blocks: Vec<SharedBlock>) {
        self.clock += 1;
        let mut parent = first.checked_sub(1).map(|before| thread.key(domain, tokens, before));
        let clock = self.clock;
        for (block, tokens) in blocks.into_iter().zip(tokens.chunks(PAGE_TOKENS).skip(first)) {
            let nothing = block.is_empty();
            let key = domain.key(parent, tokens);
            if nothing && !self.tree.contains(key) || !self.tree.insert(domain, parent, tokens, block, clock) {
                return;
            }
            parent = Some(key);
        }
    }

    /// Lets go of the block that was of use longest ago. False where none is there that would free anything.
    pub fn evict(&mut self) -> bool {
        let others = [self.tree.oldest(), self.library.oldest()].into_iter().flatten().min();
        if self.anchors.oldest().is_some_and(|oldest| others.is_none_or(|others| oldest <= others)) {
            self.evicted += 1;
            return self.anchors.evict();
        }
        let held = self.library.oldest().filter(|held| self.tree.oldest().is_none_or(|oldest| *held <= oldest));
        let mut evicted = held.is_some_and(|held| self.library.evict(held)) || self.tree.evict().is_some();
        if let (false, Some(held)) = (evicted, self.library.oldest()) {
            evicted = self.library.evict(held);
        }
        evicted |= !evicted && self.anchors.evict();
        if !evicted {
            return self.drop_fetch();
        }
        self.evicted += u64::from(evicted);
        evicted
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.lower.forget();
        self.pins = Pins::default();
        self.tree = Tree::with(self.config.evict);
        self.library = Library::default();
        self.anchors = Anchors::default();
    }

    /// Flips a bit of a page of a block, counted from the first of the only text that is there.
    #[cfg(test)]
    pub fn damage(&self, block: usize) {
        let mut found: Vec<_> = self.tree.iter().filter(|(_, node)| node.depth == block).collect();
        if let Some((_, node)) = found.pop() {
            node.block.pages().take(1).for_each(|shared| shared.page.damage(100));
        }
    }

    /// Lets go of blocks whose bytes are not those that were sealed. How many there were.
    pub fn purge(&mut self) -> usize {
        self.pins.purge();
        let bad: Vec<usize> =
            self.tree.iter().filter(|(_, node)| node.block.verify().is_err()).map(|(id, _)| id).collect();
        bad.iter().for_each(|&id| self.tree.remove(id));
        bad.len() + self.library.purge()
    }
}

/// The largest position at most `most` from which `kv` can go on with these blocks.
fn usable(cache: &KvCache, kv: &SequenceKv, blocks: &[&SharedBlock], most: usize) -> Option<usize> {
    let whole = (1..=most / PAGE_TOKENS).rev().map(|block| block * PAGE_TOKENS);
    let exact = (!most.is_multiple_of(PAGE_TOKENS)).then_some(most);
    exact.into_iter().chain(whole).find(|&at| cache.can_begin(kv, blocks, at))
}
