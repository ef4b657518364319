//! The KV file: as the document has it, as another program reads it, and damaged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damage;
mod fixtures;
mod model;
mod record;
mod report;
mod whole;
