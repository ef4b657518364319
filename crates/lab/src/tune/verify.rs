//! What a search has found, held against text and questions that it has not seen.

use super::TuneSettings;
use super::aim::{Aim, Tried};
use super::bench::ModelBench;
use super::space::Setting;
use crate::quality::{Answer, Item, ItemName, Named, Record, Scores, WindowScore, rows};
use crate::statistics::{Interval, paired};
use crate::tasks::{Mode, Source, Wanted};
use crate::{LabError, Text};
use serde::Serialize;
use std::sync::Arc;

/// What is wanted.
#[derive(Clone)]
pub struct Goal {
    /// Of divergence and bytes.
    pub aim: Aim,
    /// Most that mean scores of tasks may lose.
    pub losses: Vec<(Arc<dyn Source>, f64)>,
    /// Greatest ratio of perplexities.
    pub perplexity: Option<f64>,
}

/// What a setting comes to there.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// Mean divergence, in nats.
    pub kl: f64,
    /// Of the mean.
    pub kl_interval: Interval,
    /// Perplexity relative to the reference's.
    pub perplexity_ratio: f64,
    /// Of the ratio.
    pub perplexity_interval: Interval,
    /// Tasks.
    pub losses: Vec<TaskLoss>,
}

/// What a task loses.
#[derive(Clone, Debug, Serialize)]
pub struct TaskLoss {
    /// The task.
    pub task: String,
    /// Questions.
    pub questions: usize,
    /// Mean score of the reference less that of the setting.
    pub loss: f64,
    /// Of the loss, paired.
    pub interval: Interval,
}

/// What speaks for a recipe.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// What was wanted.
    pub goal: String,
    /// What was chosen, as the search saw it.
    pub chosen: Tried,
    /// As it is on what the search has not seen.
    pub held: Held,
    /// How many that the search liked better did not hold there.
    pub place: usize,
    /// Tokens that the search computed.
    pub spent: u64,
    /// Everything that it tried.
    pub tried: Vec<Tried>,
    /// The best that chance found at the same cost.
    pub chance: Option<(Tried, Held)>,
    /// How many settings chance tried.
    pub by_chance: Option<usize>,
}

impl Goal {
    /// Why a setting does not do; `None` where it does.
    pub(super) fn missed(&self, held: &Held) -> Option<String> {
        if let Aim::Smallest { kl } = self.aim
            && held.kl > kl
        {
            return Some(format!("a divergence of {:.4} where {kl} is allowed", held.kl));
        }
        if let Some(ratio) = self.perplexity
            && held.perplexity_ratio > ratio
        {
            return Some(format!(
                "a perplexity of {:.4} times the reference's where {ratio} is allowed",
                held.perplexity_ratio
            ));
        }
        let missed = self.losses.iter().zip(&held.losses).find(|((_, most), loss)| loss.loss > *most);
        missed.map(|((source, most), loss)| {
            let percent = |share: f64| format!("{:.1}%", 100.0 * share);
            format!("{} loses {} where {} is allowed", source.name(), percent(loss.loss), percent(*most))
        })
    }

    pub(super) fn words(&self, context: usize) -> String {
        let mut words = match self.aim {
            Aim::Smallest { kl } => format!("the smallest cache at {context} tokens with a mean KL of at most {kl}"),
            Aim::Best { bytes } => format!("the least KL within {bytes} bytes at {context} tokens"),
        };
        if let Some(ratio) = self.perplexity {
            words += &format!(", perplexity at most {ratio} times the reference's");
        }
        for (source, most) in &self.losses {
            words += &format!(", {} losing at most {:.1}%", source.name(), 100.0 * most);
        }
        words
    }
}

impl Evidence {
    pub(super) fn summary(&self) -> String {
        let held = &self.held;
        format!("tuned: KL {:.4}, perplexity x{:.4}, {} bytes", held.kl, held.perplexity_ratio, self.chosen.bytes)
    }

