//! Facts among sentences, of which nothing else in the text may say the same.

use super::lexicon;
use crate::statistics::Random;

/// Facts that are to be hidden among sentences.
pub(super) struct Facts<'a> {
    sentences: &'a [&'a str],
    /// Before which sentence, and what.
    facts: Vec<(usize, String)>,
    /// What was drawn.
    drawn: Vec<String>,
}

impl<'a> Facts<'a> {
    /// None yet.
    pub fn among(sentences: &'a [&'a str]) -> Facts<'a> {
        Facts { sentences, facts: Vec::new(), drawn: Vec::new() }
    }

    /// A number of so many digits; of more where the text has all of them.
    pub fn number(&mut self, digits: u32, random: &mut Random) -> String {
        self.new_one(|more| {
            let least = 10usize.pow((digits + more as u32).min(18) - 1);
            (least + random.below(9 * least)).to_string()
        })
    }

    /// Two words with a hyphen.
    pub fn key(&mut self, random: &mut Random) -> String {
        self.new_one(|more| {
            let pair = |random: &mut Random| lexicon::pair(random.below(lexicon::PAIRS));
            (0..more).fold(pair(random), |key, _| format!("{key}-{}", pair(random)))
        })
    }

    /// Capital letters.
    pub fn name(&mut self, letters: usize, random: &mut Random) -> String {
        self.new_one(|more| (0..letters + more).map(|_| char::from(b'A' + random.below(26) as u8)).collect())
    }

    /// The first that stands nowhere so far: neither in a sentence nor in a fact, nor in what was drawn before. One
    /// that the filler happens to have would prove nothing. After many failures `draw` is told to make longer ones.
    fn new_one(&mut self, mut draw: impl FnMut(usize) -> String) -> String {
        let mut failures = 0;
        loop {
            let one = draw(failures / 100);
            let said = self.facts.iter().map(|fact| &fact.1[..]).chain(self.sentences.iter().copied());
            if !said.chain(self.drawn.iter().map(String::as_str)).any(|said| said.contains(&one)) {
                self.drawn.push(one.clone());
                return one;
            }
            failures += 1;
        }
    }

    /// At a depth: before the sentence that lies there.
    pub fn hide(&mut self, depth: f64, fact: String) {
        let at = (depth.clamp(0.0, 1.0) * self.sentences.len() as f64).round() as usize;
        self.facts.push((at.min(self.sentences.len()), fact));
    }

    /// Sentences and facts; those at one place in the order in which they were hidden.
    pub fn text(mut self) -> String {
        self.facts.sort_by_key(|fact| fact.0);
        let mut facts = self.facts.iter().peekable();
        let mut text: Vec<&str> = Vec::with_capacity(self.sentences.len() + self.facts.len());
        for at in 0..=self.sentences.len() {
            while let Some(fact) = facts.next_if(|fact| fact.0 == at) {
                text.push(&fact.1);
            }
            text.extend(self.sentences.get(at));
        }
        text.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_stands_nowhere_else() {
        let all: Vec<String> = (10..100).filter(|n| n % 10 != 7).map(|n| n.to_string()).collect();
        let sentences: Vec<&str> = all.iter().map(String::as_str).collect();
        let mut facts = Facts::among(&sentences);
        let mut random = Random::new(2);
        facts.hide(0.5, "There are 17, 37, 57, 77 and 97 of them.".into());
        // 27, 47, 67 and 87 are left, and each is drawn once.
        let mut drawn: Vec<String> = (0..4).map(|_| facts.number(2, &mut random)).collect();
        drawn.retain(|number| number.len() == 2);
        let found = drawn.len();
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn.len(), found);
        assert!(drawn.iter().all(|number| ["27", "47", "67", "87"].contains(&&number[..])), "{drawn:?}");
        // Where nothing is left, longer ones do.
        (0..4).for_each(|_| drop(facts.number(2, &mut random)));
        assert!(facts.number(2, &mut random).len() > 2);
    }

    #[test]
    fn facts_lie_at_their_depths_in_order() {
        let sentences = ["a.", "b.", "c.", "d."];
        let mut facts = Facts::among(&sentences);
        for (depth, fact) in [(1.0, "5"), (0.0, "1"), (0.5, "2"), (0.5, "3"), (7.0, "6"), (0.7, "4")] {
            facts.hide(depth, fact.into());
        }
        assert_eq!(facts.text(), "1 a. b. 2 3 c. 4 d. 5 6");
    }
}
