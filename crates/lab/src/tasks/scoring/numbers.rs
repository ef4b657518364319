//! Numbers in answers.

/// All runs of digits.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty())
}

/// The share of the answer's numbers that are `right`, digit by digit.
pub(super) fn share(answer: &str, right: &str) -> f64 {
    let all = runs(answer).count();
    runs(answer).filter(|run| *run == right).count() as f64 / all.max(1) as f64
}

/// The same for a reference such as `Paragraph 12`.
pub(super) fn retrieved(answer: &str, right: &str) -> f64 {
    runs(right).next().map_or(0.0, |right| share(answer, right))
}

/// Whether the first number is `right`, digit by digit.
pub(super) fn first_integer(answer: &str, right: &str) -> f64 {
    f64::from(u8::from(runs(answer).next() == Some(right)))
}

/// Whether the first number, with its decimals, is `right`; whole where that is.
pub(super) fn first_number(answer: &str, right: &str) -> f64 {
    let is_right = || {
        let start = answer.find(|c: char| c.is_ascii_digit())?;
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let rest = &answer[start..];
        let whole = digits(rest);
        let decimals = rest[whole..].strip_prefix('.').map_or(0, digits);
        let number = &rest[..if decimals > 0 { whole + 1 + decimals } else { whole }];
        let number: f64 = number.parse().ok()?;
        Some(match right.parse::<i64>() {
            Ok(right) => number.trunc() == right as f64,
            Err(_) => number == right.parse::<f64>().ok()?,
        })
    };
    f64::from(u8::from(is_right().unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_of_an_answer_share_the_point() {
        assert_eq!(share("There are 7 paragraphs.", "7"), 1.0);
        assert_eq!(share("7 of 9, or 7", "7"), 2.0 / 3.0);
        assert_eq!(share("17", "7"), 0.0);
        assert_eq!(share("seven", "7"), 0.0);
        assert_eq!(retrieved("Paragraph 12", "Paragraph 12"), 1.0);
        assert_eq!(retrieved("12 or 13", "段落12"), 0.5);
    }

    #[test]
    fn the_first_number_counts() {
        assert_eq!(first_integer("The pass key is 01234. Not 5.", "01234"), 1.0);
        assert_eq!(first_integer("5, then 01234", "01234"), 0.0);
        assert_eq!(first_integer("none", "1"), 0.0);
        assert_eq!(first_number("is -3.75 or so", "3.75"), 1.0);
        assert_eq!(first_number("about 3.75", "3"), 1.0);
        assert_eq!(first_number("it is 4. Done", "4"), 1.0);
        assert_eq!(first_number("it is 4", "4.5"), 0.0);
        assert_eq!(first_number("it is 4.50", "4.5"), 1.0);
        assert_eq!(first_number("", "4"), 0.0);
    }
}
