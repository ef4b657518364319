//! Questions, answered greedily.

use super::Run;
use super::answer::Answer;
use super::record::{ItemName, Record};
use super::trial::Trial;
use crate::measures::Row;
use crate::tasks::Case;
use crate::{Candidate, LabError};
use std::sync::Arc;
use std::time::Duration;

/// Cases that begin alike, to the reference and every recipe.
///
/// What the next one shares is computed once, and the rest on a branch. The answers are those of whole prompts, since a
/// cache's results do not depend on how tokens were cut into steps. Recipes that reduce a context do so before any
/// question, or, where the name says that it is known, at the end of the whole prompt.
pub(super) fn ask(
    run: &mut Run<'_>,
    name: &ItemName,
    cases: &[Case],
    recipes: &[Arc<dyn Candidate>],
) -> Result<Vec<Record>, LabError> {
    let (subject, chunk) = (run.subject, run.settings.chunk);
    // Where the reference's answers are known it is not asked.
    let unasked = usize::from(run.settings.recipes_alone);
    let mut records = run.records(name, recipes).split_off(unasked);
    let longest = cases.iter().map(|case| case.prompt.len() + case.answer_tokens).max().unwrap_or(0);
    let context = cases.iter().map(|case| case.context).min().unwrap_or(0);
    let reference = run.settings.reference.clone();
    for (candidate, record) in [&reference].into_iter().chain(recipes).skip(unasked).zip(&mut records) {
        let mut asked = Asked { trial: Trial::new(subject, candidate, longest, chunk), have: 0 };
        let keeps = asked.trial.keeps();
        // Where context and question cannot be told apart, the prompt is reduced as a whole.
        let known = (name.known == Some(true) || context == 0) && keeps;
        if keeps && !known {
            asked.trial.expect(context);
        }
        let mut steps = Vec::new();
        for (at, case) in cases.iter().enumerate() {
            let mut common = cases.get(at + 1).map_or(0, |next| case.common(next));
            if known {
                asked.trial.restart();
                asked.have = 0;
                asked.trial.expect(case.prompt.len());
                common = 0;
            } else if keeps {
                common = common.min(context);
            }
            let again = at + 1 < cases.len() && !known;
            let Some(answer) = asked.case(case, common, again, &mut steps, run)? else { break };
            record.time.prefill(answer.prefill_tokens, Duration::from_secs_f64(answer.prefill_seconds));
            if answer.prefill_tokens == answer.prompt_tokens {
                record.time.first.push(answer.prefill_seconds);
            }
            record.answers.push(answer);
        }
        record.time.steps(&steps);
        match asked.trial.failure() {
            Some(reason) => record.failed(reason),
            None => record.memory = asked.trial.memory(),
        }
        if record.is_reference {
            asked.trial.must_run()?;
        }
    }
    Ok(records)
}

/// Tokens that [`ask`] computes of prompts.
pub(super) fn tokens(cases: &[Case]) -> usize {
    let shared = |row: &[Case]| row.windows(2).map(|pair| pair[0].common(&pair[1])).sum::<usize>();
    let saved: usize = rows(cases).into_iter().map(shared).sum();
    cases.iter().map(|case| case.prompt.len()).sum::<usize>() - saved
}

/// Cases in a row that share more and more with the next.
pub fn rows(cases: &[Case]) -> Vec<&[Case]> {
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
    /// Tokens of the prompts that the trunk holds.
    have: usize,
}

impl Asked<'_> {
    /// The answer; the trunk grows to the first `common` tokens of the prompt, and is there `again` afterwards if it is wanted.
    fn case(
        &mut self,
        case: &Case,
        common: usize,
        again: bool,
        steps: &mut Vec<f64>,
        run: &mut Run<'_>,
    ) -> Result<Option<Answer>, LabError> {
        let (tokenizer, have) = (run.subject.tokenizer, self.have);
        let mut prefill = Duration::ZERO;
        if common > have {
            let step = self.trial.read(&case.prompt[have..common], false, |tokens| run.advance(tokens))?;
            prefill += step.map_or(Duration::ZERO, |step| step.time);
            self.have = common;
        }
        let trunk = if again { self.trial.branch() } else { None };
        let step = self.trial.read(&case.prompt[self.have..], true, |tokens| run.advance(tokens))?;
        prefill += step.as_ref().map_or(Duration::ZERO, |step| step.time);
        let next = step.and_then(|step| best(&mut self.trial, &step.logits));
        let ids = greedy(&mut self.trial, next, case.answer_tokens, tokenizer.eos(), steps);
        if let Some(trunk) = trunk {
            self.trial.back_to(trunk);
        }
        if self.trial.failure().is_some() {
            return Ok(None);
        }
        let answer = tokenizer.decode(&ids);
        Ok(Some(Answer {
            index: case.index,
            turn: case.turn,
            id: case.id.clone(),
            depth: case.depth,
            prompt_tokens: case.prompt.len(),
            cut: case.cut,
            prefill_tokens: case.prompt.len() - have,
            expected: case.expected.clone(),
            scoring: case.scoring.name().to_owned(),
            score: case.score(&answer),
            answer,
            prefill_seconds: prefill.as_secs_f64(),
        }))
    }
}

/// The tokens that are most likely to follow, `next` and at most `most` in all, to the end of the text; and how many seconds
/// each but the first took.
pub(super) fn greedy(
    trial: &mut Trial<'_>,
    mut next: Option<u32>,
    most: usize,
    eos: &[u32],
    steps: &mut Vec<f64>,
) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(token) = next.filter(|token| !eos.contains(token)) {
        ids.push(token);
        if ids.len() == most {
            break;
        }
        let step = trial.step(&[token], &[0]);
        steps.extend(step.as_ref().map(|step| step.time.as_secs_f64()));
        next = step.and_then(|step| best(trial, &step.logits));
    }
    ids
}

/// The most likely token; logits that are no numbers end the trial.
pub(super) fn best(trial: &mut Trial<'_>, logits: &[f32]) -> Option<u32> {
    match Row::new(logits) {
        Ok(row) => row.first(),
        Err(reason) => {
            trial.fail(format!("while answering: {reason}"));
            None
        }
    }
}
