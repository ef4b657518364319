//! What a lossy cache did to an answer: sampled steps of it, computed again over the exact cache and compared.
//!
//! While a choice is generated, [`record`] keeps the logits of some of its steps as the lossy cache made them. Once the
//! answer is complete, its tokens are replayed over an exact cache ([`job`]), as a sequence that the scheduler computes in
//! what foreground work leaves of a step, and every kept row is compared with the exact one of the same position
//! ([`report`]). A client may ask for that ([`ReportSpec`]); a server may do it for a share of its traffic ([`draw`]).
//!
//! What it may take is bounded: rows of an answer and bytes of all of them, rows of a step, sequences at one time, others
//! that wait, and time ([`ReplayConfig`]).

mod config;
mod draw;
mod job;
mod record;
mod report;

pub use config::ReplayConfig;
pub use report::{Divergence, KvReport, ReportSpec, Skipped};

pub(crate) use draw::Draw;
pub(crate) use job::{Kind, Replay, Script};
pub(crate) use record::{Record, Recorded};
