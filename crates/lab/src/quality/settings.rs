//! What a run does, and whether it can.

use super::{Item, ItemName, Named, RunSettings, ask};
use crate::tasks::{Generated, Mode, Needles, Source, Wanted};
use crate::{Candidate, LabError, Subject, Text};
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
    /// Where questions come from.
    pub tasks: Vec<Arc<dyn Source>>,
    /// Questions of each kind; 0 for none.
    pub questions: usize,
    /// Questions about one text, which is read once for all of them.
    pub questions_per_text: usize,
    /// Tokens of a question with its text.
    pub question_tokens: usize,
    /// How questions share texts.
    pub mode: Mode,
    /// Whether prompts of a user's file that the model has no room for are cut.
    pub cut: bool,
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
            tasks: vec![Arc::new(Generated(&Needles))],
            questions: 20,
            questions_per_text: 5,
            question_tokens: 3500,
            mode: Mode::default(),
            cut: false,
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
        let follows = self.tasks.iter().filter(|source| source.follows_length());
        let answer = follows.map(|source| source.answer_tokens()).max();
        if let Some(answer) = answer.filter(|answer| self.asks() && self.question_tokens + answer > context) {
            let tokens = self.question_tokens;
            return fail(format!(
                "questions of {tokens} tokens and {answer} of answer do not fit the model's context of {context}; \
                 choose shorter prompts"
            ));
        }
        Ok(())
    }

    fn asks(&self) -> bool {
        self.questions > 0 && !self.tasks.is_empty()
    }

    /// How items are gone through.
    pub(super) fn run(&self) -> RunSettings {
        RunSettings {
            reference: self.reference.clone(),
            chunk: self.chunk,
            decode: self.decode,
            block: self.block,
            tail: self.windows * self.window / 100 + 2,
            kv_budget_bytes: self.kv_budget_bytes,
            recipes_alone: false,
        }
    }

    /// Windows, then questions.
    pub(super) fn items(&self, subject: &Subject<'_>, text: &Text) -> Result<Vec<Named>, LabError> {
        let windows = text.windows(subject.tokenizer, self.windows, self.window)?;
        let name = |task: &str, tokens, known, index| ItemName { task: task.to_owned(), tokens, known, index };
        let window = |(index, tokens)| Named {
            name: name("perplexity", self.window, None, index),
            item: Item::Window { tokens, context: self.context },
        };
        let mut items: Vec<Named> = windows.into_iter().enumerate().map(window).collect();
        for task in &self.tasks {
            let (tokens, per_text) = (self.question_tokens, self.questions_per_text);
            let Self { question_tokens, questions, mode, seed, cut, .. } = *self;
            if questions == 0 {
                continue;
            }
            let cases = task.cases(subject, &Wanted { text, tokens, questions, per_text, mode, seed, cut })?;
            items.extend(ask::rows(&cases).into_iter().enumerate().map(|(index, cases)| Named {
                name: name(task.name(), question_tokens, Some(self.question_known), index),
                item: Item::Questions(cases.to_vec()),
            }));
        }
        Ok(items)
    }
}
