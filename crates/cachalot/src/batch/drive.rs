//! Requests into the engine in order, its queue kept filled, and answers out as they are complete.

use crate::Failure;
use cachalot_engine::{EngineError, EngineHandle, ErrorKind, Event, FinishReason, Generation, Request, Usage};
use std::collections::VecDeque;
use tokio::task::JoinSet;

/// A finished answer.
pub struct Answer {
    pub choices: Vec<Choice>,
    pub usage: Usage,
}

/// One choice of an answer.
pub struct Choice {
    pub text: String,
    pub reason: FinishReason,
}

pub type Outcome = Result<Answer, EngineError>;

/// Submits `jobs` in order, at most `most` at a time; `done` is told of each by its number.
pub async fn drive(
    handle: &EngineHandle,
    jobs: Vec<Request>,
    most: usize,
    mut done: impl FnMut(usize, Outcome) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut waiting: VecDeque<(usize, Request)> = jobs.into_iter().enumerate().collect();
    let mut running = JoinSet::new();
    loop {
        while running.len() < most
            && let Some((job, request)) = waiting.pop_front()
        {
            let choices = request.n;
            match handle.submit(request.clone()) {
                Ok(generation) => _ = running.spawn(async move { (job, collect(generation, choices).await) }),
                // Places are given back a moment after an answer is complete.
                Err(error) if error.kind() == ErrorKind::Busy && !running.is_empty() => {
                    waiting.push_front((job, request));
                    break;
                }
                Err(error) => done(job, Err(error))?,
            }
        }
        match running.join_next().await {
            None if waiting.is_empty() => return Ok(()),
            None => {}
            Some(finished) => {
                let (job, outcome) = finished?;
                done(job, outcome)?;
            }
        }
    }
}

async fn collect(mut generation: Generation, choices: usize) -> Outcome {
    let empty = |_| Choice { text: String::new(), reason: FinishReason::Error };
    let mut choices: Vec<Choice> = (0..choices).map(empty).collect();
    let mut failed = None;
    while let Some(event) = generation.next().await {
        match event {
            Event::Token { choice, text, .. } => {
                if let Some(choice) = choices.get_mut(choice) {
                    choice.text.push_str(&text);
                }
            }
            Event::Finished { choice, reason } => {
                if let Some(choice) = choices.get_mut(choice) {
                    choice.reason = reason;
                }
            }
            Event::Error(error) => failed = Some(error),
            Event::Done(usage) => return failed.map_or(Ok(Answer { choices, usage }), Err),
            Event::PromptProgress { .. } | Event::Report { .. } => {}
        }
    }
    Err(failed.unwrap_or(EngineError::Stopped))
}
