//! What tiers count.

use super::fault::FaultCounts;
use super::object::{Level, Tenant};

/// One tier, now and since start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LevelStats {
    /// Objects in the account; of the remote tier those known to be there.
    pub objects: u64,
    /// Their bytes at rest, headers included, and those reserved for what is being written.
    pub bytes: u64,
    /// Its cap; 0 where there is none.
    pub capacity: u64,
    /// Bytes that are not evicted before a time.
    pub pinned: u64,
    /// Bytes of what should be gone and could not be removed. They count against the cap.
    pub stuck: u64,
    /// Objects that were wanted and delivered from here.
    pub hits: u64,
    /// Objects that were wanted and not here.
    pub misses: u64,
    /// Objects that were written.
    pub written: u64,
    /// Objects that went because others came.
    pub evictions: u64,
    /// Objects that were not taken: queue full, larger than a quota, nothing may go, tier at rest.
    pub dropped: u64,
    /// Objects that wait to be written or are.
    pub queue: u64,
    /// Their bytes; beside `bytes`.
    pub queue_bytes: u64,
    /// What went wrong.
    pub faults: FaultCounts,
    /// It failed too often and is left alone for a while.
    pub resting: bool,
}

/// All tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// By [`Level`], fastest first; zeros for one that is not there.
    pub levels: [LevelStats; 3],
    /// Objects that wait to be read or are.
    pub reads: u64,
    /// Bytes that are being read, or were read and not yet taken.
    pub read_bytes: u64,
    /// Operations that were begun and have not ended.
    pub jobs: u64,
}

impl Stats {
    /// One tier.
    pub fn of(&self, level: Level) -> &LevelStats {
        &self.levels[level as usize]
    }
}

/// What deleting a tenant removed from one tier, and what a scan afterwards found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Removed {
    /// Objects that were there and are gone.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that the scan still found.
    pub left_objects: u64,
    /// Their bytes.
    pub left_bytes: u64,
    /// Files in the tenant's folder that are not ours; left alone.
    pub foreign: u64,
    /// Why removing or scanning failed.
    pub fault: Option<String>,
}

impl Removed {
    /// Whether a scan ran and found nothing.
    pub fn is_clean(&self) -> bool {
        self.left_objects == 0 && self.left_bytes == 0 && self.fault.is_none()
    }
}

/// What deleting a tenant came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Whose objects were deleted.
    pub tenant: Tenant,
    /// By [`Level`]; `None` for a tier that is not there.
    pub levels: [Option<Removed>; 3],
}

impl Proof {
    /// Whether nothing is left anywhere, by a scan of every tier after the removal.
    pub fn is_complete(&self) -> bool {
        self.levels.iter().flatten().all(Removed::is_clean)
    }
}
