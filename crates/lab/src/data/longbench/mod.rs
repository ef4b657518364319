//! LongBench (Bai et al., 2023): `{"input", "context", "answers", "all_classes", "dataset", ...}`. The prompts are
//! our own words in LongBench's order: an instruction, the context, the question. Lengths of answers, metrics, and
//! which datasets go without a chat template are LongBench's.

mod datasets;

use super::fields::Fields;
use crate::tasks::{Posed, Question};
use datasets::DATASETS;

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
    use crate::tasks::Form;
    use serde_json::json;

    #[test]
    fn the_right_answer_is_right_in_every_dataset() {
        for dataset in &DATASETS {
            let right = match dataset.name {
                "passage_count" => "7",
                "passage_retrieval_en" => "Paragraph 7",
                "passage_retrieval_zh" => "段落7",
                _ => "Lima",
            };
            let line = json!({
                "input": "IN", "context": "CONTEXT", "answers": [right],
                "all_classes": ["Lima", "Oslo"], "dataset": dataset.name,
            });
            let posed = read("any", &Fields(line.as_object().unwrap().clone())).unwrap();
            let question = &posed.questions[0];
            assert_eq!(posed.text, "CONTEXT");
            let score = |answer: &str| question.scoring.score(answer, &question.expected);
            // ROUGE of the package falls short of 1 by a hundred-millionth.
            assert!(score(right) > 0.999_999 && score("8 x") == 0.0, "{}", dataset.name);
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
