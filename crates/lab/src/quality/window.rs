//! A window of text, scored in lock step.

use super::Run;
use super::item::trials;
use super::record::{ItemName, Record, WindowScore};
use super::trial::Trial;
use crate::measures::{Row, TokenMeasure};
use crate::{Candidate, LabError};
use cachalot_kernels::Team;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows that one thread compares at a time.
const ROWS: usize = 8;

/// Scores the reference and the recipes on a window; only what follows its context is compared.
///
/// All take the same chunk in turn, their logits are compared and dropped, so nothing large is kept and all see the same
/// noise of the machine.
pub(super) fn score(
    run: &mut Run<'_>,
    name: &ItemName,
    window: &[u32],
    context: usize,
    recipes: &[Arc<dyn Candidate>],
) -> Result<Vec<Record>, LabError> {
    let (subject, chunk, steps) = (run.subject, run.settings.chunk, run.settings.decode);
    let (mut reference, mut trials) = trials(subject, &run.settings.reference, recipes, window.len() + steps, chunk)?;
    let mut records = run.records(name, recipes);
    let mut measures: Vec<Vec<TokenMeasure>> = records.iter().map(|_| Vec::new()).collect();
    if context > 0 {
        trials.iter_mut().for_each(|trial| trial.expect(context));
    }
    let mut at = 0;
    let (beginning, rest) = window.split_at(context);
    for tokens in beginning.chunks(chunk).chain(rest.chunks(chunk)) {
        // Tokens that follow: the last of the window has none.
        let next = &window[at + 1..window.len().min(at + 1 + tokens.len())];
        // What the context predicts has nothing to do with its reduction.
        let next = if at < context { &[] } else { next };
        let rows: Vec<usize> = (0..next.len()).collect();
        let step = reference.step(tokens, &rows);
        reference.must_run()?;
        let Some(step) = step else { continue };
        records[0].time.prefill(tokens.len(), step.time);
        let measured = Measured::new(&subject.team, &step.logits, next);
        let place = |reason: String| format!("window {}, from token {at}: {reason}", name.index + 1);
        match measured.as_ref().map_err(Clone::clone).and_then(|measured| measured.compare(&step.logits)) {
            Ok(own) => measures[0].extend(own),
            Err(reason) => reference.fail(place(reason)),
        }
        reference.must_run()?;
        run.advance(tokens.len())?;
        let Ok(measured) = measured else { continue };
        for ((trial, into), record) in trials.iter_mut().zip(&mut measures[1..]).zip(&mut records[1..]) {
            if let Some(step) = trial.step(tokens, &rows) {
                record.time.prefill(tokens.len(), step.time);
                match measured.compare(&step.logits) {
                    Ok(tokens) => into.extend(tokens),
                    Err(reason) => trial.fail(place(reason)),
                }
            }
            run.advance(tokens.len())?;
        }
        at += tokens.len();
    }
    let memory: Vec<_> = [&reference].into_iter().chain(&trials).map(Trial::memory).collect();
    decode(&mut reference, &mut trials, window, steps, &mut records);
    reference.must_run()?;
    let each = [&reference].into_iter().chain(&trials).zip(measures).zip(memory);
    for (((trial, tokens), memory), record) in each.zip(&mut records) {
        match trial.failure() {
            Some(reason) => record.failed(reason),
            None => {
                record.window = Some(WindowScore::of(&tokens, run.settings.block, run.settings.tail));
                record.memory = memory;
                record.time.scored = true;
            }
        }
    }
    Ok(records)
}

/// Single tokens after a window, in turn, for their time.
fn decode<'a>(
    reference: &mut Trial<'a>,
    trials: &mut [Trial<'a>],
    window: &[u32],
    steps: usize,
    records: &mut [Record],
) {
    let mut times: Vec<Vec<f64>> = records.iter().map(|_| Vec::new()).collect();
    // What the tokens are does not matter for speed; these are the window's own.
    for &token in window.iter().cycle().take(steps) {
        for (trial, times) in [&mut *reference].into_iter().chain(trials.iter_mut()).zip(&mut times) {
            times.extend(trial.step(&[token], &[0]).map(|step| step.time.as_secs_f64()));
        }
    }
    records.iter_mut().zip(times).for_each(|(record, times)| record.time.steps(&times));
}

/// The reference's rows of one chunk, looked at once for all recipes.
pub(super) struct Measured<'a> {
    team: &'a Team,
    rows: Vec<Row<'a>>,
    next: &'a [u32],
    vocab: usize,
}

impl<'a> Measured<'a> {
    pub fn new(team: &'a Team, logits: &'a [f32], next: &'a [u32]) -> Result<Measured<'a>, String> {
        let vocab = logits.len() / next.len().max(1);
        let rows = in_parallel(team, next.len(), |row| {
            Row::new(&logits[row * vocab..(row + 1) * vocab]).map_err(|e| format!("row {row}: {e}"))
        })?;
        Ok(Measured { team, rows, next, vocab })
    }

    pub fn compare(&self, logits: &[f32]) -> Result<Vec<TokenMeasure>, String> {
        in_parallel(self.team, self.next.len(), |row| {
            let other = &logits[row * self.vocab..(row + 1) * self.vocab];
            let other = Row::new(other).map_err(|e| format!("row {row}: {e}"))?;
            Ok(other.against(&self.rows[row], self.next[row]))
        })
    }
}

/// `f` of every row, in order; the first error in order.
fn in_parallel<T: Send>(
    team: &Team,
    rows: usize,
    f: impl Fn(usize) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    let parts: Vec<Mutex<Vec<Result<T, String>>>> = (0..rows.div_ceil(ROWS)).map(|_| Mutex::default()).collect();
    team.for_each(parts.len(), |part| {
        let of: Vec<_> = (part * ROWS..rows.min((part + 1) * ROWS)).map(&f).collect();
        *parts[part].lock().unwrap_or_else(PoisonError::into_inner) = of;
    });
    parts.into_iter().flat_map(|part| part.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}
