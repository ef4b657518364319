//! Stretches by their tokens, with the contexts that they were computed in.
//!
//! A stretch whose context was computed whole lies in the tree of prefixes and is only pointed at here; it goes when its blocks
//! go. One that was new in a context put together from others is nobody's prefix, so its pages are held here.

mod choice;

use std::collections::HashMap;
use std::ops::Range;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::SharedBlock;
use cachalot_store::{BlockKey, Domain};

use super::Name;
use super::craft::Context;
use crate::reuse::held::Held;
use crate::reuse::tree::Tree;

pub(crate) use choice::Choice;

/// Contexts that one stretch is known in, at most: Cache-Craft (Agarwal et al., 2025) keeps several, too.
pub(crate) const VARIANTS: usize = 4;

/// A stretch that is there.
pub(crate) struct Kept {
    /// Blocks of its context.
    pub blocks: Vec<SharedBlock>,
    /// Number of the first of them there.
    pub first: usize,
    /// Its positions there.
    pub span: Range<usize>,
}

/// A stretch in one context.
struct Variant {
    /// Names of the blocks that cover it, in the tree.
    keys: Vec<BlockKey>,
    /// The blocks, where they are not in the tree.
    own: Vec<SharedBlock>,
    span: Range<usize>,
    tokens: Vec<u32>,
    /// What stood before it, where that was looked at.
    context: Option<Context<BlockKey>>,
    /// Cache-Craft's: the lowest goes first.
    score: f64,
    /// When it was last of use.
    used: u64,
}

impl Variant {
    /// Whether its blocks are there.
    fn is_there(&self, tree: &Tree) -> bool {
        !self.own.is_empty() || self.keys.iter().all(|key| tree.contains(*key))
    }

    fn kept(&self, tree: &mut Tree, now: u64) -> Kept {
        let blocks = match self.own.is_empty() {
            true => tree.blocks(&self.keys, now),
            false => self.own.clone(),
        };
        Kept { blocks, first: self.first(), span: self.span.clone() }
    }

    fn first(&self) -> usize {
        self.span.start / PAGE_TOKENS
    }
}

/// All stretches that are known.
#[derive(Default)]
pub(crate) struct Library {
    /// By domain and tokens, as if a context began with them.
    variants: HashMap<BlockKey, (Domain, Vec<Variant>)>,
    /// Blocks that are held here.
    held: Held,
}

/// Blocks that cover some tokens of a context.
pub(crate) fn blocks_of(span: &Range<usize>) -> Range<usize> {
    span.start / PAGE_TOKENS..span.end.div_ceil(PAGE_TOKENS)
}

impl Library {
    /// Bytes of pages held here, that nobody else holds.
    pub fn reclaimable(&self) -> u64 {
        if self.held.bytes() == 0 {
            0
        } else {
            self.blocks_of(|_| true).map(|block| self.held.reclaimable(block)).sum()
        }
    }

    /// Blocks held here.
    pub fn blocks(&self) -> usize {
        self.blocks_of(|_| true).count()
    }

    /// Blocks of some domains that are held here.
    pub fn blocks_of(&self, domains: impl Fn(&Domain) -> bool) -> impl Iterator<Item = &SharedBlock> {
        let of = self.variants.values().filter(move |(of, _)| domains(of));
        of.flat_map(|(_, variants)| variants).flat_map(|variant| &variant.own)
    }

    /// Bytes of pages held here.
    pub fn bytes(&self) -> u64 {
        self.held.bytes()
    }

    /// A stretch that was computed as a part of a context; `keys` are its context's blocks in the tree, from the first.
    pub fn know(
        &mut self,
        domain: Domain,
        tokens: &[u32],
        (span, context): (Range<usize>, Option<Context<BlockKey>>),
        keys: &[BlockKey],
        now: u64,
    ) {
        let Some(keys) = keys.get(blocks_of(&span)) else { return };
        let (keys, tokens) = (keys.to_vec(), tokens[span.clone()].to_vec());
        self.add(domain, Variant { keys, own: Vec::new(), span, tokens, context, score: 0.0, used: now });
    }

    /// A stretch of a context that is not in the tree, with its blocks.
    pub fn hold(
        &mut self,
        domain: Domain,
        tokens: &[u32],
        (span, context): (Range<usize>, Option<Context<BlockKey>>),
        own: Vec<SharedBlock>,
        now: u64,
    ) {
        if own.len() == blocks_of(&span).len() {
            let tokens = tokens[span.clone()].to_vec();
            self.add(domain, Variant { keys: Vec::new(), own, span, tokens, context, score: 0.0, used: now });
        }
    }

    /// The same of one whose blocks were read, at its positions in the context that they are of.
    pub fn hold_read(
        &mut self,
        domain: Domain,
        tokens: Vec<u32>,
        (span, context): (Range<usize>, Option<Context<BlockKey>>),
        own: Vec<SharedBlock>,
        now: u64,
    ) {
        if own.len() == blocks_of(&span).len() {
            self.add(domain, Variant { keys: Vec::new(), own, span, tokens, context, score: 0.0, used: now });
        }
    }

