//! Chunks that lie below the pool: away from the prefix they are found by a note of which blocks hold them ([`Note`]), and these
//! are read as those of a prefix are.
//!
//! Notes are written when blocks that hold a marked (or cut) chunk go below. A prompt that is about to be put together reads the
//! notes of the chunks that the pool has not, and then the blocks; what is lost, damaged, late or slower than computing is
//! computed. Whatever a note says, a chunk is only used where the blocks' own tokens are the chunk's.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::KvCache;
use cachalot_store::tier::Level;
use cachalot_store::{BlockKey, Domain};

use super::below::{FetchId, Parts};
use super::fetch::{Fetching, PATIENCE, Wanted};
use super::note::Note;
use super::weigh::near_blocks;
use super::{Reuse, Thread};
use crate::blend::{LEAST, Method, VARIANTS, blocks_of};
use crate::observe;

/// How far a sequence has come with chunks that are below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Search {
    #[default]
    New,
    /// A tier was asked which notes it has.
    Asking(Duration),
    /// Notes are read.
    Notes(FetchId, Duration),
    /// Blocks are read.
    Blocks(FetchId),
    Done,
}

/// Notes on their way.
#[derive(Default)]
pub(super) struct Notes {
    left: usize,
    read: HashMap<BlockKey, Arc<[u8]>>,
}

/// A chunk whose blocks are on their way.
pub(super) struct Stretch {
    domain: Domain,
    tokens: Vec<u32>,
    note: Note,
}

impl Thread {
    /// Whether its prompt is put together from chunks of others where they are known.
    fn wants_chunks(&self) -> bool {
        let moves = |method| !matches!(method, Method::Exact | Method::Ape { .. } | Method::KvComm { .. });
        self.before.is_none() && self.wish.edit.is_none() && self.blend().is_some_and(|blend| moves(blend.method))
    }
}

/// Which of a chunk's slots a context has, by the last block that covers the chunk there.
fn slot(last: BlockKey) -> u8 {
    last.0[0] % VARIANTS as u8
}

impl Reuse {
    /// Whether chunks with this cache's plan are kept below at all: where blocks are in one part and come back as they were.
    fn keeps_chunks(&self, cache: &KvCache, plan: &cachalot_kv::CachePlan) -> bool {
        self.lower.below.is_some() && self.config.lossy.is_none() && near_blocks(cache, plan) == 0
    }

    /// Notes where those chunks of a prompt lie whose blocks were handed down.
    pub(super) fn note_chunks(
        &mut self,
        cache: &KvCache,
        plan: &cachalot_kv::CachePlan,
        thread: &mut Thread,
        (tokens, prompt): (&[u32], usize),
    ) {
        let Some(domain) = thread.domain.filter(|_| self.keeps_chunks(cache, plan)) else { return };
        if thread.reduced || thread.before.is_some() || thread.wish.edit.is_some() || prompt > tokens.len() {
            return;
        }
        let chunks = thread.chunks(&tokens[..prompt]);
        let mut notes = Vec::new();
        for span in chunks.into_iter().skip(thread.noted) {
            let blocks = blocks_of(&span);
            if blocks.end * PAGE_TOKENS > tokens.len() {
                break;
            }
            let keys: Vec<BlockKey> = blocks.map(|block| thread.key(domain, tokens, block)).collect();
            if !self.tree.are_stored(&keys) {
                break;
            }
            thread.noted += 1;
            if let (true, Some(&last)) = (span.len() >= LEAST, keys.last()) {
                let name = domain.chunk(&tokens[span.clone()], slot(last));
                let context = thread.context(&span);
                notes.push((name, Note { span, keys, context }.to_bytes().into()));
            }
        }
        if let (false, Some(below)) = (notes.is_empty(), &mut self.lower.below) {
            below.keep_notes(thread.tenant, notes);
        }
    }

