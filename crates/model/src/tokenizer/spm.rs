//! SentencePiece-style byte pair encoding from pieces with scores.
//!
//! Neighbouring pieces are merged while the merged piece exists, the highest score first and the leftmost among
//! equals. That order depends on positions, so a fixed list of merges cannot reproduce it when two pieces have one
//! score (which happens in real vocabularies); hence an encoder of our own. O(n log n) in the length of the text.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// What a piece is for; numbers as in SentencePiece's model format and in GGUF's `token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl PieceKind {
    /// From the number in the file; anything unknown is a normal piece.
    pub fn from_number(n: i32) -> Self {
        match n {
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            5 => PieceKind::Unused,
            6 => PieceKind::Byte,
            _ => PieceKind::Normal,
        }
    }
}

/// The encoder.
#[derive(Debug)]
pub(crate) struct Spm {
    pieces: HashMap<Box<str>, Piece>,
    bytes: Option<Box<[u32; 256]>>,
    unk: Option<u32>,
    /// A space is put before text that begins a prompt or follows a control token.
    pub add_space_prefix: bool,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    id: u32,
    score: f32,
    unused: bool,
}

impl Spm {
    /// `pieces` are (text, score, kind) by id. Scores that are not numbers count as the lowest.
    pub fn new(pieces: &[(&str, f32, PieceKind)], unk: Option<u32>, add_space_prefix: bool) -> Self {
        let mut map = HashMap::with_capacity(pieces.len());
        let mut bytes: Box<[Option<u32>; 256]> = Box::new([None; 256]);
        for (id, &(text, score, kind)) in pieces.iter().enumerate() {
            let id = id as u32;
            match kind {
                PieceKind::Byte => {
                    if let Some(byte) = super::table::fallback_byte(text) {
                        bytes[byte as usize] = Some(id);
                    }
                }
                // Not reachable by merging: text that spells them stays text.
                PieceKind::Control | PieceKind::Unknown => {}
                PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => {
                    let score = if score.is_nan() { f32::NEG_INFINITY } else { score };
                    map.entry(text.into()).or_insert(Piece { id, score, unused: kind == PieceKind::Unused });
                }
            }
        }
        let all: Option<Vec<u32>> = bytes.iter().copied().collect();
        let bytes = all.and_then(|b| b.into_boxed_slice().try_into().ok());
        Spm { pieces: map, bytes, unk, add_space_prefix }
    }

    /// Whether text can always be written: every byte or at least the unknown piece exists.
    pub fn is_total(&self) -> bool {
        self.bytes.is_some() || self.unk.is_some()
    }

    /// Appends the ids of a stretch of text that has no added tokens in it. `prefix`: this stretch is one that gets the
    /// leading space, if the model has one at all.
    pub fn encode(&self, text: &str, prefix: bool, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut escaped = String::with_capacity(text.len() + text.len() / 2);
        if prefix && self.add_space_prefix {
            escaped.push('▁');
        }
        text.chars().for_each(|c| escaped.push(if c == ' ' { '▁' } else { c }));
        Merging::new(self, &escaped).run(out);
    }
}

const NONE: usize = usize::MAX;

/// A piece of the text during merging; `len` 0 means it was merged away.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
}

/// A possible merge. It is stale when its two symbols no longer have `len` bytes together.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}
impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Pair {}

struct Merging<'a> {
    spm: &'a Spm,
    text: &'a str,
    symbols: Vec<Symbol>,
    pairs: BinaryHeap<Pair>,
    /// How a piece that is only a step on the way (unused) was put together: byte length of its left part.
    unused: HashMap<&'a str, usize>,
    /// The last id pushed was the unknown piece; a run of unknown characters is one of it.
    after_unknown: bool,
}

