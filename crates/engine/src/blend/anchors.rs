//! Anchors by agent and place, within a limit of bytes: the account of the pool counts them, and they go when memory is wanted.

use std::collections::HashMap;

use cachalot_kv::anchor::{Anchor, formula};
use cachalot_store::{BlockKey, Domain};

/// The oldest anchors of a place, of which one goes for a new one (the paper's code).
const WINDOW: usize = 5;
/// What share of the weight those anchors have together that are said to have been of use.
const NUCLEUS: f32 = 0.9;

/// A place for messages in an agent's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// See [`super::Template::agent`].
    pub agent: [u8; 32],
    /// Which of its places.
    pub index: usize,
}

/// A stretch in a context of its own: the block that it ends in, which names all before it, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub block: BlockKey,
    pub start: usize,
}

/// An anchor in its place.
pub(crate) struct Set {
    pub anchor: Anchor,
    /// The text behind the message as it is when nothing was added to it.
    pub after: Option<Name>,
    /// How often it was of use, and when last.
    uses: u64,
    used: u64,
}

/// All anchors.
#[derive(Default)]
pub(crate) struct Anchors {
    /// Oldest first.
    places: HashMap<(Domain, Place), Vec<Set>>,
    bytes: u64,
}

impl Anchors {
    /// Bytes of all, which the pool's account has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.values().map(Vec::len).sum()
    }

    /// Those of some domains: how many, and their bytes.
    pub fn of(&self, domains: impl Fn(&Domain) -> bool) -> (usize, u64) {
        let of = self.places.iter().filter(|((domain, _), _)| domains(domain)).flat_map(|(_, sets)| sets);
        of.fold((0, 0), |(count, bytes), set| (count + 1, bytes + set.anchor.bytes()))
    }

    /// Those that a message of so many tokens can be compared with.
    pub fn fitting(&self, domain: Domain, place: Place, tokens: usize) -> Vec<&Set> {
        let sets = self.places.get(&(domain, place)).map_or(&[][..], Vec::as_slice);
        sets.iter().filter(|set| set.anchor.tokens() >= tokens).collect()
    }

    /// Counts who was of use to a message at these distances from [`Anchors::fitting`].
    pub fn count(&mut self, domain: Domain, place: Place, tokens: usize, distances: &[f32], now: u64) {
        let nucleus = formula::nucleus(&formula::weights(distances), NUCLEUS);
        let sets = self.places.get_mut(&(domain, place)).into_iter().flatten();
        let fitting = sets.filter(|set| set.anchor.tokens() >= tokens).enumerate();
        for (_, set) in fitting.filter(|(i, _)| nucleus.contains(i)) {
            (set.uses, set.used) = (set.uses + 1, now);
        }
    }

    /// Makes room for so many bytes more below a limit. False where there cannot be.
    pub fn make_room(&mut self, bytes: u64, limit: u64) -> bool {
        while self.bytes + bytes > limit && self.evict() {}
        self.bytes + bytes <= limit
    }

    /// Sets an anchor in its place, which has at most so many.
    pub fn set(&mut self, domain: Domain, place: Place, anchor: Anchor, after: Option<Name>, most: usize, now: u64) {
        self.bytes += anchor.bytes();
        let sets = self.places.entry((domain, place)).or_default();
        sets.push(Set { anchor, after, uses: 0, used: now });
        if sets.len() > most {
            let uses: Vec<u64> = sets[..sets.len() - 1].iter().map(|set| set.uses).collect();
            if let Some(i) = formula::superfluous(&uses, WINDOW) {
                self.bytes -= sets.remove(i).anchor.bytes();
            }
        }
    }

    /// When the one that was of use longest ago was so.
    pub fn oldest(&self) -> Option<u64> {
        self.places.values().flatten().map(|set| set.used).min()
    }

    /// Lets go of one that was of use longest ago. False where there is none.
    pub fn evict(&mut self) -> bool {
        let Some(oldest) = self.oldest() else { return false };
        let mut gone = false;
        self.retain(|_, set| {
            let goes = !gone && set.used == oldest;
            gone |= goes;
            !goes
        });
        gone
    }

    /// Forgets all of a domain.
    pub fn remove_domain(&mut self, domain: Domain) {
        self.retain(|of, _| *of != domain);
    }

    fn retain(&mut self, mut keep: impl FnMut(&Domain, &Set) -> bool) {
        let mut left = 0;
        self.places.retain(|(domain, _), sets| {
            sets.retain(|set| keep(domain, set));
            left += sets.iter().map(|set| set.anchor.bytes()).sum::<u64>();
            !sets.is_empty()
        });
        self.bytes = left;
    }
}