    /// As sentences of a recipe's notes.
    pub(super) fn notes(&self, settings: &TuneSettings) -> Vec<String> {
        let Held { kl, kl_interval: i, perplexity_ratio, perplexity_interval: p, losses } = &self.held;
        let mut notes = vec![
            format!("Wanted: {}.", self.goal),
            format!(
                "On {} windows of {} tokens that the search had not seen: mean KL {kl:.5} [{:.5}, {:.5}] against {}, perplexity \
                 {perplexity_ratio:.4} times as high [{:.4}, {:.4}].",
                settings.windows,
                settings.tokens,
                i.low,
                i.high,
                settings.reference.name(),
                p.low,
                p.high
            ),
        ];
        for TaskLoss { task, questions, loss, interval } in losses {
            notes.push(format!(
                "Of {questions} questions of {task} the score fell by {loss:.3} [{:.3}, {:.3}].",
                interval.low, interval.high
            ));
        }
        notes.push(format!(
            "{} settings were tried in {} tokens; {} that looked better did not hold.",
            self.tried.len(),
            self.spent,
            self.place
        ));
        if let (Some((chance, held)), Some(count)) = (&self.chance, self.by_chance) {
            notes.push(format!(
                "At the same cost chance tried {count} settings, of which the best has {} bytes and a KL of {:.5}.",
                chance.bytes, held.kl
            ));
        }
        notes
    }
}

/// Windows and questions held back.
pub(super) struct Judge<'a> {
    bench: ModelBench<'a>,
    /// Rows of questions of each task, and what the reference answers.
    tasks: Vec<(String, Vec<Named>, Vec<Answer>)>,
}

impl<'a> Judge<'a> {
    pub fn new(text: &Text, settings: &TuneSettings, mut bench: ModelBench<'a>) -> Result<Judge<'a>, LabError> {
        let mut tasks = Vec::new();
        for (source, _) in &settings.goal.losses {
            let tokens = settings.tokens.min(bench.subject.context().saturating_sub(source.answer_tokens()));
            // Another seed than anyone would take for a sweep of the same recipes.
            let (questions, seed) = (settings.questions, settings.seed ^ 0x7475_6e65);
            let wanted = Wanted { text, tokens, questions, per_text: 5, mode: Mode::Shared, seed, cut: false };
            let cases = source.cases(bench.subject, &wanted)?;
            let items: Vec<Named> = rows(&cases)
                .into_iter()
                .enumerate()
                .map(|(index, cases)| Named {
                    name: ItemName { task: source.name().to_owned(), tokens, known: Some(false), index },
                    item: Item::Questions(cases.to_vec()),
                })
                .collect();
            let mut answers = Vec::new();
            for named in &items {
                answers.extend(bench.measure(named, &[])?.into_iter().flat_map(|record| record.answers));
            }
            tasks.push((source.name().to_owned(), items, answers));
        }
        bench.settings.recipes_alone = true;
        Ok(Judge { bench, tasks })
    }

    pub fn hold(&mut self, setting: &Setting) -> Result<Held, LabError> {
        let recipe = self.bench.candidate(setting)?;
        let mut windows: Vec<WindowScore> = Vec::new();
        for index in 0..self.bench.windows.len() {
            let named = self.bench.window(index);
            let records = self.bench.measure(&named, std::slice::from_ref(&recipe))?;
            windows.push(scored(records)?);
        }
        let scores = Scores::of(&windows.iter().collect::<Vec<_>>(), 1000, 1);
        let scores = scores.ok_or_else(|| LabError::Settings("no window to hold against".into()))?;
        let mut losses = Vec::new();
        for (task, items, reference) in &self.tasks {
            let mut answers = Vec::new();
            for named in items {
                let records = self.bench.measure(named, std::slice::from_ref(&recipe))?;
                if let Some(reason) = records.iter().find_map(|record| record.failure.clone()) {
                    return Err(LabError::Settings(format!("a finalist failed on {task}: {reason}")));
                }
                answers.extend(records.into_iter().flat_map(|record| record.answers));
            }
            let pairs = answers.iter().zip(reference).filter(|(own, _)| !own.expected.is_empty());
            let differences: Vec<f64> = pairs.map(|(own, other)| other.score - own.score).collect();
            losses.push(TaskLoss {
                task: task.clone(),
                questions: differences.len(),
                loss: differences.iter().sum::<f64>() / differences.len().max(1) as f64,
                interval: paired(&differences),
            });
        }
        Ok(Held {
            kl: scores.kl_mean,
            kl_interval: scores.kl_interval,
            perplexity_ratio: scores.perplexity_ratio,
            perplexity_interval: scores.perplexity_ratio_interval,
            losses,
        })
    }
}

/// The window of the recipe, which comes last.
fn scored(records: Vec<Record>) -> Result<WindowScore, LabError> {
    let failure = records.iter().find_map(|record| record.failure.clone());
    let last = records.into_iter().next_back().and_then(|record| record.window);
    last.ok_or_else(|| LabError::Settings(format!("a finalist failed: {}", failure.unwrap_or_default())))
}
