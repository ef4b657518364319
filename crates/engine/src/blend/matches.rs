//! What an edited text has in common with what it was: stretches that stand in both, in the same order.

use std::collections::HashMap;
use std::ops::Range;

/// Tokens by which a stretch is recognised.
const ANCHOR: usize = 16;

/// A stretch of both texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Where it stands now.
    pub new: Range<usize>,
    /// Where it stood.
    pub old: Range<usize>,
}

/// Stretches of at least 16 tokens that both have, ascending in both. Not the longest there could be: each is found by the
/// first 16 tokens that `old` has in one place only, and grown from there.
pub fn matches(old: &[u32], new: &[u32]) -> Vec<Match> {
    let mut places: HashMap<&[u32], Option<usize>> = HashMap::new();
    for (at, anchor) in old.windows(ANCHOR).enumerate() {
        places.entry(anchor).and_modify(|place| *place = None).or_insert(Some(at));
    }
    let mut found: Vec<Match> = Vec::new();
    let common = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    if common > 0 {
        found.push(Match { new: 0..common, old: 0..common });
    }
    let (mut after_new, mut after_old) = (common, common);
    while after_new + ANCHOR <= new.len() {
        let mut at = after_new;
        let place = loop {
            if at + ANCHOR > new.len() {
                break None;
            }
            match places.get(&new[at..at + ANCHOR]) {
                Some(Some(place)) if *place >= after_old => break Some(*place),
                _ => at += 1,
            }
        };
        let Some(place) = place else { break };
        // Tokens before it that were no anchors.
        let back = (new[after_new..at].iter().rev()).zip(old[after_old..place].iter().rev());
        let back = back.take_while(|(a, b)| a == b).count();
        let on = new[at..].iter().zip(&old[place..]).take_while(|(a, b)| a == b).count();
        found.push(Match { new: at - back..at + on, old: place - back..place + on });
        (after_new, after_old) = (at + on, place + on);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: u32) -> Vec<u32> {
        (0..len).map(|i| i.wrapping_mul(2_654_435_761) >> 20).collect()
    }

    #[test]
    fn edits_leave_what_is_around_them() {
        let old = text(500);
        let new = [&old[..100], &[1, 2, 3], &old[100..300], &old[310..400], &[9], &old[401..]].concat();
        let found = matches(&old, &new);
        let places: Vec<[Range<usize>; 2]> = found.into_iter().map(|m| [m.new, m.old]).collect();
        assert_eq!(places, [[0..100, 0..100], [103..303, 100..300], [303..393, 310..400], [394..493, 401..500]]);
    }

    #[test]
    fn stretches_are_what_they_are_said_to_be() {
        let old = [text(200), text(200), vec![3; 100]].concat();
        let new = [text(77), vec![3; 60], text(200)].concat();
        let found = matches(&old, &new);
        assert!(found.iter().all(|m| new[m.new.clone()] == old[m.old.clone()]));
        assert!(found.windows(2).all(|p| p[0].new.end <= p[1].new.start && p[0].old.end <= p[1].old.start));
        assert_eq!(matches(&old, &old), [Match { new: 0..500, old: 0..500 }]);
        assert_eq!(matches(&[], &new), []);
        assert_eq!(matches(&old, &[]), []);
    }
}