    /// Whether a stretch with these tokens is there; where `crafted`, with what it stood behind. Contexts whose blocks are gone are
    /// forgotten on the way.
    pub fn has(&mut self, tree: &Tree, domain: Domain, tokens: &[u32], crafted: bool) -> bool {
        let key = domain.key(None, tokens);
        let Some((_, variants)) = self.variants.get_mut(&key) else { return false };
        variants.retain(|variant| variant.is_there(tree));
        let found = variants.iter().any(|v| v.tokens == tokens && (!crafted || v.context.is_some()));
        if variants.is_empty() {
            self.variants.remove(&key);
        }
        found
    }

    fn add(&mut self, domain: Domain, variant: Variant) {
        let key = domain.key(None, &variant.tokens);
        let (_, variants) = self.variants.entry(key).or_insert_with(|| (domain, Vec::new()));
        // In the tree they are known by their last block: it stands for all before it.
        let same = |known: &Variant| !known.keys.is_empty() && known.keys == variant.keys && known.span == variant.span;
        if let Some(known) = variants.iter_mut().find(|known| same(known)) {
            known.used = variant.used;
            known.context = known.context.take().or(variant.context);
            return;
        }
        // One that has to be held is of use only where there is no other, or where it is known what it stood behind.
        if !variant.own.is_empty() && !variants.is_empty() && variant.context.is_none() {
            return;
        }
        variant.own.iter().for_each(|block| self.held.add(block));
        variants.push(variant);
        // The newest has had no time to be of use. Of the others, those without a score go before those with one, oldest first.
        let order = |a: &Variant, b: &Variant| a.score.total_cmp(&b.score).then(a.used.cmp(&b.used));
        if variants.len() > VARIANTS
            && let Some(least) = (0..variants.len() - 1).min_by(|&a, &b| order(&variants[a], &variants[b]))
        {
            variants.remove(least).own.iter().for_each(|block| self.held.remove(block));
        }
    }

    /// A stretch with these tokens. Contexts whose blocks are gone are forgotten on the way.
    pub fn find(&mut self, tree: &mut Tree, domain: Domain, tokens: &[u32], now: u64) -> Option<Kept> {
        let key = domain.key(None, tokens);
        let (_, variants) = self.variants.get_mut(&key)?;
        variants.retain(|variant| variant.is_there(tree));
        // The latest: what came before it then is likeliest to come before it now.
        let latest = variants.iter_mut().filter(|variant| variant.tokens == tokens).max_by_key(|variant| variant.used);
        let found = latest.map(|variant| {
            variant.used = now;
            variant.kept(tree, now)
        });
        if variants.is_empty() {
            self.variants.remove(&key);
        }
        found
    }

    /// The first context whose blocks are there that a stretch with these tokens was computed in as a part of a whole; with the
    /// name that it has there.
    pub fn first(&mut self, tree: &mut Tree, domain: Domain, tokens: &[u32], now: u64) -> Option<(Kept, Name)> {
        let (_, variants) = self.variants.get_mut(&domain.key(None, tokens))?;
        let there = |variant: &&mut Variant| {
            !variant.keys.is_empty() && variant.tokens == tokens && variant.keys.iter().all(|key| tree.contains(*key))
        };
        let variant = variants.iter_mut().find(there)?;
        variant.used = now;
        let name = Name { block: *variant.keys.last()?, start: variant.span.start };
        let blocks = tree.blocks(&variant.keys, now);
        Some((Kept { blocks, first: variant.first(), span: variant.span.clone() }, name))
    }

    /// When what is held here was last of use, of that which was so longest ago.
    pub fn oldest(&self) -> Option<u64> {
        let own = self.variants.values().flat_map(|(_, variants)| variants).filter(|variant| !variant.own.is_empty());
        own.map(|variant| variant.used).min()
    }

    /// Lets go of what is held and was last of use then. Whether that was anything.
    pub fn evict(&mut self, used: u64) -> bool {
        self.retain(|_, variant| variant.own.is_empty() || variant.used > used)
    }

    /// Lets go of what is held and damaged; how much that was.
    pub fn purge(&mut self) -> usize {
        let mut bad = 0;
        self.retain(|_, variant| {
            let damaged = variant.own.iter().any(|block| block.verify().is_err());
            bad += usize::from(damaged);
            !damaged
        });
        bad
    }

    /// Forgets all of a domain.
    pub fn remove_domain(&mut self, domain: Domain) {
        self.retain(|of, _| of != domain);
    }

    /// Whether anything went.
    fn retain(&mut self, mut keep: impl FnMut(Domain, &Variant) -> bool) -> bool {
        let mut gone = false;
        let held = &mut self.held;
        self.variants.retain(|_, (domain, variants)| {
            variants.retain(|variant| {
                let stays = keep(*domain, variant);
                if !stays {
                    variant.own.iter().for_each(|block| held.remove(block));
                    gone = true;
                }
                stays
            });
            !variants.is_empty()
        });
        gone
    }
}
