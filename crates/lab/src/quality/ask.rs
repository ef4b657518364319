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
    /// Those that were computed for it; the others it shares with the question before.
    pub prefill_tokens: usize,
    /// Seconds that they took.
    pub prefill_seconds: f64,
}

/// Every case to the reference and every recipe that has not failed.
///
/// Cases that begin alike are asked in a row: what the next one shares is computed once, and the rest on a branch. The
/// answers are those of whole prompts, since a cache's results do not depend on how tokens were cut into steps.
pub(super) fn ask(
    subject: &Subject<'_>,
    cases: &[Case],
    settings: &QualitySettings,
    all: &mut [Collected],
    progress: &mut Progress<'_, '_>,
) -> Result<(), LabError> {
    for cases in rows(cases) {
        for (i, collected) in all.iter_mut().enumerate() {
            if collected.has_failed() {
                progress.advance(tokens(cases))?;
                continue;
            }
            let longest = cases.iter().map(|case| case.prompt.len() + case.answer_tokens).max().unwrap_or(0);
            let mut asked = Asked {
                trial: Trial::new(subject, &collected.candidate, longest, settings.chunk),
                subject,
                chunk: settings.chunk,
                recipe: collected.candidate.name().to_owned(),
                have: 0,
            };
            let keeps = asked.trial.keeps();
            let known = settings.question_known && keeps;
            let context = cases.iter().map(|case| case.context).min().unwrap_or(0);
            if keeps && !known {
                asked.trial.expect(context);
            }
            for (at, case) in cases.iter().enumerate() {
                let mut common = cases.get(at + 1).map_or(0, |next| case.common(next));
                if known {
                    asked.trial.restart();
                    asked.trial.expect(case.prompt.len());
                    common = 0;
                } else if keeps {
                    common = common.min(context);
                }
                let answer = asked.case(case, common, progress)?;
                if i == 0 {
                    asked.trial.must_run()?;
                }
                match answer {
                    Some(answer) => {
                        (progress.observe)(Event::Answer(&answer))?;
                        collected.answered(answer);
                    }
                    None => collected.failed(asked.trial.failure()),
                }
            }
        }
    }
    Ok(())
}

/// Tokens that [`ask`] computes of prompts.
pub(super) fn tokens(cases: &[Case]) -> usize {
    let shared = |row: &[Case]| row.windows(2).map(|pair| pair[0].common(&pair[1])).sum::<usize>();
    let saved: usize = rows(cases).into_iter().map(shared).sum();
    cases.iter().map(|case| case.prompt.len()).sum::<usize>() - saved
}

/// Cases in a row that share more and more with the next.
fn rows(cases: &[Case]) -> Vec<&[Case]> {
    let (mut rows, mut start, mut have) = (Vec::new(), 0, 0);
    for (at, pair) in cases.windows(2).enumerate() {
        let common = pair[0].common(&pair[1]);
        if common < have || common == 0 || pair[0].context != pair[1].context {
            rows.push(&cases[start..=at]);
            (start, have) = (at + 1, 0);
        } else {
            have = common;
        }
    }
    if start < cases.len() {
        rows.push(&cases[start..]);
    }
    rows
}

/// One recipe, asked cases that begin alike.
struct Asked<'a> {
    trial: Trial<'a>,
    subject: &'a Subject<'a>,
    chunk: usize,
    recipe: String,
    /// Tokens of the prompts that the trunk holds.
    have: usize,
}

impl Asked<'_> {
    /// Appends tokens to the sequence; the most likely next one where it is `wanted`.
    fn read(
        &mut self,
        tokens: &[u32],
        wanted: bool,
        time: &mut Duration,
        progress: &mut Progress<'_, '_>,
    ) -> Result<Option<u32>, LabError> {
        let mut next = None;
        let mut left = tokens.len();
        for tokens in tokens.chunks(self.chunk) {
            left -= tokens.len();
            let rows: &[usize] = if wanted && left == 0 { &[tokens.len() - 1] } else { &[] };
            if let Some(step) = self.trial.step(tokens, rows) {
                *time += step.time;
                next = if rows.is_empty() { None } else { best(&mut self.trial, &step.logits) };
            }
            progress.advance(tokens.len())?;
        }
        Ok(next)
    }

    /// The answer; the trunk grows to the first `common` tokens of the prompt.
    fn case(
        &mut self,
        case: &Case,
        common: usize,
        progress: &mut Progress<'_, '_>,
    ) -> Result<Option<Answer>, LabError> {
        let Asked { subject, have, .. } = *self;
        let mut prefill = Duration::ZERO;
        if common > have {
            self.read(&case.prompt[have..common], false, &mut prefill, progress)?;
            self.have = common;
        }
        let trunk = self.trial.branch();
        let mut next = self.read(&case.prompt[self.have..], true, &mut prefill, progress)?;
        let trial = &mut self.trial;
        let mut ids = Vec::new();
        while let Some(token) = next.filter(|token| !subject.tokenizer.eos().contains(token)) {
            ids.push(token);
            if ids.len() == case.answer_tokens {
                break;
            }
            next = trial.step(&[token], &[0]).and_then(|step| best(trial, &step.logits));
        }
        if let Some(trunk) = trunk {
            trial.back_to(trunk);
        }
        if trial.failure().is_some() {
            return Ok(None);
        }
        let answer = subject.tokenizer.decode(&ids);
        Ok(Some(Answer {
            recipe: self.recipe.clone(),
            task: case.task,
            index: case.index,
            depth: case.depth,
            prompt_tokens: case.prompt.len(),
            prefill_tokens: case.prompt.len() - have,
            expected: case.expected.clone(),
            score: case.score(&answer),
            answer,
            prefill_seconds: prefill.as_secs_f64(),
        }))
    }
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