impl<'a> Merging<'a> {
    fn new(spm: &'a Spm, text: &'a str) -> Self {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol { start, len: c.len_utf8(), prev: i.wrapping_sub(1), next: i + 1 })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        let pairs = BinaryHeap::with_capacity(symbols.len());
        Merging { spm, text, symbols, pairs, unused: HashMap::new(), after_unknown: false }
    }

    fn consider(&mut self, left: usize, right: usize) {
        if left == NONE || right == NONE {
            return;
        }
        let (a, b) = (self.symbols[left], self.symbols[right]);
        let text = &self.text[a.start..b.start + b.len];
        if let Some(piece) = self.spm.pieces.get(text) {
            self.pairs.push(Pair { score: piece.score, left, right, len: text.len() });
            if piece.unused {
                self.unused.insert(text, a.len);
            }
        }
    }

    fn run(mut self, out: &mut Vec<u32>) {
        for right in 1..self.symbols.len() {
            self.consider(right - 1, right);
        }
        while let Some(pair) = self.pairs.pop() {
            let (left, right) = (self.symbols[pair.left], self.symbols[pair.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            self.symbols[pair.left].len = pair.len;
            self.symbols[pair.left].next = right.next;
            self.symbols[pair.right].len = 0;
            if right.next != NONE {
                self.symbols[right.next].prev = pair.left;
            }
            self.consider(left.prev, pair.left);
            self.consider(pair.left, right.next);
        }
        let mut at = if self.symbols.is_empty() { NONE } else { 0 };
        while at != NONE {
            let symbol = self.symbols[at];
            self.write(&self.text[symbol.start..symbol.start + symbol.len], out);
            at = symbol.next;
        }
    }

    /// One final symbol. An unused piece is taken apart again the way it was put together.
    fn write(&mut self, text: &'a str, out: &mut Vec<u32>) {
        let mut parts = vec![text];
        while let Some(text) = parts.pop() {
            match self.spm.pieces.get(text) {
                Some(piece) if !piece.unused => {
                    out.push(piece.id);
                    self.after_unknown = false;
                }
                Some(_) if self.unused.contains_key(text) => {
                    let (left, right) = text.split_at(self.unused[text]);
                    parts.push(right);
                    parts.push(left);
                }
                _ => self.write_unknown(text, out),
            }
        }
    }

    fn write_unknown(&mut self, text: &str, out: &mut Vec<u32>) {
        if let Some(bytes) = &self.spm.bytes {
            out.extend(text.bytes().map(|b| bytes[b as usize]));
        } else if let Some(unk) = self.spm.unk {
            if !self.after_unknown {
                out.push(unk);
            }
            self.after_unknown = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(pieces: &[(&str, f32, PieceKind)], text: &str) -> Vec<u32> {
        let spm = Spm::new(pieces, Some(0), true);
        let mut out = Vec::new();
        spm.encode(text, false, &mut out);
        out
    }

    #[test]
    fn the_best_score_first_and_the_leftmost_among_equals() {
        use PieceKind::*;
        let pieces =
            [("<unk>", 0., Unknown), ("a", -9., Normal), ("b", -9., Normal), ("ab", -2., Normal), ("ba", -1., Normal)];
        assert_eq!(encode(&pieces, "aba"), [1, 4]);
        let tie = [("<unk>", 0., Unknown), ("a", -9., Normal), ("aa", -1., Normal), ("aaa", -1., Normal)];
        // aa at 0, then of the equal ones again the leftmost: aaa at 0, then aa at 3.
        assert_eq!(encode(&tie, "aaaaa"), [3, 2]);
    }

    #[test]
    fn unknown_runs_are_one_and_unused_pieces_are_taken_apart() {
        use PieceKind::*;
        let pieces = [("<unk>", 0., Unknown), ("a", -9., Normal), ("b", -9., Normal), ("ab", -1., Unused)];
        assert_eq!(encode(&pieces, "abzzaz"), [1, 2, 0, 1, 0]);
        assert_eq!(encode(&pieces, ""), [] as [u32; 0]);
    }

    #[test]
    fn the_space_prefix_is_there_only_when_asked() {
        use PieceKind::*;
        let spm = Spm::new(&[("<unk>", 0., Unknown), ("▁", -1., Normal), ("a", -1., Normal)], Some(0), true);
        let mut out = Vec::new();
        spm.encode("a", true, &mut out);
        spm.encode("a", false, &mut out);
        spm.encode("", true, &mut out);
        assert_eq!(out, [1, 2, 2]);
    }
}
