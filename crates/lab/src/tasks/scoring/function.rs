//! A function that was to be repeated (Liu et al., "RepoQA", 2024, as in SCBench).

use super::bleu;

/// BLEU that a function counts as repeated from.
const LIKE: f64 = 0.8;

/// 1 where the answer's code is at least [`LIKE`] the right function and more like it than like any other.
pub(super) fn score(answer: &str, right: &str, others: &[String]) -> f64 {
    let code: Vec<&str> = block(answer.trim()).split_whitespace().collect();
    let like = |function: &str| bleu::score(&code, &function.split_whitespace().collect::<Vec<_>>());
    let own = like(right);
    let best = others.iter().filter(|other| *other != right).map(|other| like(other)).fold(0.0, f64::max);
    f64::from(u8::from(own >= LIKE && own > best))
}

/// The first block of code between lines of three backticks; all of the answer where there is none.
fn block(answer: &str) -> &str {
    let mut offset = 0;
    let mut start = None;
    for line in answer.split_inclusive('\n') {
        if line.starts_with("```") {
            match start {
                Some(start) => return &answer[start..offset],
                None => start = Some(offset + line.len()),
            }
        }
        offset += line.len();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str =
        "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result";
    const MAX: &str = "def most(values):\n    result = 0\n    for value in values:\n        result = max(result, value)\n\
                       return result";

    #[test]
    fn the_right_function_must_be_the_most_alike() {
        let others = [MAX.to_owned(), SUM.to_owned()];
        assert_eq!(score(&format!("Here it is:\n```python\n{SUM}\n```\nGlad to help."), SUM, &others), 1.0);
        assert_eq!(score(SUM, SUM, &others), 1.0);
        assert_eq!(score(MAX, SUM, &others), 0.0);
        assert_eq!(score("def total(values):\n    return sum(values)", SUM, &others), 0.0);
        assert_eq!(score("", SUM, &others), 0.0);
    }

    #[test]
    fn code_is_what_stands_between_backticks() {
        assert_eq!(block("a\n```rust\nlet x;\n```\nb\n```\nc\n```"), "let x;\n");
        assert_eq!(block("```\nnever closed"), "```\nnever closed");
        assert_eq!(block("plain"), "plain");
    }
}
