//! Strings that the answer contains, whatever the case of letters (RULER's `string_match_all` and `string_match_part`).

/// The share of the expected strings.
pub(super) fn all(answer: &str, expected: &[String]) -> f64 {
    found(answer, expected) as f64 / expected.len().max(1) as f64
}

/// 1 for any of them.
pub(super) fn any(answer: &str, expected: &[String]) -> f64 {
    f64::from(u8::from(found(answer, expected) > 0))
}

fn found(answer: &str, expected: &[String]) -> usize {
    let answer = answer.to_lowercase();
    expected.iter().filter(|expected| answer.contains(&expected.to_lowercase())).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_what_was_expected() {
        let expected = ["48213".to_owned(), "Lima".to_owned()];
        assert_eq!(all("It is 48213 in LIMA.", &expected), 1.0);
        assert_eq!(all("4821 lima", &expected), 0.5);
        assert_eq!(all("", &expected), 0.0);
        assert_eq!(any("4821 lima", &expected), 1.0);
        assert_eq!(any("4821", &expected), 0.0);
    }
}
