//! What the machine asks for, is told, and answers.

use std::sync::Arc;

use crate::BlockKey;
use crate::tier::fault::Fault;
use crate::tier::object::{Level, Parcel, Tenant};
use crate::tier::stats::Proof;

/// A number for something that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A number for an [`Action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// Something to be done elsewhere, in any order. Each has exactly one [`Event`]. No two of the same key and tier are under way
/// at one time.
#[derive(Debug)]
pub enum Action {
    /// Read and verify; from memory, what is given.
    Read {
        /// Answer with this.
        job: JobId,
        /// Where.
        level: Level,
        /// Whose.
        tenant: Tenant,
        /// Which.
        key: BlockKey,
        /// Bytes it takes there.
        bytes: u64,
        /// The object, where it is in memory.
        parcel: Option<Parcel>,
    },
    /// Seal and write, durably; in memory, seal only.
    Write {
        /// Answer with this.
        job: JobId,
        /// Where.
        level: Level,
        /// What.
        parcel: Parcel,
    },
    /// Remove whatever there is of it, leftovers of writing it too. It is no fault where there is nothing.
    Remove {
        /// Answer with this.
        job: JobId,
        /// Where.
        level: Level,
        /// Whose.
        tenant: Tenant,
        /// Which.
        key: BlockKey,
    },
    /// Read from disk, verify, write to the remote tier.
    Demote {
        /// Answer with this.
        job: JobId,
        /// Whose.
        tenant: Tenant,
        /// Which.
        key: BlockKey,
        /// Bytes it takes there.
        bytes: u64,
    },
    /// Ask the remote tier which of these it has.
    Probe {
        /// Answer with this.
        job: JobId,
        /// Whose.
        tenant: Tenant,
        /// Which.
        keys: Vec<BlockKey>,
    },
    /// Remove all of a tenant, then look again.
    Purge {
        /// Answer with this.
        job: JobId,
        /// Where.
        level: Level,
        /// Whose.
        tenant: Tenant,
    },
}

impl Action {
    /// The number to answer with.
    pub fn job(&self) -> JobId {
        match self {
            Action::Read { job, .. }
            | Action::Write { job, .. }
            | Action::Remove { job, .. }
            | Action::Demote { job, .. }
            | Action::Probe { job, .. }
            | Action::Purge { job, .. } => *job,
        }
    }
}

/// What came of an [`Action`].
#[derive(Debug)]
pub struct Event {
    /// Of which.
    pub job: JobId,
    /// What.
    pub outcome: Outcome,
}

/// By kind of action.
#[derive(Debug)]
pub enum Outcome {
    /// Of a read.
    Read(Result<Parcel, Fault>),
    /// Of a write: bytes at rest. With `Ok` it is durable.
    Written(Result<u64, Fault>),
    /// Of a removal.
    Removed(Result<(), Fault>),
    /// Of a demotion: bytes in the remote tier.
    Demoted(Result<u64, Fault>),
    /// Of a probe: for each key the bytes it takes, where it is there. Fewer than there are keys where the rest was not asked for.
    Probed(Vec<Result<Option<u64>, Fault>>),
    /// Of a purge.
    Purged(Result<Purged, Fault>),
}

/// What a purge removed and what was found after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Objects that were removed.
    pub objects: u64,
    /// Their bytes, leftovers of writing included.
    pub bytes: u64,
    /// What was still there, with its bytes.
    pub left: Vec<(BlockKey, u64)>,
    /// Files that are not ours.
    pub foreign: u64,
    /// What went wrong first.
    pub fault: Option<Fault>,
}

/// How many blocks from the front can be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Where each of them is, fastest tier first.
    pub levels: Vec<Level>,
    /// Given where the run may be longer: the remote tier is asked now, and [`Completed::Probed`] says when to look again.
    pub probe: Option<Ticket>,
}

/// Why an object was not delivered. It is computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No tier has it, or none has it any more.
    Absent,
    /// It took too long.
    Slow,
    /// Too many objects wait to be read.
    Busy,
    /// The tenant is being deleted.
    Deleted,
    /// The fetch was given up.
    Cancelled,
}

/// Something that was asked for is there.
#[derive(Debug)]
pub enum Completed {
    /// One object of a fetch. Every object of it gets one of these, in any order.
    Fetched {
        /// Of which fetch.
        ticket: Ticket,
        /// Its place in it.
        index: usize,
        /// Which.
        key: BlockKey,
        /// Its bytes, verified, and where they were; or why not.
        result: Result<(Arc<[u8]>, Level), Miss>,
    },
    /// The remote tier has been asked.
    Probed {
        /// See [`Run::probe`].
        ticket: Ticket,
    },
    /// A tenant has been deleted, as far as the proof says.
    Deleted {
        /// Of which deletion.
        ticket: Ticket,
        /// What came of it.
        proof: Proof,
    },
}