    /// Looks below for chunks of a new sequence's prompt that the pool has not. Whether it is to wait for them.
    pub fn look_for_chunks(&mut self, wanted: &Wanted<'_>, prompt: usize, thread: &mut Thread, now: Duration) -> bool {
        match thread.search {
            Search::Done => false,
            Search::New => self.ask_for_notes(wanted, prompt, thread, now, now),
            Search::Asking(since) => self.ask_for_notes(wanted, prompt, thread, since, now),
            Search::Notes(id, since) => match self.lower.notes.get(&id) {
                Some(notes) if notes.left > 0 && now.saturating_sub(since) < PATIENCE => true,
                _ => {
                    thread.search = Search::Done;
                    let notes = self.lower.notes.remove(&id).unwrap_or_default();
                    self.read_chunks(wanted, prompt, thread, &notes.read, now)
                }
            },
            Search::Blocks(id) if self.lower.fetching.contains_key(&id) => true,
            Search::Blocks(_) => {
                thread.search = Search::Done;
                false
            }
        }
    }

    /// Chunks of a prompt that are nowhere in the pool.
    fn missing_chunks(&mut self, domain: Domain, thread: &Thread, tokens: &[u32], prompt: usize) -> Vec<Range<usize>> {
        let there = self.tree.find(domain, tokens).tokens;
        let crafted = thread.alpha().is_some();
        let chunks = thread.chunks(&tokens[..prompt.min(tokens.len())]).into_iter();
        let chunks = chunks.filter(|chunk| chunk.len() >= LEAST && chunk.end > there);
        chunks.filter(|chunk| !self.library.has(&self.tree, domain, &tokens[chunk.clone()], crafted)).collect()
    }

    fn ask_for_notes(
        &mut self,
        wanted: &Wanted<'_>,
        prompt: usize,
        thread: &mut Thread,
        since: Duration,
        now: Duration,
    ) -> bool {
        thread.search = Search::Done;
        let Some(domain) = thread.domain.filter(|_| thread.wants_chunks()) else { return false };
        if !self.keeps_chunks(wanted.cache, wanted.plan) {
            return false;
        }
        let missing = self.missing_chunks(domain, thread, wanted.tokens, prompt);
        let tokens = |chunk: &Range<usize>| &wanted.tokens[chunk.clone()];
        let names = missing.iter().flat_map(|chunk| (0..VARIANTS as u8).map(|slot| domain.chunk(tokens(chunk), slot)));
        let names: HashSet<BlockKey> = names.collect();
        let Some(below) = &mut self.lower.below else { return false };
        let (mut asking, mut there) = (false, Vec::new());
        for name in names {
            let found = below.there(thread.tenant, &[name]);
            asking |= found.asking;
            there.extend(found.parts.first().filter(|parts| parts.kept).map(|_| name));
        }
        if asking && now.saturating_sub(since) < PATIENCE {
            thread.search = Search::Asking(since);
            return true;
        }
        if there.is_empty() {
            return false;
        }
        there.sort_unstable();
        let id = below.read_notes(thread.tenant, &there);
        self.lower.notes.insert(id, Notes { left: there.len(), ..Notes::default() });
        thread.search = Search::Notes(id, now);
        true
    }

