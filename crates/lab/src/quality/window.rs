//! Windows of text, scored in lock step.

use super::outcome::{Collected, WindowScore};
use super::trial::Trial;
use super::{Event, Progress, QualitySettings};
use crate::measures::{Row, TokenMeasure};
use crate::{LabError, Subject};
use cachalot_kernels::Team;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Rows that one thread compares at a time.
const ROWS: usize = 8;

/// Scores the reference, `all[0]`, and the recipes `all[1 + group]` on all windows. The reference is collected once.
pub(super) fn score(
    subject: &Subject<'_>,
    windows: &[Vec<u32>],
    settings: &QualitySettings,
    group: &Range<usize>,
    collect_reference: bool,
    all: &mut [Collected],
    progress: &mut Progress<'_, '_>,
) -> Result<(), LabError> {
    let tokens = settings.window + settings.decode;
    let mut reference = Trial::new(subject, &settings.reference, tokens, settings.chunk);
    reference.must_run()?;
    let (first, others) = all.split_at_mut(1);
    let others = &mut others[group.clone()];
    let mut trials: Vec<Trial<'_>> =
        others.iter().map(|c| Trial::new(subject, &c.candidate, tokens, settings.chunk)).collect();
    for (index, window) in windows.iter().enumerate() {
        let mut into_reference = Vec::new();
        let mut into: Vec<Vec<TokenMeasure>> = trials.iter().map(|_| Vec::new()).collect();
        reference.restart();
        trials.iter_mut().for_each(Trial::restart);
        if settings.context > 0 {
            trials.iter_mut().for_each(|trial| trial.expect(settings.context));
        }
        let mut at = 0;
        let (beginning, rest) = window.split_at(settings.context);
        for chunk in beginning.chunks(settings.chunk).chain(rest.chunks(settings.chunk)) {
            // Tokens that follow: the last of the window has none.
            let next = &window[at + 1..window.len().min(at + 1 + chunk.len())];
            // What the context predicts has nothing to do with its reduction.
            let next = if at < settings.context { &[] } else { next };
            let rows: Vec<usize> = (0..next.len()).collect();
            let step = reference.step(chunk, &rows);
            reference.must_run()?;
            let Some(step) = step else { continue };
            first[0].scoring(collect_reference, chunk.len(), step.time);
            let measured = Measured::new(&subject.team, &step.logits, next);
            let own = measured.as_ref().map_err(|reason| reason.clone()).and_then(|m| m.compare(&step.logits));
            match own {
                Ok(own) => into_reference.extend(own),
                Err(reason) => reference.fail(format!("window {}, from token {at}: {reason}", index + 1)),
            }
            reference.must_run()?;
            progress.advance(chunk.len())?;
            let Ok(measured) = measured else { continue };
            for ((trial, into), collected) in trials.iter_mut().zip(&mut into).zip(others.iter_mut()) {
                if let Some(step) = trial.step(chunk, &rows) {
                    collected.scoring(true, chunk.len(), step.time);
                    match measured.compare(&step.logits) {
                        Ok(tokens) => into.extend(tokens),
                        Err(reason) => trial.fail(format!("window {}, from token {at}: {reason}", index + 1)),
                    }
                }
                progress.advance(chunk.len())?;
            }
            at += chunk.len();
        }
        if collect_reference {
            first[0].window(into_reference, reference.memory());
        }
        for ((trial, tokens), collected) in trials.iter().zip(into).zip(others.iter_mut()) {
            if trial.failure().is_none() {
                let score = WindowScore::of(collected.candidate.name(), index, &tokens, settings);
                collected.window(tokens, trial.memory());
                (progress.observe)(Event::Window(&score))?;
            }
        }
        decode(&mut reference, &mut trials, window, settings.decode, collect_reference, first, others);
        reference.must_run()?;
    }
    for (trial, collected) in trials.iter().zip(others) {
        collected.failed(trial.failure());
    }
    Ok(())
}

/// Single tokens after a window, in turn, for their time.
fn decode(
    reference: &mut Trial<'_>,
    trials: &mut [Trial<'_>],
    window: &[u32],
    steps: usize,
    collect_reference: bool,
    first: &mut [Collected],
    others: &mut [Collected],
) {
    // What the tokens are does not matter for speed; these are the window's own.
    for &token in window.iter().cycle().take(steps) {
        if let Some(step) = reference.step(&[token], &[0])
            && collect_reference
        {
            first[0].decoded(step.time);
        }
        for (trial, collected) in trials.iter_mut().zip(others.iter_mut()) {
            if let Some(step) = trial.step(&[token], &[0]) {
                collected.decoded(step.time);
            }
        }
    }
}

/// The reference's rows of one chunk, looked at once for all recipes.
struct Measured<'a> {
    team: &'a Team,
    rows: Vec<Row<'a>>,
    next: &'a [u32],
    vocab: usize,
}

impl<'a> Measured<'a> {
    fn new(team: &'a Team, logits: &'a [f32], next: &'a [u32]) -> Result<Measured<'a>, String> {
        let vocab = logits.len() / next.len().max(1);
        let rows = in_parallel(team, next.len(), |row| {
            Row::new(&logits[row * vocab..(row + 1) * vocab]).map_err(|e| format!("row {row}: {e}"))
        })?;
        Ok(Measured { team, rows, next, vocab })
    }

    fn compare(&self, logits: &[f32]) -> Result<Vec<TokenMeasure>, String> {
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
