//! A file as a source of cases.

use super::{Item, cut};
use crate::tasks::{Case, Mode, Posed, Prompts, Source, Wanted, prompts};
use crate::{LabError, Subject};
use std::path::PathBuf;

/// The good lines of a file.
pub(super) struct FileSource {
    pub name: String,
    pub path: PathBuf,
    /// Whether prompts are cut to the length that is wanted, as benchmarks do.
    pub follows_length: bool,
    pub items: Vec<Item>,
    pub warnings: Vec<String>,
}

impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn answer_tokens(&self) -> usize {
        let questions = self.items.iter().flat_map(|item| &item.posed.questions);
        questions.map(|question| question.answer_tokens).max().unwrap_or(0)
    }

    fn follows_length(&self) -> bool {
        self.follows_length
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The first questions of the file, in its order.
    fn cases(&self, subject: &Subject<'_>, wanted: &Wanted<'_>) -> Result<Vec<Case>, LabError> {
        let mut cases: Vec<Case> = Vec::new();
        for item in &self.items {
            let left = wanted.questions - cases.len();
            if left == 0 {
                break;
            }
            let mut posed = item.posed.clone();
            posed.questions.truncate(if wanted.mode == Mode::Single { 1 } else { left });
            let (prompts, is_cut) = self.prompts(subject, wanted, item, &mut posed)?;
            for (turn, (question, prompt)) in posed.questions.into_iter().zip(prompts.ids).enumerate() {
                cases.push(Case {
                    task: self.name.clone(),
                    index: cases.len(),
                    turn: if wanted.mode == Mode::Turns { turn } else { 0 },
                    id: Some(item.id.clone()),
                    depth: question.depth,
                    prompt,
                    context: prompts.context,
                    cut: is_cut,
                    expected: question.expected,
                    scoring: question.scoring,
                    answer_tokens: question.answer_tokens,
                });
            }
        }
        Ok(cases)
    }
}

impl FileSource {
    /// The prompts of a line, and whether its middle was left out for them to fit.
    fn prompts(
        &self,
        subject: &Subject<'_>,
        wanted: &Wanted<'_>,
        item: &Item,
        posed: &mut Posed,
    ) -> Result<(Prompts, bool), LabError> {
        let in_line = |error: LabError| self.error(item, error.to_string());
        let answer = posed.questions.iter().map(|question| question.answer_tokens).max().unwrap_or(0);
        let room = subject.context().saturating_sub(answer);
        let limit = if self.follows_length { room.min(wanted.tokens) } else { room };
        let whole = prompts(subject, posed, wanted.mode).map_err(in_line)?;
        let longest = whole.longest();
        if longest <= limit {
            return Ok((whole, false));
        }
        if !self.follows_length && !wanted.cut {
            let context = subject.context();
            return Err(self.error(
                item,
                format!(
                    "a prompt of {longest} tokens and {answer} of answer do not fit the model's context of {context}; \
                     shorten it, or allow prompts to be cut"
                ),
            ));
        }
        match cut::fit(subject, posed, wanted.mode, whole, limit).map_err(in_line)? {
            Some(prompts) => Ok((prompts, true)),
            None => Err(self.error(item, format!("its questions alone have more than the {limit} tokens of a prompt"))),
        }
    }

    fn error(&self, item: &Item, reason: String) -> LabError {
        LabError::Text { path: self.path.clone(), reason: format!("line {}: {reason}", item.line) }
    }
}
