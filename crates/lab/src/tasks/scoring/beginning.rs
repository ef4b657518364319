//! How much of a passage an answer repeats before it first goes wrong.

/// The share of the words of `right` that `answer` begins with. Quotation marks and blanks around the answer do not
/// count.
pub(super) fn score(answer: &str, right: &str) -> f64 {
    let answer = answer.trim().trim_start_matches(['"', '“', '`', '\'']);
    let wanted = right.split_whitespace().count();
    // The last word may have a full stop or a quotation mark behind it.
    let same = |(at, (has, wants)): &(usize, (&str, &str))| {
        has == wants || *at + 1 == wanted && has.trim_end_matches(['"', '”', '`', '\'', '.']) == *wants
    };
    let pairs = answer.split_whitespace().zip(right.split_whitespace()).enumerate();
    pairs.take_while(same).count() as f64 / wanted.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::score;

    #[test]
    fn the_first_wrong_word_ends_it() {
        assert_eq!(score(" one two three four", "one two three four"), 1.0);
        assert_eq!(score("\"one two three four.\" And so on", "one two three four"), 1.0);
        assert_eq!(score("one two tree four", "one two three four"), 0.5);
        assert_eq!(score("One two", "one two"), 0.0);
        assert_eq!(score("one", "one two three four"), 0.25);
        assert_eq!(score("", "one"), 0.0);
    }
}
