//! Threads that turn blocks into bytes and back, so that the thread that steps does neither.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::{CachePlan, KvCache, SharedBlock};
use cachalot_store::codec::{Codec, Plain};
use cachalot_store::file::record;
use cachalot_store::tier::{Object, Tenant};
use cachalot_store::{Block, BlockKey};

use super::{FetchId, Parts};
use crate::reuse::Parcel;

/// How pages are written before any tier sees them, the best first: a block is written by each of them, under names of its own.
pub type Codecs = Arc<[Arc<dyn Codec>]>;

/// Work for a thread.
pub(crate) enum Work {
    /// Make objects of the parts of blocks.
    Write { tenant: Tenant, blocks: Vec<(Parcel, Parts)> },
    /// Make a block of an object's bytes, its pages in the pool.
    Read { id: FetchId, tenant: Tenant, key: BlockKey, near: bool, bytes: Arc<[u8]>, plan: Arc<CachePlan> },
}

/// What came of it.
pub(crate) enum Done {
    Written { tenant: Tenant, objects: Vec<Object>, bytes: u64 },
    Read { id: FetchId, tenant: Tenant, parcel: Option<Parcel> },
}

/// The threads; they end when it is dropped.
pub(super) struct Pool {
    send: Option<Sender<Work>>,
    pub done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub fn start(cache: &Arc<KvCache>, codecs: &Codecs, threads: usize) -> std::io::Result<Pool> {
        let (send, work) = channel::<Work>();
        let (finished, done) = channel();
        let work = Arc::new(Mutex::new(work));
        let spawn = |i: usize| {
            let (cache, work, finished) = (cache.clone(), work.clone(), finished.clone());
            let codecs = codecs.clone();
            std::thread::Builder::new().name(format!("cachalot-blocks-{i}")).spawn(move || {
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(work) = next else { return };
                    if finished.send(work_on(&cache, &codecs, work)).is_err() {
                        return;
                    }
                }
            })
        };
        let threads = (0..threads.max(1)).map(spawn).collect::<Result<_, _>>()?;
        Ok(Pool { send: Some(send), done, threads })
    }

    pub fn send(&self, work: Work) {
        // Threads end only when this is dropped.
        let _ = self.send.as_ref().map(|send| send.send(work));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.send = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Does it.
pub(crate) fn work_on(cache: &KvCache, codecs: &[Arc<dyn Codec>], work: Work) -> Done {
    match work {
        Work::Write { tenant, blocks } => {
            let bytes = blocks.iter().map(|(parcel, _)| parcel.block.bytes()).sum();
            let objects =
                blocks.iter().flat_map(|(parcel, parts)| objects(cache, codecs, tenant, parcel, *parts)).collect();
            Done::Written { tenant, objects, bytes }
        }
        Work::Read { id, tenant, key, near, bytes, plan } => {
            Done::Read { id, tenant, parcel: read(cache, codecs, &plan, key, near, &bytes) }
        }
    }
}

/// A part of a block, where the bytes are what the key says.
pub(crate) fn read(
    cache: &KvCache,
    codecs: &[Arc<dyn Codec>],
    plan: &CachePlan,
    key: BlockKey,
    near: bool,
    bytes: &[u8],
) -> Option<Parcel> {
    let known: Vec<&dyn Codec> = codecs.iter().map(|codec| &**codec).chain([&Plain as &dyn Codec]).collect();
    let is_named = |block: &Block| {
        let named = name(at_rest(block.parent, block.key(), block.tokens.len()), near);
        (0..codecs.len() as u8).any(|level| named.level(level) == key)
    };
    let block = record::read(bytes, &known).ok().filter(is_named)?;
    let read = Parcel::of_block(cache, plan, block);
    read.inspect_err(|error| tracing::warn!(%error, "a block from below was not used")).ok()
}

/// What a block is called at rest: by its key, or, where it is not full, by the one before it, so that it is found by those who
/// know no more than that.
fn at_rest(parent: Option<BlockKey>, key: BlockKey, tokens: usize) -> BlockKey {
    match parent {
        Some(parent) if tokens < PAGE_TOKENS => parent.tail(key.0[0]),
        _ => key,
    }
}

/// What a part of a block is called.
pub(crate) fn name(key: BlockKey, near: bool) -> BlockKey {
    if near { key.near() } else { key }
}

/// The objects of some parts of a block.
pub(crate) fn objects(
    cache: &KvCache,
    codecs: &[Arc<dyn Codec>],
    tenant: Tenant,
    parcel: &Parcel,
    parts: Parts,
) -> Vec<Object> {
    let split = cache.parts(&parcel.block);
    let wanted = [(false, split.kept.filter(|_| parts.kept)), (true, split.near.filter(|_| parts.near))];
    let key = at_rest(parcel.parent, parcel.key(), parcel.tokens.len());
    let object = |((near, block), level): ((bool, Option<SharedBlock>), usize)| {
        // Pages come in the order of records: layer by layer, head by head, the kept form first.
        let block = Parcel { block: block?, ..parcel.clone() }.to_block();
        let mut bytes = Vec::new();
        record::write(&block, &**codecs.get(level)?, &mut bytes)
            .inspect_err(|error| tracing::warn!(%error, "a block was not kept"))
            .ok()?;
        Some(Object { key: name(key, near).level(level as u8), tenant, bytes: bytes.into() })
    };
    // At all levels of a block before the next.
    let levels = 0..codecs.len();
    wanted
        .into_iter()
        .flat_map(|part| levels.clone().map(move |level| (part.clone(), level)))
        .filter_map(object)
        .collect()
}
