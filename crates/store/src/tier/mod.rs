//! Tiers of a store: memory, local disk, any object store; see `docs/tiers.md` for what an operator has to know.
//!
//! ```text
//! Tiers            one thread asks, never waits            run/
//!   Machine        decides; no threads, clock or I/O       machine/
//!     Shelf        index and account of a capped tier      shelf/, policy/
//!     Known        what is believed of the remote one      known.rs
//!   Backend        carries out: folder, bucket             backend/
//!     Disk         the file system, or a simulated one     backend/disk.rs
//! ```
//!
//! Objects are opaque and immutable, wrapped at rest as [`seal`] says, and verified whole on every read. Nothing that goes wrong below
//! comes out as anything but a [`machine::Miss`].

pub mod backend;
mod coding;
mod config;
mod fault;
mod known;
pub mod machine;
mod object;
pub mod policy;
mod run;
pub mod seal;
mod shelf;
mod stats;

pub use coding::Coding;
pub use config::{MachineConfig, RemoteConfig, ShelfConfig, WritePolicy};
pub use fault::{Fault, FaultCounts, FaultKind};
pub use machine::{Completed, Machine, Miss, Run, Ticket};
pub use object::{Level, Object, Parcel, Tenant};
pub use policy::PolicyKind;
pub use run::{DiskConfig, TierConfig, Tiers};
pub use stats::{LevelStats, Proof, Removed, Stats};
