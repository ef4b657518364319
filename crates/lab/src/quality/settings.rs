//! What a run does, and whether it can.

use crate::tasks::{self, Case, Needles, Task};
use crate::{Candidate, LabError, Subject, Text};
use std::ops::Range;
use std::sync::Arc;

/// What a run measures.
pub struct QualitySettings {
    /// The full-precision cache that recipes are compared with.
    pub reference: Arc<dyn Candidate>,
    /// Tokens of a window.
    pub window: usize,
    /// Windows, spread evenly over the text; 0 for none.
    pub windows: usize,
    /// Tokens at the beginning of a window that recipes may reduce: only what follows them is measured. 0 where everything
    /// is measured and nothing reduced.
    pub context: usize,
    /// Tokens of a step.
    pub chunk: usize,
    /// Tokens decoded after each window, one at a time, for speed; 0 for none.
    pub decode: usize,
    /// Kinds of questions.
    pub tasks: Vec<&'static dyn Task>,
    /// Questions of each kind; 0 for none.
    pub questions: usize,
    /// Questions about one text, which is read once for all of them.
    pub questions_per_text: usize,
    /// Tokens of a question with its text.
    pub question_tokens: usize,
    /// Whether recipes that reduce a context see the question first, or get it when the text is reduced.
    pub question_known: bool,
    /// Seed of tasks and intervals.
    pub seed: u64,
    /// Most bytes of all caches together.
    pub kv_budget_bytes: u64,
    /// Consecutive tokens that are drawn together for intervals.
    pub block: usize,
    /// Draws for intervals.
    pub resamples: usize,
}

impl QualitySettings {
    /// Four windows of 4,096 tokens, 20 needles in prompts of 3,500, five to a text.
    pub fn new(reference: Arc<dyn Candidate>, kv_budget_bytes: u64) -> QualitySettings {
        QualitySettings {
            reference,
            window: 4096,
            windows: 4,
            context: 0,
            chunk: 512,
            decode: 16,
            tasks: vec![&Needles],
            questions: 20,
            questions_per_text: 5,
            question_tokens: 3500,
            question_known: false,
            seed: 1,
            kv_budget_bytes,
            block: 64,
            resamples: 2000,
        }
    }

    pub(super) fn check(&self, subject: &Subject<'_>, recipes: &[Arc<dyn Candidate>]) -> Result<(), LabError> {
        let fail = |reason: String| Err(LabError::Settings(reason));
        let context = subject.context();
        if recipes.is_empty() {
            return fail("no recipe to measure".into());
        }
        if self.windows == 0 && !self.asks() {
            return fail("nothing to measure: no windows and no questions".into());
        }
        if self.chunk == 0 || self.block == 0 || self.resamples == 0 {
            return fail("chunk, block and resamples are at least 1".into());
        }
        if self.windows > 0 && self.window < 2 {
            return fail(format!("a window of {} tokens predicts nothing; give at least 2", self.window));
        }
        if self.windows > 0 && self.context + 2 > self.window {
            let (beginning, window) = (self.context, self.window);
            return fail(format!("a context of {beginning} tokens leaves nothing to predict in a window of {window}"));
        }
        if self.windows > 0 && self.window + self.decode > context {
            let (window, decode) = (self.window, self.decode);
            return fail(format!(
                "a window of {window} tokens and {decode} to decode do not fit the model's context of {context}; \
                 choose a shorter window"
            ));
        }
        let answer = self.answer_tokens();
        if self.asks() && self.question_tokens + answer > context {
            let tokens = self.question_tokens;
            return fail(format!(
                "questions of {tokens} tokens and {answer} of answer do not fit the model's context of {context}; \
                 choose shorter prompts"
            ));
        }
        Ok(())
    }

    pub(super) fn cases(&self, subject: &Subject<'_>, text: &Text) -> Result<Vec<Case>, LabError> {
        let mut cases = Vec::new();
        for task in &self.tasks {
            let Self { question_tokens, questions, questions_per_text, seed, .. } = *self;
            cases.extend(tasks::cases(*task, subject, text, question_tokens, questions, questions_per_text, seed)?);
        }
        Ok(cases)
    }

    fn asks(&self) -> bool {
        self.questions > 0 && !self.tasks.is_empty()
    }

    /// Most tokens of an answer.
    fn answer_tokens(&self) -> usize {
        self.tasks.iter().map(|task| task.answer_tokens()).max().unwrap_or(0)
    }

    /// Tokens of the longest sequence.
    pub(super) fn longest(&self) -> usize {
        let window = if self.windows > 0 { self.window + self.decode } else { 0 };
        let question = if self.asks() { self.question_tokens + self.answer_tokens() } else { 0 };
        window.max(question)
    }

    /// Ranges of recipes whose caches fit into memory together with the reference's.
    pub(super) fn groups(
        &self,
        subject: &Subject<'_>,
        recipes: &[Arc<dyn Candidate>],
    ) -> Result<Vec<Range<usize>>, LabError> {
        let bytes = |candidate: &Arc<dyn Candidate>| -> Result<u64, LabError> {
            let cache = candidate.cache(subject, 0)?;
            Ok(cache.peak_bytes(&cache.config().plan, self.longest(), self.chunk))
        };
        let reference = bytes(&self.reference)
            .map_err(|e| LabError::Reference { name: self.reference.name().into(), reason: e.to_string() })?;
        let (mut groups, mut start, mut held) = (Vec::new(), 0, reference);
        for (i, recipe) in recipes.iter().enumerate() {
            // Where recipe and model do not go together there is nothing to hold.
            let more = bytes(recipe).unwrap_or(0);
            if reference + more > self.kv_budget_bytes {
                return Err(LabError::Settings(format!(
                    "the caches of {} and {} take {} bytes together, the budget is {}; choose shorter windows and \
                     prompts or a larger budget",
                    self.reference.name(),
                    recipe.name(),
                    reference + more,
                    self.kv_budget_bytes
                )));
            }
            if held + more > self.kv_budget_bytes {
                groups.push(start..i);
                (start, held) = (i, reference);
            }
            held += more;
        }
        groups.push(start..recipes.len());
        Ok(groups)
    }
}
