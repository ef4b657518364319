//! Content-defined chunks: cuts depend on the tokens around them alone, so that texts with a stretch in common have most of
//! their chunks in common, wherever the stretch stands.

use std::ops::Range;

/// Tokens that decide on a cut behind them.
const WINDOW: usize = 8;
/// Fewest tokens of a chunk.
pub const MIN: usize = 64;
/// Most tokens of a chunk.
pub const MAX: usize = 1024;
/// A cut falls on one of so many places, beyond the fewest tokens.
const ONE_OF: u64 = 256;

/// The chunks of some tokens, one after the other; the last may be shorter than [`MIN`].
pub fn chunks(tokens: &[u32]) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    for end in 1..=tokens.len() {
        let len = end - start;
        let cut = len >= MAX || len >= MIN && weight(&tokens[end - WINDOW.min(end)..end]).is_multiple_of(ONE_OF);
        if cut || end == tokens.len() {
            chunks.push(start..end);
            start = end;
        }
    }
    chunks
}

/// A number that every token of the window has a part in (FNV-1a, finished as splitmix64 is).
fn weight(window: &[u32]) -> u64 {
    let mix = |hash: u64, token: &u32| (hash ^ u64::from(*token)).wrapping_mul(0x100_0000_01b3);
    let mut hash = window.iter().fold(0xcbf2_9ce4_8422_2325, mix);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u32, len: usize) -> Vec<u32> {
        (0..len as u32).map(|i| (i ^ seed).wrapping_mul(2_654_435_761) >> 16).collect()
    }

    #[test]
    fn chunks_cover_the_text_within_their_bounds() {
        for len in [0, 1, 63, 64, 5000] {
            let tokens = text(7, len);
            let chunks = chunks(&tokens);
            assert!(chunks.iter().flat_map(Clone::clone).eq(0..len));
            let inner = &chunks[..chunks.len().saturating_sub(1)];
            assert!(inner.iter().all(|chunk| (MIN..=MAX).contains(&chunk.len())));
        }
        // The same token without end.
        assert!(chunks(&[5; 3000]).iter().all(|chunk| chunk.len() <= MAX));
    }

    #[test]
    fn most_chunks_survive_a_move() {
        let (body, head) = (text(1, 20_000), text(2, 333));
        let moved = [&head[..], &body].concat();
        let texts = |tokens: &[u32]| -> std::collections::HashSet<Vec<u32>> {
            chunks(tokens).into_iter().map(|chunk| tokens[chunk].to_vec()).collect()
        };
        let (before, after) = (texts(&body), texts(&moved));
        let common = before.intersection(&after).map(Vec::len).sum::<usize>();
        assert!(common > 18_000, "{common}");
    }
}
