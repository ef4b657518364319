//! What LongBench's datasets are asked and how they are scored.

use crate::tasks::{Form, Scoring};

/// How a dataset is asked and scored.
pub(super) struct Dataset {
    pub name: &'static str,
    pub introduction: &'static str,
    /// Before and behind the input.
    pub ask: [&'static str; 2],
    pub form: Form,
    pub answer_tokens: usize,
    /// By the names of all classes.
    pub scoring: fn(Vec<String>) -> Scoring,
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

pub(super) const DATASETS: [Dataset; 21] = [
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
