//! How answers are scored: as the benchmark does that the question comes from.
//!
//! RULER: Hsieh et al., 2024. LongBench: Bai et al., 2023. SCBench: Li et al., 2024.

mod beginning;
mod bleu;
mod choice;
mod classification;
mod contains;
mod f1;
mod function;
mod lcs;
mod numbers;
mod rouge_l;
mod rouge_lsum;
mod similarity;
mod words;

use std::sync::Arc;

/// A metric. All give a share from 0 to 1, of the best where several answers are right, and 0 where nothing is
/// expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// The share of the expected strings that the answer contains, whatever the case of letters (`string_match_all` of
    /// RULER; variable tracking of SCBench, which rounds it to hundredths).
    MatchAll,
    /// Whether the answer contains any of the expected strings, whatever the case of letters (`string_match_part` of
    /// RULER; English questions of SCBench).
    MatchPart,
    /// Whether the answer contains an expected string letter by letter (key-value retrieval of SCBench).
    Contains,
    /// F1 of words without case, punctuation and articles (LongBench).
    F1,
    /// F1 of Chinese words without punctuation (LongBench). Every character is a word here, jieba's words there.
    F1Chinese,
    /// F1 of characters without punctuation (Chinese questions of SCBench).
    F1Characters,
    /// ROUGE-L of sentences, which end at full stops, on the set of words (LongBench, by the package `rouge`).
    RougeL,
    /// The same of Chinese, every character a word (LongBench; jieba's words there).
    RougeLChinese,
    /// ROUGE-Lsum of lines (summaries of SCBench, by the package `rouge_score`).
    RougeLsum,
    /// One over the number of classes that the answer names, where the right one is among them (LongBench).
    Classification {
        /// Names of all classes.
        classes: Arc<[String]>,
    },
    /// The share of the numbers in the answer that are the number of the right passage (LongBench).
    RetrievedNumber,
    /// The share of the numbers in the answer that are the right one (LongBench).
    Count,
    /// Likeness of the first line of code to the right one (LongBench, by the package `fuzzywuzzy` on difflib).
    CodeSimilarity,
    /// Whether the first whole number of the answer is the right one (pass keys of SCBench).
    FirstInteger,
    /// The same of numbers that may have decimals, which are cut off where a whole number is expected (SCBench).
    FirstNumber,
    /// Whether the answer chooses the right letter of A to D or names the right option (SCBench).
    Choice,
    /// Whether the code in the answer is more like the right function than like the others, by BLEU of at least 0.8
    /// (RepoQA in SCBench). There, tree-sitter takes a function out of its block of code; here, the block is taken.
    Function {
        /// The other functions.
        others: Arc<[String]>,
    },
    /// The share of the expected words that the answer begins with, in order and letter by letter (ours).
    Beginning,
    /// Of the answer's first line that is not empty.
    FirstLine(Box<Scoring>),
}

impl Scoring {
    /// As results are filed.
    pub fn name(&self) -> &'static str {
        match self {
            Scoring::MatchAll => "match-all",
            Scoring::MatchPart => "match-part",
            Scoring::Contains => "contains",
            Scoring::F1 => "f1",
            Scoring::F1Chinese => "f1-chinese",
            Scoring::F1Characters => "f1-characters",
            Scoring::RougeL => "rouge-l",
            Scoring::RougeLChinese => "rouge-l-chinese",
            Scoring::RougeLsum => "rouge-lsum",
            Scoring::Classification { .. } => "classification",
            Scoring::RetrievedNumber => "retrieved-number",
            Scoring::Count => "count",
            Scoring::CodeSimilarity => "code-similarity",
            Scoring::FirstInteger => "first-integer",
            Scoring::FirstNumber => "first-number",
            Scoring::Choice => "choice",
            Scoring::Function { .. } => "function",
            Scoring::Beginning => "beginning",
            Scoring::FirstLine(of) => of.name(),
        }
    }

    /// From 0 to 1.
    pub fn score(&self, answer: &str, expected: &[String]) -> f64 {
        let best = |of: &dyn Fn(&str) -> f64| expected.iter().map(|one| of(one)).fold(0.0, f64::max);
        match self {
            Scoring::MatchAll => contains::all(answer, expected),
            Scoring::MatchPart => contains::any(answer, expected),
            Scoring::Contains => best(&|right| f64::from(u8::from(answer.contains(right)))),
            Scoring::F1 => best(&|right| f1::english(answer, right)),
            Scoring::F1Chinese => best(&|right| f1::chinese(answer, right)),
            Scoring::F1Characters => best(&|right| f1::characters(answer, right)),
            Scoring::RougeL => best(&|right| rouge_l::english(answer, right)),
            Scoring::RougeLChinese => best(&|right| rouge_l::chinese(answer, right)),
            Scoring::RougeLsum => best(&|right| rouge_lsum::score(answer, right)),
            Scoring::Classification { classes } => best(&|right| classification::score(answer, right, classes)),
            Scoring::RetrievedNumber => best(&|right| numbers::retrieved(answer, right)),
            Scoring::Count => best(&|right| numbers::share(answer, right)),
            Scoring::CodeSimilarity => best(&|right| similarity::code(answer, right)),
            Scoring::FirstInteger => best(&|right| numbers::first_integer(answer, right)),
            Scoring::FirstNumber => best(&|right| numbers::first_number(answer, right)),
            Scoring::Choice => choice::score(answer, expected),
            Scoring::Function { others } => best(&|right| function::score(answer, right, others)),
            Scoring::Beginning => best(&|right| beginning::score(answer, right)),
            Scoring::FirstLine(of) => {
                let line = answer.trim_start_matches('\n').split('\n').next().unwrap_or_default();
                of.score(line, expected)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(of: &[&str]) -> Vec<String> {
        of.iter().map(|one| (*one).to_owned()).collect()
    }

    #[test]
    fn the_best_of_several_right_answers_counts() {
        let expected = strings(&["a large grey whale", "sperm whale"]);
        assert_eq!(Scoring::F1.score("The sperm whale.", &expected), 1.0);
        assert_eq!(Scoring::Contains.score("it is a sperm whale", &expected), 1.0);
        assert_eq!(Scoring::Contains.score("it is a Sperm Whale", &expected), 0.0);
        for scoring in [Scoring::MatchAll, Scoring::MatchPart, Scoring::F1, Scoring::Choice, Scoring::Beginning] {
            assert_eq!(scoring.score("anything", &[]), 0.0, "{scoring:?}");
        }
    }

    #[test]
    fn later_lines_do_not_count_where_the_first_does() {
        let scoring = Scoring::FirstLine(Box::new(Scoring::F1));
        let expected = strings(&["Lima"]);
        assert_eq!(scoring.score("\n\nLima\nQuestion: What else?", &expected), 1.0);
        assert_eq!(scoring.score("Oslo\nLima", &expected), 0.0);
        assert_eq!(scoring.name(), "f1");
    }
}
