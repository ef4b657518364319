//! Greedy generations beside the reference's: errors accumulate there.

use super::Run;
use super::ask::{best, greedy};
use super::item::trials;
use super::record::{Generation, ItemName, Record, WindowScore};
use super::trial::Trial;
use super::window::Measured;
use crate::{Candidate, LabError};
use std::sync::Arc;

/// Blocks that a generation has at least, as far as it has tokens.
const BLOCKS: usize = 8;

/// What the reference went on with.
struct Went {
    /// Its tokens; the one that ended the text is the last where one did.
    tokens: Vec<u32>,
    /// The logits before each, `[tokens][vocab]`.
    logits: Vec<f32>,
}

/// A prompt, which recipes reduce at its end if they do, and at most `most` tokens after it.
///
/// Every recipe goes on by itself, which says how long it agrees with the reference; and it is shown what the reference went
/// on with, which says how its distributions differ over the same tokens.
pub(super) fn generate(
    run: &mut Run<'_>,
    name: &ItemName,
    prompt: &[u32],
    most: usize,
    recipes: &[Arc<dyn Candidate>],
) -> Result<Vec<Record>, LabError> {
    let (subject, chunk) = (run.subject, run.settings.chunk);
    let (mut reference, trials) = trials(subject, &run.settings.reference, recipes, prompt.len() + most, chunk)?;
    let mut records = run.records(name, recipes);
    let went = ahead(run, &mut reference, prompt, most, &mut records[0])?;
    reference.must_run()?;
    drop(reference);
    for (mut trial, record) in trials.into_iter().zip(&mut records[1..]) {
        trial.expect(prompt.len());
        if let Err(reason) = follow(run, &mut trial, prompt, &went, record)? {
            record.failed(trial.failure().unwrap_or(&reason));
        }
    }
    Ok(records)
}

/// The reference's own way.
fn ahead(
    run: &mut Run<'_>,
    trial: &mut Trial<'_>,
    prompt: &[u32],
    most: usize,
    record: &mut Record,
) -> Result<Went, LabError> {
    let mut went = Went { tokens: Vec::new(), logits: Vec::new() };
    let mut logits = read(run, trial, prompt, record)?;
    let mut times = Vec::new();
    while let Some(row) = logits.take() {
        let Some(token) = best(trial, &row) else { break };
        went.tokens.push(token);
        went.logits.extend(row);
        if went.tokens.len() == most || run.subject.tokenizer.eos().contains(&token) {
            break;
        }
        let step = trial.step(&[token], &[0]);
        times.extend(step.as_ref().map(|step| step.time.as_secs_f64()));
        logits = step.map(|step| step.logits);
        run.advance(1)?;
    }
    record.time.steps(&times);
    let tokens = went.tokens.len();
    record.generation = Some(Generation { tokens, agreed: tokens });
    record.window = score(run, &went, &went.logits).ok();
    record.memory = trial.memory();
    Ok(went)
}

/// A recipe's way. Within, the reason why it ended early.
fn follow(
    run: &mut Run<'_>,
    trial: &mut Trial<'_>,
    prompt: &[u32],
    went: &Went,
    record: &mut Record,
) -> Result<Result<(), String>, LabError> {
    let ended = || Err("it ended".to_owned());
    let Some(first) = read(run, trial, prompt, record)? else { return Ok(ended()) };
    run.advance(went.tokens.len())?;
    let Some(trunk) = trial.branch() else { return Ok(ended()) };
    let mut times = Vec::new();
    let next = best(trial, &first);
    let mut own = greedy(trial, next, went.tokens.len(), run.subject.tokenizer.eos(), &mut times);
    record.time.steps(&times);
    trial.back_to(trunk);
    let Some((last, before)) = went.tokens.split_last() else { return Ok(Ok(())) };
    // A text that both end at the same place is the same to its end.
    if own.len() < went.tokens.len() && run.subject.tokenizer.eos().contains(last) && own[..] == *before {
        own.push(*last);
    }
    let agreed = own.iter().zip(&went.tokens).take_while(|(a, b)| a == b).count();
    let rows: Vec<usize> = (0..before.len()).collect();
    let mut logits = first;
    if !before.is_empty() {
        let Some(step) = trial.step(before, &rows) else { return Ok(ended()) };
        logits.extend(step.logits);
    }
    record.memory = trial.memory();
    Ok(score(run, went, &logits).map(|window| {
        record.window = Some(window);
        record.generation = Some(Generation { tokens: went.tokens.len(), agreed });
    }))
}

/// Logits after the prompt, unless the trial has ended.
fn read(
    run: &mut Run<'_>,
    trial: &mut Trial<'_>,
    prompt: &[u32],
    record: &mut Record,
) -> Result<Option<Vec<f32>>, LabError> {
    let Some(step) = trial.read(prompt, true, |tokens| run.advance(tokens))? else { return Ok(None) };
    record.time.prefill(prompt.len(), step.time);
    record.time.first.push(record.time.prefill_seconds);
    Ok(Some(step.logits))
}

fn score(run: &Run<'_>, went: &Went, logits: &[f32]) -> Result<WindowScore, String> {
    let measured = Measured::new(&run.subject.team, &went.logits, &went.tokens)?;
    // A generation is short: a few blocks are needed for there to be a spread at all.
    let block = run.settings.block.min(went.tokens.len().div_ceil(BLOCKS));
    Ok(WindowScore::of(&measured.compare(logits)?, block, run.settings.tail))
}
