//! Options that are called A to D (SCBench's `scbench_choice_eng`, from InfiniteBench).

/// `right` is the option's text and its letter, in any order.
pub(super) fn score(answer: &str, right: &[String]) -> f64 {
    f64::from(u8::from(chosen(answer.trim(), right)))
}

fn chosen(answer: &str, right: &[String]) -> bool {
    let is = |what: &str| right.iter().any(|right| right == what);
    let letter = answer.chars().next().filter(|first| "ABCD".contains(*first));
    if let Some(letter) = letter {
        return is(letter.encode_utf8(&mut [0; 4]));
    }
    if answer.is_empty() || is(answer) {
        return !answer.is_empty();
    }
    let blank = answer.replace(['\n', '"', '\'', '.', ',', '?', '!', '{', '}'], " ");
    // Runs of blanks become one, which may be the first or the last character.
    let mut text = String::new();
    for c in blank.chars().filter(|c| *c != '\r') {
        if c != ' ' || !text.ends_with(' ') {
            text.push(c);
        }
    }
    for announced in ["answer is:", "answer:", "answer is", "option is"] {
        if let Some(at) = text.find(announced) {
            let mut rest = text[at + announced.len()..].chars();
            // The blank behind it.
            return rest.next().is_some() && right.iter().any(|right| rest.as_str().starts_with(&right[..]));
        }
    }
    text.split_whitespace().find(|word| "ABCD".contains(word)).is_some_and(is)
}

#[cfg(test)]
mod tests {
    use super::score;

    #[test]
    fn letters_and_texts() {
        let right = ["the harbour".to_owned(), "B".to_owned()];
        for answer in
            ["B", "B. the harbour", " the harbour\n", "the answer is: B", "My answer: the harbour", "I say (maybe) B ."]
        {
            assert_eq!(score(answer, &right), 1.0, "{answer}");
        }
        for answer in ["A", "A bit unsure, but B", "the answer is: C", "the answer:", "", "none", "I say A or B"] {
            assert_eq!(score(answer, &right), 0.0, "{answer}");
        }
    }
}