    /// Begins to read the blocks of chunks of which there are notes. Whether anything is worth it.
    fn read_chunks(
        &mut self,
        wanted: &Wanted<'_>,
        prompt: usize,
        thread: &mut Thread,
        notes: &HashMap<BlockKey, Arc<[u8]>>,
        now: Duration,
    ) -> bool {
        let Some(domain) = thread.domain else { return false };
        let (mut stretches, mut blocks) = (Vec::new(), Vec::<BlockKey>::new());
        let (mut level, mut seconds) = (Level::Ram, 0.0);
        for chunk in self.missing_chunks(domain, thread, wanted.tokens, prompt) {
            let tokens = &wanted.tokens[chunk.clone()];
            let known = (0..VARIANTS as u8).filter_map(|slot| notes.get(&domain.chunk(tokens, slot)));
            let known = known.filter_map(|bytes| Note::of_bytes(bytes, tokens.len()));
            let useful = known.filter(|note| thread.alpha().is_none() || note.context.is_some());
            let Some(below) = &mut self.lower.below else { return false };
            for note in useful {
                let there = below.there(thread.tenant, &note.keys);
                if there.parts.len() < note.keys.len() || !there.parts.iter().all(|parts| parts.kept) {
                    continue;
                }
                let slowest = there.levels.iter().copied().max().unwrap_or(Level::Remote);
                let new: Vec<BlockKey> = note.keys.iter().filter(|key| !blocks.contains(key)).copied().collect();
                let cost = &self.lower.cost;
                let bytes = wanted.cache.bytes_with(wanted.plan, new.len() * PAGE_TOKENS);
                let reading = cost.latency(slowest.name()) + cost.transfer(slowest.name(), bytes);
                if reading > cost.prefill(tokens.len(), chunk.start) {
                    observe::fetch("chunk_refused");
                    continue;
                }
                (level, seconds) = (level.max(slowest), seconds + reading);
                blocks.extend(new);
                stretches.push(Stretch { domain, tokens: tokens.to_vec(), note });
                break;
            }
        }
        let bytes = wanted.cache.bytes_with(wanted.plan, blocks.len() * PAGE_TOKENS);
        if stretches.is_empty() || !self.make_room_for(wanted.cache, bytes) {
            return false;
        }
        let list: Vec<(BlockKey, Parts)> = blocks.iter().map(|key| (*key, Parts { kept: true, near: false })).collect();
        let Some(below) = &mut self.lower.below else { return false };
        let id = below.fetch(thread.tenant, wanted.plan, &list);
        let fetching = Fetching::of_chunks(thread.tenant, stretches, (now, level, bytes, seconds), list.len());
        self.lower.fetching.insert(id, fetching);
        thread.search = Search::Blocks(id);
        true
    }

    /// Takes in notes that have come.
    pub(super) fn take_notes(&mut self) {
        let Some(below) = &mut self.lower.below else { return };
        for note in below.notes() {
            let Some(notes) = self.lower.notes.get_mut(&note.id) else { continue };
            notes.left = notes.left.saturating_sub(1);
            notes.read.extend(note.bytes.map(|bytes| (note.key, bytes)));
        }
    }

    /// Puts chunks whose blocks were read where prompts look for them.
    pub(super) fn hold_read(&mut self, fetch: Fetching) {
        self.owners.extend(fetch.stretches.iter().map(|stretch| (stretch.domain, fetch.tenant)));
        self.clock += 1;
        let read: HashMap<BlockKey, _> = fetch.parcels.into_iter().map(|parcel| (parcel.key(), parcel)).collect();
        for Stretch { domain, tokens, note: Note { span, keys, context } } in fetch.stretches {
            let Some(parcels) = keys.iter().map(|key| read.get(key)).collect::<Option<Vec<_>>>() else { continue };
            let first = span.start / PAGE_TOKENS * PAGE_TOKENS;
            let in_place = |(i, parcel): (usize, &&super::Parcel)| {
                parcel.domain == domain && parcel.start == first + i * PAGE_TOKENS && parcel.tokens.len() == PAGE_TOKENS
            };
            let there: Vec<u32> = parcels.iter().flat_map(|parcel| parcel.tokens.iter().copied()).collect();
            if !parcels.iter().enumerate().all(in_place)
                || there.get(span.start - first..span.end - first) != Some(&tokens)
            {
                tracing::warn!("a note names blocks that do not hold its chunk; it is computed");
                continue;
            }
            let own = parcels.iter().map(|parcel| parcel.block.clone()).collect();
            self.library.hold_read(domain, tokens, (span, context), own, self.clock);
            observe::fetch("chunk");
        }
    }
}
