//! Questions, answered greedily.

use super::outcome::Collected;
use super::trial::Trial;
use super::{Event, Progress, QualitySettings};
use crate::measures::Row;
use crate::tasks::Case;
use crate::{LabError, Subject};
use std::time::Duration;

/// What a recipe answered to one question.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Answer {
    /// The recipe.
    pub recipe: String,
    /// Kind of task.
    pub task: &'static str,
    /// Which of the cases of the seed.
    pub index: usize,
    /// Where the fact lies, as a share of the text.
    pub depth: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What the answer must contain.
    pub expected: Vec<String>,
    /// The answer.
    pub answer: String,
    /// The share of what was expected that it contains.
    pub score: f64,
    /// Seconds until the first token of the answer.
    pub prefill_seconds: f64,
}

/// Every case to the reference and every recipe that has not failed, case by case.
pub(super) fn ask(
    subject: &Subject<'_>,
    cases: &[Case],
    settings: &QualitySettings,
    all: &mut [Collected],
    progress: &mut Progress<'_, '_>,
) -> Result<(), LabError> {
    for case in cases {
        for (i, collected) in all.iter_mut().enumerate() {
            if collected.has_failed() {
                progress.advance(case.prompt.len())?;
                continue;
            }
            let mut trial =
                Trial::new(subject, &collected.candidate, case.prompt.len() + case.answer_tokens, settings.chunk);
            let answer = answer(&mut trial, subject, case, settings.chunk, collected.candidate.name(), progress)?;
            if i == 0 {
                trial.must_run()?;
            }
            match answer {
                Some(answer) => {
                    (progress.observe)(Event::Answer(&answer))?;
                    collected.answered(answer);
                }
                None => collected.failed(trial.failure()),
            }
        }
    }
    Ok(())
}

fn answer(
    trial: &mut Trial<'_>,
    subject: &Subject<'_>,
    case: &Case,
    chunk: usize,
    recipe: &str,
    progress: &mut Progress<'_, '_>,
) -> Result<Option<Answer>, LabError> {
    let mut prefill = Duration::ZERO;
    let mut at = 0;
    let mut next = None;
    for tokens in case.prompt.chunks(chunk) {
        at += tokens.len();
        let rows: &[usize] = if at == case.prompt.len() { &[tokens.len() - 1] } else { &[] };
        if let Some(step) = trial.step(tokens, rows) {
            prefill += step.time;
            next = if rows.is_empty() { None } else { best(trial, &step.logits) };
        }
        progress.advance(tokens.len())?;
    }
    let mut ids = Vec::new();
    while let Some(token) = next.filter(|token| !subject.tokenizer.eos().contains(token)) {
        ids.push(token);
        if ids.len() == case.answer_tokens {
            break;
        }
        next = trial.step(&[token], &[0]).and_then(|step| best(trial, &step.logits));
    }
    if trial.failure().is_some() {
        return Ok(None);
    }
    let answer = subject.tokenizer.decode(&ids);
    Ok(Some(Answer {
        recipe: recipe.to_owned(),
        task: case.task,
        index: case.index,
        depth: case.depth,
        prompt_tokens: case.prompt.len(),
        expected: case.expected.clone(),
        score: case.score(&answer),
        answer,
        prefill_seconds: prefill.as_secs_f64(),
    }))
}

/// The most likely token; logits that are no numbers end the trial.
fn best(trial: &mut Trial<'_>, logits: &[f32]) -> Option<u32> {
    match Row::new(logits) {
        Ok(row) => row.first(),
        Err(reason) => {
            trial.fail(format!("while answering: {reason}"));
            None
        }
    }
}
