//! Which layers or heads a rule is for: `0..4, last`, `-2..`, `7`.

use std::fmt;
use std::str::FromStr;

/// Ranges of indices; negative ones count from the end. Empty means all. A range that reaches beyond what a model has is
/// cut, so that a recipe fits models of any depth.
#[derive(Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct Ranges(Vec<Span>);

/// `from..to`; one index is `i..i + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Span {
    from: i64,
    /// `None` for the end.
    to: Option<i64>,
}

impl Ranges {
    /// Everything.
    pub fn all() -> Ranges {
        Ranges::default()
    }

    /// One index, not negative.
    pub fn one(index: usize) -> Ranges {
        Ranges(vec![Span { from: index as i64, to: Some(index as i64 + 1) }])
    }

    /// Whether everything is meant.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `index` of `count` is in one of them.
    pub fn contains(&self, index: usize, count: usize) -> bool {
        let (index, count) = (index as i64, count as i64);
        let place = |at: i64| if at < 0 { at + count } else { at };
        self.is_all() || self.0.iter().any(|span| (place(span.from)..span.to.map_or(count, place)).contains(&index))
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spans: Vec<String> = self.0.iter().map(Span::to_string).collect();
        f.write_str(if spans.is_empty() { "all" } else { "" })?;
        f.write_str(&spans.join(", "))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Span { from: -1, to: None } => f.write_str("last"),
            Span { from, to: Some(to) } if to == from + 1 => write!(f, "{from}"),
            Span { from, to: Some(to) } => write!(f, "{from}..{to}"),
            Span { from, to: None } => write!(f, "{from}.."),
        }
    }
}

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Ranges, String> {
        if text.trim() == "all" {
            return Ok(Ranges::all());
        }
        text.split(',').map(|part| span(part.trim())).collect::<Result<_, _>>().map(Ranges)
    }
}

fn span(text: &str) -> Result<Span, String> {
    // Wide enough for any model, narrow enough that sums cannot overflow.
    let index = |text: &str| text.trim().parse::<i32>().map(i64::from).ok();
    let wrong = || format!("`{text}` is no range; write 3, -1, 0..4 (without 4), -2.., last or all");
    let one = |from: i64| Span { from, to: (from != -1).then_some(from + 1) };
    match text.split_once("..") {
        None if text == "last" => Ok(one(-1)),
        None if text == "first" => Ok(one(0)),
        None => index(text).map(one).ok_or_else(wrong),
        Some((from, to)) => {
            let from = if from.trim().is_empty() { Some(0) } else { index(from) }.ok_or_else(wrong)?;
            let to = if to.trim().is_empty() { None } else { Some(index(to).ok_or_else(wrong)?) };
            // With equal signs it is known that there is nothing between them.
            match to {
                Some(to) if (to < 0) == (from < 0) && to <= from => Err(format!("the range `{text}` is empty")),
                _ => Ok(Span { from, to }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str, count: usize) -> Vec<usize> {
        let ranges: Ranges = text.parse().unwrap();
        assert_eq!(ranges.to_string().parse::<Ranges>().unwrap(), ranges, "{text}");
        (0..count).filter(|&i| ranges.contains(i, count)).collect()
    }

    #[test]
    fn ranges_mean_what_they_say() {
        assert_eq!(members("all", 3), [0, 1, 2]);
        assert_eq!(members("0..2, last", 6), [0, 1, 5]);
        assert_eq!(members("-2..", 6), [4, 5]);
        assert_eq!(members("..-2", 5), [0, 1, 2]);
        assert_eq!(members("-1", 4), [3]);
        assert_eq!(members("-3..-1", 4), [1, 2]);
        assert_eq!(members("first, 2", 4), [0, 2]);
        // Beyond the model: cut.
        assert_eq!(members("0..15", 4), [0, 1, 2, 3]);
        assert!(members("9", 4).is_empty());
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["", "a", "1.5", "3..1", "2..2", "-1..-3", "1...3", "0..99999999999", "1;2", ","] {
            assert!(bad.parse::<Ranges>().is_err(), "{bad}");
        }
    }
}
