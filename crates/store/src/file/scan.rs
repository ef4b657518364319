//! Finding the records of a file that has no index, or none that can be believed.

use super::bytes::ALIGN;
use super::head::{self, FIXED, Head};
use super::index;
use super::reader::BlockInfo;
use super::source::Source;
use super::{Damage, FileError};
use crate::Domain;
use std::collections::HashSet;

/// Bytes looked at together while nothing is found.
const CHUNK: u64 = 1 << 20;
/// Bytes of heads that turn out to be none, at least and as a multiple of the file, before the search is given up: a
/// file made of nothing but beginnings would keep it busy for hours.
const PATIENCE: (u64, u64) = (64 << 20, 8);

pub(super) struct Found {
    pub(super) domain: Option<Domain>,
    pub(super) blocks: Vec<BlockInfo>,
    pub(super) damage: Vec<Damage>,
}

/// Looks for records from `from`: behind each for the next, and otherwise at every place where one may begin.
pub(super) fn scan(source: &Source, from: u64, domain: Option<Domain>) -> Result<Found, FileError> {
    let mut found = Found { domain, blocks: Vec::new(), damage: Vec::new() };
    let (mut at, mut lost) = (from, false);
    let mut patience = PATIENCE.0.saturating_add(PATIENCE.1.saturating_mul(source.len));
    let mut seen = HashSet::new();
    while at < source.len {
        let head = head_at(source, at, &mut patience)?.and_then(|head| placed(source, at, found.domain, head));
        match head {
            Ok(head) => {
                found.domain = Some(head.domain);
                if seen.insert(head.key) {
                    let Head { key, parent, start, tokens, len, .. } = head;
                    found.blocks.push(BlockInfo { key, parent, start, tokens, at, len });
                } else {
                    found.damage.push(Damage { at, what: "a block that is in the file twice".to_owned() });
                }
                (at, lost) = (at + head.len, false);
            }
            Err(what) => {
                // An index tells nothing that the records have not told; the lack of a footer has been reported.
                if !lost && !starts_with(source, at, index::MAGIC)? {
                    found.damage.push(Damage { at, what: format!("{what}; what is here is lost") });
                }
                lost = true;
                if patience == 0 {
                    let what = "too much looks like blocks and is none; the rest is not looked at".to_owned();
                    found.damage.push(Damage { at, what });
                    break;
                }
                at = next(source, at + ALIGN)?;
            }
        }
    }
    Ok(found)
}

/// The head of a record at `at`, or why there is none.
fn head_at(source: &Source, at: u64, patience: &mut u64) -> Result<Result<Head, String>, FileError> {
    let cut = || format!("{} bytes at the end of the file, too few for a block", source.len - at);
    let read = |len: usize| match source.len - at >= len as u64 {
        true => source.read(at, len as u64).map(Ok).map_err(|error| io(source, error)),
        false => Ok(Err(cut())),
    };
    let len = match read(FIXED)?.and_then(|fixed| head::bytes_of(&fixed)) {
        Ok(len) => len,
        Err(what) => return Ok(Err(what)),
    };
    let head = read(len)?.and_then(|bytes| Head::read(&bytes));
    if head.is_err() {
        *patience = patience.saturating_sub(len as u64);
    }
    Ok(head)
}

/// The head, where the record is whole and belongs here.
fn placed(source: &Source, at: u64, domain: Option<Domain>, head: Head) -> Result<Head, String> {
    if head.len > source.len - at {
        return Err(format!("a block of {} bytes that is cut off after {}", head.len, source.len - at));
    }
    match domain {
        Some(domain) if domain != head.domain => Err("a block of another model, recipe or tenant".to_owned()),
        _ => Ok(head),
    }
}

/// The next place from `at` on where a record may begin; the end of the file where there is none.
fn next(source: &Source, mut at: u64) -> Result<u64, FileError> {
    while at < source.len {
        let chunk = source.read(at, CHUNK.min(source.len - at)).map_err(|error| io(source, error))?;
        let place = chunk.chunks(ALIGN as usize).position(|place| place.starts_with(head::MAGIC));
        if let Some(place) = place {
            return Ok(at + place as u64 * ALIGN);
        }
        at += CHUNK;
    }
    Ok(source.len)
}

fn starts_with(source: &Source, at: u64, magic: &[u8; 8]) -> Result<bool, FileError> {
    let len = (source.len - at).min(magic.len() as u64);
    Ok(source.read(at, len).map_err(|error| io(source, error))? == magic)
}

fn io(source: &Source, error: std::io::Error) -> FileError {
    FileError::Io { path: source.path.clone(), what: "read", source: error }
}
