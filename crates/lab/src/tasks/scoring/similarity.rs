//! Likeness of two lines (Ratcliff and Metzener, "Pattern matching: the gestalt approach", 1988), as Python's difflib
//! computes it and the package `fuzzywuzzy` 0.18 rounds it where `python-Levenshtein` is not installed.

use std::collections::HashMap;

/// LongBench's `code_sim_score`: the first line of the answer that has no mark of a comment or of a block of code.
pub(super) fn code(answer: &str, right: &str) -> f64 {
    let is_code = |line: &&str| !line.contains('`') && !line.contains('#') && !line.contains("//");
    let line = answer.trim_start_matches('\n').split('\n').find(is_code).unwrap_or_default();
    percent(line, right) / 100.0
}

/// Twice the characters in common over all characters, in whole percents.
fn percent(one: &str, other: &str) -> f64 {
    if one == other {
        return 100.0;
    }
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.is_empty() || other.is_empty() {
        return 0.0;
    }
    let ratio = 2.0 * matching(&one, &other) as f64 / (one.len() + other.len()) as f64;
    (100.0 * ratio).round_ties_even()
}

/// Characters of the longest common block, of the longest on its left, on its right, and so on.
fn matching(one: &[char], other: &[char]) -> usize {
    let mut places: HashMap<char, Vec<usize>> = HashMap::new();
    other.iter().enumerate().for_each(|(at, c)| places.entry(*c).or_default().push(at));
    if other.len() >= 200 {
        // Characters that are everywhere do not begin a block.
        places.retain(|_, at| at.len() <= other.len() / 100 + 1);
    }
    let (mut sum, mut parts) = (0, vec![(0..one.len(), 0..other.len())]);
    while let Some((a, b)) = parts.pop() {
        let (mut i, mut j, mut length) = (a.start, b.start, 0);
        // Lengths of the blocks that end at a place of `other` and at the last character of `one`.
        let mut ending: HashMap<usize, usize> = HashMap::new();
        for at in a.clone() {
            let mut next = HashMap::new();
            for &place in places.get(&one[at]).into_iter().flatten().filter(|place| b.contains(place)) {
                let run = place.checked_sub(1).and_then(|before| ending.get(&before)).unwrap_or(&0) + 1;
                next.insert(place, run);
                if run > length {
                    (i, j, length) = (at + 1 - run, place + 1 - run, run);
                }
            }
            ending = next;
        }
        while i > a.start && j > b.start && one[i - 1] == other[j - 1] {
            (i, j, length) = (i - 1, j - 1, length + 1);
        }
        while i + length < a.end && j + length < b.end && one[i + length] == other[j + length] {
            length += 1;
        }
        if length > 0 {
            sum += length;
            parts.push((a.start..i, b.start..j));
            parts.push((i + length..a.end, j + length..b.end));
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_those_of_the_package() {
        let (long, more) = ("ab".repeat(120), "ab".repeat(119) + "Q");
        // Computed by `fuzz.ratio` of fuzzywuzzy 0.18.0 with difflib.
        for (one, other, expected) in [
            ("return self.value", "return self.values()", 92.0),
            ("for i in range(10):", "for j in range(n):", 86.0),
            ("    let x = foo(bar, baz);", "    let y = foo(baz, bar);", 88.0),
            ("private Thread currentThread", "private volatile Thread currentThread;", 85.0),
            ("été à la mer", "ete a la mère", 64.0),
            ("abcd", "bcde", 75.0),
            ("xyz", "abc", 0.0),
            ("", "a", 0.0),
            ("", "", 100.0),
            // In two hundred characters and more, frequent ones do not begin a block; next to one they count.
            (&long, &(long.clone() + "Q"), 100.0),
            (&(long.clone() + "Qz"), &more, 99.0),
            (&("x".to_owned() + &long), &long, 0.0),
            (&"ab".repeat(90).replacen('a', "xa", 1), &"ab".repeat(90), 100.0),
        ] {
            assert_eq!(percent(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn the_first_line_of_code_counts() {
        assert_eq!(code("\n```python\n# adds\nx += 1\ny = 2", "x += 1"), 1.0);
        assert_eq!(code("// only a comment", "x += 1"), 0.0);
    }
}
