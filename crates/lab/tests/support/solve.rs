//! Solvers that read nothing but the prompt.

use std::collections::HashMap;

/// What stands behind `begin`, up to the first of `ends`.
fn between<'a>(text: &'a str, begin: &str, ends: &[char]) -> Vec<&'a str> {
    text.split(begin).skip(1).map(|part| part.split(|c| ends.contains(&c)).next().unwrap()).collect()
}

/// The only thing that stands behind `begin`.
fn only(text: &str, begin: &str, ends: &[char]) -> String {
    let found = between(text, begin, ends);
    assert_eq!(found.len(), 1, "{begin}");
    found[0].to_owned()
}

fn most_frequent(words: impl Iterator<Item = String>, count: usize) -> Vec<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    words.for_each(|word| *counts.entry(word).or_default() += 1);
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    // Nothing beyond is as frequent.
    assert!(counts[count - 1].1 > counts[count].1, "{counts:?}");
    counts.into_iter().take(count).map(|(word, _)| word).collect()
}

/// The answer to a question of a kind, from the text before it and what asks.
pub fn solve(kind: &str, text: &str, asks: &str) -> Vec<String> {
    let asked = asks.trim_start().trim_start_matches("Question: ").split('?').next().unwrap();
    let behind = |begin: &str| asked.split(begin).nth(1).unwrap_or_else(|| panic!("{begin}: {asked}")).to_owned();
    match kind {
        "needle" => {
            // What is asked about, without the words of the question, stands in one sentence with a number.
            let about: Vec<&str> = asked.split(' ').filter(|word| word.len() > 3).collect();
            let number = |word: &&str| word.len() == 5 && word.parse::<u32>().is_ok();
            let facts =
                text.split_inclusive(['.', '\n']).filter(|fact| fact.split([' ', '.']).any(|word| number(&word)));
            let shared = |fact: &str| about.iter().filter(|word| fact.contains(**word)).count();
            let best = facts.max_by_key(|fact| shared(fact)).unwrap();
            best.split([' ', '.']).filter(number).map(str::to_owned).collect()
        }
        "multi-key" | "multi-value" | "multi-query" => {
            let keys = behind(" of ").replace(" that the text names", "").replace(", and ", ", ");
            let numbers = |key: &str| between(text, &format!("One of the reference numbers of {key} is "), &['.']);
            keys.split(", ").flat_map(numbers).map(str::to_owned).collect()
        }
        "passkey" => vec![only(text, "The pass key is ", &['.'])],
        "kv-retrieval" => vec![only(text, &format!("{}: \"", behind("the value of ")), &['"'])],
        "variable-tracking" => {
            let value = behind("the value ").replace(" in the text", "");
            let assignment = |(at, _): (usize, &str)| {
                (text[..at].rsplit(' ').next().unwrap(), text[at + 3..].split('.').next().unwrap())
            };
            let assignments: Vec<(&str, &str)> = text.match_indices(" = ").map(assignment).collect();
            let mut known: Vec<String> = Vec::new();
            loop {
                let follows = |from: &str| from == value || known.iter().any(|name| from == format!("VAR {name}"));
                let more: Vec<String> = assignments
                    .iter()
                    .filter(|(name, from)| follows(from) && !known.contains(&(*name).to_owned()))
                    .map(|(name, _)| (*name).to_owned())
                    .collect();
                if more.is_empty() {
                    return known;
                }
                known.extend(more);
            }
        }
        "common-words" => {
            let list = &text[text.find("1. ").unwrap()..];
            most_frequent(list.split_whitespace().skip(1).step_by(2).map(str::to_owned), 10)
        }
        "frequent-words" => {
            let code = &text[text.find("nothing.").unwrap() + 8..];
            let words = code.split_whitespace().filter(|word| word.chars().all(|c| c.is_ascii_lowercase()));
            // The template's own words are not in code.
            most_frequent(words.filter(|word| word.len() == 6).map(str::to_owned), 3)
        }
        "copy" => {
            let name = behind("BEGIN ").replace(" and END", "");
            let passage = only(text, &format!("BEGIN {name}: "), &['.']);
            vec![passage.strip_suffix(" END").unwrap().to_owned()]
        }
        "two-hop" => {
            let thing = behind("where the ").replace(" is kept", "");
            let place = only(text, &format!("The {thing} is kept in the "), &['.']);
            vec![only(text, &format!("The number of the {place} is "), &['.'])]
        }
        "many-shot" => {
            let thing = behind("To which group does \"").split('"').next().unwrap().to_owned();
            assert!(!text.contains(&thing), "the pair has an example");
            let noun = thing.split(' ').nth(1).unwrap();
            let mut groups = between(text, &format!(" {noun}: "), &['\n']);
            assert!(!groups.is_empty());
            groups.sort_unstable();
            groups.dedup();
            groups.into_iter().map(str::to_owned).collect()
        }
        other => panic!("no solver for {other}"),
    }
}
