//! LongBench (Bai et al., 2023): `{"input", "context", "answers", "all_classes", "dataset", ...}`. The prompts are our own
//! words in LongBench's order: an instruction, the context, the question. Lengths of answers, metrics, and which datasets
//! go without a chat template are LongBench's.

use super::fields::Fields;
use crate::tasks::{Form, Posed, Question, Scoring};

/// How a dataset is asked and scored.
struct Dataset {
    name: &'static str,
    introduction: &'static str,
    /// Before and behind the input.
    ask: [&'static str; 2],
    form: Form,
    answer_tokens: usize,
    scoring: fn(Vec<String>) -> Scoring,
}

const CHAT: Form = Form::Chat { join: "\n\n" };
const PLAIN: Form = Form::Plain { join: "\n\n" };

fn f1(_: Vec<String>) -> Scoring {
    Scoring::F1
}

fn rouge(_: Vec<String>) -> Scoring {
    Scoring::RougeL
}

fn rouge_chinese(_: Vec<String>) -> Scoring {
    Scoring::RougeLChinese
}

fn retrieved(_: Vec<String>) -> Scoring {
    Scoring::RetrievedNumber
}

fn code(_: Vec<String>) -> Scoring {
    Scoring::CodeSimilarity
}

fn first_line(scoring: Scoring) -> Scoring {
    Scoring::FirstLine(Box::new(scoring))
}

fn class(classes: Vec<String>) -> Scoring {
    first_line(Scoring::Classification { classes: classes.into() })
}

const fn dataset(
    name: &'static str,
    introduction: &'static str,
    ask: [&'static str; 2],
    form: Form,
    answer_tokens: usize,
    scoring: fn(Vec<String>) -> Scoring,
) -> Dataset {
    Dataset { name, introduction, ask, form, answer_tokens, scoring }
}

const PASSAGES: &str = "Read these passages. A question about them follows.";
const BRIEFLY: [&str; 2] = ["Answer from the passages, with the answer only.\n\nQuestion: ", "\nAnswer:"];
const NOTHING: [&str; 2] = ["", ""];
const NEXT_LINE: [&str; 2] = ["", "The next line of code:\n"];

const DATASETS: [Dataset; 21] = [
    dataset(
        "narrativeqa",
        "Read this story. A question about it follows.",
        ["Answer from the story, in a few words and without an explanation.\n\nQuestion: ", "\n\nAnswer:"],
        CHAT,
        128,
        f1,
    ),
    dataset(
        "qasper",
        "Read this scientific article. A question about it follows.",
        [
            "Answer from the article, in a few words and without an explanation: \"yes\" or \"no\" where that is asked, \
             \"unanswerable\" where the article does not say.\n\nQuestion: ",
            "\n\nAnswer:",
        ],
        CHAT,
        128,
        f1,
    ),
    dataset(
        "multifieldqa_en",
        "Read this text. A question about it follows.",
        ["Answer from the text, with the answer only.\n\nQuestion: ", "\nAnswer:"],
        CHAT,
        64,
        f1,
    ),
    dataset(
        "multifieldqa_zh",
        "请先阅读这段文字，之后会有一个问题。",
        ["请根据文字回答，只写答案。\n\n问题：", "\n回答："],
        CHAT,
        64,
        |_| Scoring::F1Chinese,
    ),
    dataset("hotpotqa", PASSAGES, BRIEFLY, CHAT, 32, f1),
    dataset("2wikimqa", PASSAGES, BRIEFLY, CHAT, 32, f1),
    dataset("musique", PASSAGES, BRIEFLY, CHAT, 32, f1),
    dataset(
        "dureader",
        "请先阅读这些文章，之后会有一个问题。",
        ["请根据文章回答。\n\n问题：", "\n回答："],
        CHAT,
        128,
        rouge_chinese,
    ),
    dataset(
        "gov_report",
        "This is a report of a government agency.",
        ["Summarise the report on one page.\n\nSummary:", ""],
        CHAT,
        512,
        rouge,
    ),
    dataset(
        "qmsum",
        "This is the transcript of a meeting. A request about it follows.",
        ["Answer from the transcript, in one or more sentences.\n\nRequest: ", "\nAnswer:"],
        CHAT,
        512,
        rouge,
    ),
    dataset(
        "multi_news",
        "These are several news articles.",
        ["Summarise all of them on one page.\n\nSummary:", ""],
        CHAT,
        512,
        rouge,
    ),
    dataset("vcsum", "这是一份会议记录。", ["请总结会议内容。\n\n总结：", ""], CHAT, 512, rouge_chinese),
    dataset(
        "trec",
        "Find the type of the last question. First, questions with their types:",
        NOTHING,
        PLAIN,
        64,
        class,
    ),
    dataset(
        "triviaqa",
        "Answer the last question from its passage, with the answer only. First, examples:",
        NOTHING,
        PLAIN,
        32,
        |_| first_line(Scoring::F1),
    ),
    dataset(
        "samsum",
        "Summarise the last dialogue in a few short sentences. First, examples:",
        NOTHING,
        PLAIN,
        128,
        |_| first_line(Scoring::RougeL),
    ),
    dataset("lsht", "请写出最后一条新闻的类别。先看例子：", NOTHING, PLAIN, 64, class),
    dataset(
        "passage_count",
        "These are paragraphs of an encyclopedia, of which some may be there more than once.",
        ["How many different paragraphs are there? Answer with the number only.\n\nThe number is:", ""],
        CHAT,
        32,
        |_| Scoring::Count,
    ),
    dataset(
        "passage_retrieval_en",
        "These are thirty numbered paragraphs of an encyclopedia. A summary of one of them follows.",
        ["Which paragraph is summarised here?\n\n", "\n\nAnswer as in \"Paragraph 1\". The answer is:"],
        CHAT,
        32,
        retrieved,
    ),
    dataset(
        "passage_retrieval_zh",
        "这是一些带编号的段落，之后会有其中一段的摘要。",
        ["这是哪一段的摘要？\n\n", "\n\n请按“段落1”的格式回答。答案是："],
        CHAT,
        32,
        retrieved,
    ),
    dataset("lcc", "Complete this code.", NEXT_LINE, Form::Plain { join: "" }, 64, code),
    dataset("repobench-p", "Complete this code.", NEXT_LINE, Form::Plain { join: "" }, 64, code),
];

pub(super) fn read(file: &str, fields: &Fields) -> Result<Posed, String> {
    // Lines name their dataset; those of LongBench-E have files with an ending.
    let name = fields.text_or("dataset", file)?;
    let name = name.strip_suffix("_e").unwrap_or(name);
    let Some(dataset) = DATASETS.iter().find(|dataset| dataset.name == name) else {
        let names: Vec<&str> = DATASETS.iter().map(|dataset| dataset.name).collect();
        return Err(format!(
            "there is no dataset `{name}` in LongBench; name the file after one of {}",
            names.join(", ")
        ));
    };
    let text = fields.text("context")?;
    if text.trim().is_empty() {
        return Err("`context` is empty".into());
    }
    let expected = fields.texts("answers")?;
    if expected.is_empty() {
        return Err("has no `answers`".into());
    }
    let [before, behind] = dataset.ask;
    let question = Question {
        text: format!("{before}{}{behind}", fields.text_or("input", "")?),
        prefix: String::new(),
        answer: expected[0].clone(),
        expected,
        scoring: (dataset.scoring)(fields.texts("all_classes")?),
        answer_tokens: dataset.answer_tokens,
        depth: None,
    };
    Ok(Posed {
        introduction: dataset.introduction.into(),
        text: text.into(),
        questions: vec![question],
        form: dataset.form,
        ..Posed::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_dataset_can_be_read() {
        for dataset in &DATASETS {
            let line = json!({ "input": "IN", "context": "CONTEXT", "answers": ["A"], "all_classes": ["A", "B"], "dataset": dataset.name });
            let fields = Fields(line.as_object().unwrap().clone());
            let posed = read("any", &fields).unwrap();
            assert!(!posed.questions[0].text.is_empty() || matches!(dataset.form, Form::Plain { .. }));
            // What classes, lines of code and others are is told apart by the metric.
            let right = posed.questions[0].scoring.score("A", &["A".into()]);
            assert!(
                right > 0.99
                    || matches!(posed.questions[0].scoring, Scoring::RetrievedNumber | Scoring::Count | Scoring::F1)
            );
        }
    }

    #[test]
    fn metrics_follow_the_dataset() {
        let scoring = |name: &str| {
            let line = json!({ "input": "", "context": "c", "answers": ["A"], "all_classes": ["A", "B"] });
            let posed = read(name, &Fields(line.as_object().unwrap().clone())).unwrap();
            (
                posed.questions[0].scoring.name(),
                posed.questions[0].answer_tokens,
                matches!(posed.form, Form::Plain { .. }),
            )
        };
        // Names, tokens and forms of LongBench's configuration.
        assert_eq!(scoring("hotpotqa_e"), ("f1", 32, false));
        assert_eq!(scoring("gov_report"), ("rouge-l", 512, false));
        assert_eq!(scoring("trec"), ("classification", 64, true));
        assert_eq!(scoring("samsum_e"), ("rouge-l", 128, true));
        assert_eq!(scoring("repobench-p"), ("code-similarity", 64, true));
        assert_eq!(scoring("passage_count"), ("count", 32, false));
    }
}
