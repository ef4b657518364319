//! What goes wrong below memory, by kind, counted. A fault is a miss: the block is computed again.

use super::object::Level;
use std::fmt;

/// What went wrong, as far as it decides what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// The index has it, the tier does not.
    Missing = 0,
    /// Bytes are not those that were stored.
    Corrupt = 1,
    /// Fewer bytes than were stored.
    Short = 2,
    /// No room, though the account has some: others fill the disk.
    Full = 3,
    /// No permission.
    Denied = 4,
    /// No answer in time.
    Slow = 5,
    /// Anything else.
    Io = 6,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 7] = {
        use FaultKind::*;
        [Missing, Corrupt, Short, Full, Denied, Slow, Io]
    };

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            FaultKind::Missing => "missing",
            FaultKind::Corrupt => "corrupt",
            FaultKind::Short => "short",
            FaultKind::Full => "full",
            FaultKind::Denied => "denied",
            FaultKind::Slow => "slow",
            FaultKind::Io => "io",
        }
    }

    /// Whether the object itself is spoilt, rather than the way to it.
    pub fn is_damage(self) -> bool {
        matches!(self, FaultKind::Corrupt | FaultKind::Short)
    }
}

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// See [`FaultKind`].
    pub kind: FaultKind,
    /// Where.
    pub level: Level,
    /// File or object.
    pub place: String,
    /// What, for people.
    pub what: String,
}

impl Fault {
    /// A fault of the local file system.
    pub fn of_io(place: impl Into<String>, error: &std::io::Error) -> Fault {
        use std::io::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::NotFound => FaultKind::Missing,
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => FaultKind::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => FaultKind::Full,
            ErrorKind::TimedOut => FaultKind::Slow,
            ErrorKind::UnexpectedEof => FaultKind::Short,
            ErrorKind::InvalidData => FaultKind::Corrupt,
            _ => FaultKind::Io,
        };
        Fault { kind, level: Level::Disk, place: place.into(), what: error.to_string() }
    }
}

impl From<Fault> for crate::StoreError {
    fn from(fault: Fault) -> crate::StoreError {
        let place = format!("{} {}", fault.level.name(), fault.place);
        match fault.kind.is_damage() {
            true => crate::StoreError::Corrupt { place, what: fault.what },
            false => crate::StoreError::Io { place, source: std::io::Error::other(fault.what) },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} ({})", self.level.name(), self.place, self.what, self.kind.name())
    }
}

/// Faults of a tier since start, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FaultCounts([u64; FaultKind::ALL.len()]);

impl FaultCounts {
    /// One more.
    pub fn count(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }

    /// Of one kind.
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize]
    }

    /// Of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
