//! SCBench (Li et al., 2024): `{"id", "context", "multi_turns": [{"input", "answer", "options", "task"}]}`.
//! Instructions are our own words; lengths of answers and metrics are SCBench's. Answers are taken as wholes:
//! SCBench's script walks along the letters of those that are a string where it expects a list (many-shot, Chinese
//! questions).

use super::fields::Fields;
use crate::tasks::{Form, Posed, Question, Scoring};
use serde_json::Value;

/// How a dataset is asked and scored.
struct Dataset {
    name: &'static str,
    introduction: &'static str,
    /// Before and behind the input.
    ask: [&'static str; 2],
    answer_tokens: usize,
    scoring: Scoring,
}

const PAIRS: &str = "The values of some of the keys in this JSON object will be asked for.";
const BOOK: &str = "Read this book. Questions about it follow.";
const BARE: [&str; 2] = ["", ""];

const fn dataset(
    name: &'static str,
    introduction: &'static str,
    ask: [&'static str; 2],
    answer_tokens: usize,
    scoring: Scoring,
) -> Dataset {
    Dataset { name, introduction, ask, answer_tokens, scoring }
}

/// Without the beginning `scbench_`.
static DATASETS: [Dataset; 14] = [
    dataset("kv", PAIRS, BARE, 150, Scoring::Contains),
    dataset("kv_hard", PAIRS, BARE, 150, Scoring::Contains),
    dataset(
        "kv_compressible",
        "Values of some of the keys in this text will be asked for.",
        BARE,
        150,
        Scoring::Contains,
    ),
    dataset("prefix_suffix", "", BARE, 150, Scoring::Contains),
    dataset("hashhop", "", BARE, 150, Scoring::Contains),
    dataset("vt", "", BARE, 30, Scoring::MatchAll),
    dataset("qa_eng", BOOK, ["Answer in very few words.\n\nQuestion: ", "\nAnswer:"], 40, Scoring::MatchPart),
    dataset("qa_chn", "请先阅读这本书，之后会有一些问题。", ["问题：", "\n答案："], 40, Scoring::F1Characters),
    dataset("choice_eng", BOOK, ["Question: ", "\n\nThe letter of the right answer is"], 40, Scoring::Choice),
    dataset("mf", "", BARE, 5, Scoring::FirstNumber),
    dataset(
        "passkey",
        "Something important is hidden in a lot of text that does not matter. It will be asked for.",
        BARE,
        15,
        Scoring::FirstInteger,
    ),
    dataset("many_shot", "", BARE, 10, Scoring::MatchPart),
    dataset("summary", "", BARE, 200, Scoring::RougeLsum),
    dataset(
        "repoqa",
        "Functions of this code will be described. Repeat the one that is meant, letter by letter, between lines of ```.",
        BARE,
        1024,
        // The others come with the line.
        Scoring::CodeSimilarity,
    ),
];

/// Datasets whose turns say which of the others they belong to, and how long their answers are then.
const MIXED: [(&str, &[(&str, usize)]); 2] = [
    ("summary_with_needles", &[("summary", 800), ("passkey", 15)]),
    ("repoqa_and_kv", &[("repoqa", 1024), ("kv", 80)]),
];

pub(super) fn read(file: &str, fields: &Fields) -> Result<Posed, String> {
    let name = short(file);
    let mixed = MIXED.iter().find(|mixed| mixed.0 == name).map(|mixed| mixed.1);
    let whole = find(name);
    if mixed.is_none() && whole.is_none() {
        let names = DATASETS.iter().map(|dataset| dataset.name).chain(MIXED.iter().map(|mixed| mixed.0));
        let names: Vec<String> = names.map(|name| format!("scbench_{name}")).collect();
        return Err(format!(
            "there is no dataset `{file}` in SCBench; name the file after one of {}",
            names.join(", ")
        ));
    }
    let text = if fields.get("context").is_some() { fields.text("context")? } else { fields.text("input")? };
    if text.trim().is_empty() {
        return Err("`context` is empty".into());
    }
    let turns = fields.list("multi_turns")?;
    let turns: Vec<Fields> = turns.iter().filter_map(Value::as_object).map(|turn| Fields(turn.clone())).collect();
    let functions = turns.iter().map(|turn| turn.texts("answer")).collect::<Result<Vec<_>, _>>()?.concat();
    let mut questions = Vec::with_capacity(turns.len());
    for (at, turn) in turns.iter().enumerate() {
        let question = (|| match (mixed, whole) {
            (Some(kinds), _) => {
                let task = short(turn.text("task")?);
                let kind = kinds.iter().find(|kind| kind.0 == task).and_then(|kind| Some((find(kind.0)?, kind.1)));
                let (dataset, answer_tokens) = kind.ok_or_else(|| format!("its task `{task}` is unknown"))?;
                Ok(Question { answer_tokens, ..question(dataset, turn, &functions)? })
            }
            (None, Some(dataset)) => question(dataset, turn, &functions),
            (None, None) => Err("its task is unknown".to_owned()),
        })();
        questions.push(question.map_err(|reason| format!("turn {}: {reason}", at + 1))?);
    }
    if questions.is_empty() || questions.len() < fields.list("multi_turns")?.len() {
        return Err("`multi_turns` is not a list of objects".into());
    }
    let introduction = whole.map_or("", |dataset| dataset.introduction).into();
    Ok(Posed { introduction, text: text.into(), questions, form: Form::Chat { join: "\n\n" }, ..Posed::default() })
}

fn short(name: &str) -> &str {
    name.strip_prefix("scbench_").unwrap_or(name)
}

fn find(name: &str) -> Option<&'static Dataset> {
    DATASETS.iter().find(|dataset| dataset.name == name)
}

fn question(dataset: &Dataset, turn: &Fields, functions: &[String]) -> Result<Question, String> {
    let mut expected = turn.texts("answer")?;
    let Some(answer) = expected.first().cloned() else { return Err("has no `answer`".into()) };
    let mut input = turn.text("input")?.to_owned();
    let mut scoring = dataset.scoring.clone();
    let golden = expected.join(", ");
    if dataset.name == "choice_eng" {
        let options = turn.texts("options")?;
        let right = options.iter().take(4).position(|option| *option == answer);
        let right = right.ok_or("its answer is none of its first four `options`")?;
        for (letter, option) in ('A'..='D').zip(&options) {
            input += &format!("\n{letter}. {option}");
        }
        expected.push(['A', 'B', 'C', 'D'][right].to_string());
    }
    if dataset.name == "repoqa" {
        let others: Vec<String> = functions.iter().filter(|function| **function != answer).cloned().collect();
        scoring = Scoring::Function { others: others.into() };
    }
    let [before, behind] = dataset.ask;
    Ok(Question {
        text: format!("{before}{input}{behind}"),
        prefix: String::new(),
        answer: golden,
        expected,
        scoring,
        answer_tokens: dataset.answer_tokens,
        depth: None,
    })
}
