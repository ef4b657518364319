//! Where the blocks of a file are.

use super::bytes::{ALIGN, Fields, put_tokens};
use super::head::{BLOCK_TOKENS, check_place};
use super::reader::BlockInfo;
use crate::{BlockKey, Domain};
use std::collections::HashSet;

pub(super) const MAGIC: &[u8; 8] = b"CKVINDEX";
/// Bytes of an entry before its tokens.
const ENTRY: usize = 96;

pub(super) fn write(domain: Domain, blocks: &[BlockInfo]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    [blocks.len() as u32, 0].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
    out.extend_from_slice(&domain.0);
    for block in blocks {
        [block.at, block.len, block.start].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        let flags = u32::from(block.parent.is_some());
        [block.tokens.len() as u32, flags].iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        out.extend_from_slice(&block.key.0);
        out.extend_from_slice(&block.parent.map_or([0; 32], |key| key.0));
        put_tokens(&block.tokens, &mut out);
    }
    out
}

/// The blocks of a file whose records lie below `end`; `None` where the index contradicts itself.
pub(super) fn read(bytes: &[u8], end: u64) -> Option<(Domain, Vec<BlockInfo>)> {
    let mut fields = Fields(bytes);
    if fields.slice(MAGIC.len())? != MAGIC {
        return None;
    }
    let (count, _) = (fields.u32()? as usize, fields.u32()?);
    let domain = Domain(fields.array()?);
    if count > fields.0.len() / ENTRY {
        return None;
    }
    let blocks = (0..count).map(|_| entry(&mut fields, domain, end)).collect::<Option<Vec<BlockInfo>>>()?;
    let mut seen = HashSet::new();
    let once = blocks.iter().all(|block| seen.insert(block.key));
    (once && fields.0.is_empty()).then_some((domain, blocks))
}

fn entry(fields: &mut Fields<'_>, domain: Domain, end: u64) -> Option<BlockInfo> {
    let (at, len, start) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (tokens, flags) = (fields.u32()? as usize, fields.u32()?);
    let (key, parent) = (BlockKey(fields.array()?), BlockKey(fields.array()?));
    let parent = (flags & 1 != 0).then_some(parent);
    let tokens = fields.tokens(Some(tokens).filter(|&n| n <= BLOCK_TOKENS)?)?;
    check_place(parent, start, tokens.len()).ok()?;
    let within = at.is_multiple_of(ALIGN) && at.checked_add(len).is_some_and(|last| last <= end);
    let right = within && domain.key(parent, &tokens) == key;
    right.then_some(BlockInfo { key, parent, start, tokens, at, len })
}
