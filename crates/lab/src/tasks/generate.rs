//! Made-up texts of the right length.

use super::{Case, Filler, Mode, Posed, Prompts, Source, Task, Wanted, prompts};
use crate::statistics::Random;
use crate::{LabError, Subject};

/// A generated kind as a source of cases.
///
/// Prompts have at most the tokens wanted, and hardly fewer. The facts lie at depths `(i + ½) / count`; neighbouring cases
/// are questions about one text, whose facts are spread over it.
pub struct Generated(pub &'static dyn Task);

impl Source for Generated {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn answer_tokens(&self) -> usize {
        self.0.answer_tokens()
    }

    fn cases(&self, subject: &Subject<'_>, wanted: &Wanted<'_>) -> Result<Vec<Case>, LabError> {
        let (task, count) = (self.0, wanted.questions);
        let per_text = if wanted.mode == Mode::Single { 1 } else { wanted.per_text.max(1) };
        let texts = count.div_ceil(per_text.min(task.questions_of_a_text()));
        let mut filler = Filler::new(wanted.text, subject.tokenizer);
        let mut cases = Vec::with_capacity(count);
        for index in 0..texts {
            let mut random = Random::of_item(wanted.seed, index as u64);
            let sentences = match task.made_up() {
                // Nothing takes less than a token.
                true => vec![""; wanted.tokens],
                false => filler.take(wanted.tokens, &mut random)?,
            };
            let depths: Vec<f64> = (index..count).step_by(texts).map(|i| (i as f64 + 0.5) / count as f64).collect();
            let pose = |keep: usize| {
                let mut random = random.clone();
                let mut posed = task.pose(&sentences[..keep], &depths, &mut random);
                if wanted.mode == Mode::Turns {
                    // Else later turns would always be about later facts.
                    random.shuffle(&mut posed.questions);
                }
                let prompts = prompts(subject, &posed, wanted.mode)?;
                Ok((posed, prompts))
            };
            let (posed, prompts) = fit(task.name(), sentences.len(), wanted.tokens, pose)?;
            for (turn, (question, prompt)) in posed.questions.into_iter().zip(prompts.ids).enumerate() {
                cases.push(Case {
                    task: task.name().to_owned(),
                    index: cases.len(),
                    turn: if wanted.mode == Mode::Turns { turn } else { 0 },
                    id: None,
                    depth: question.depth,
                    prompt,
                    context: prompts.context,
                    cut: false,
                    expected: question.expected,
                    scoring: question.scoring,
                    answer_tokens: task.answer_tokens(),
                });
            }
        }
        Ok(cases)
    }
}

/// With as many sentences as have at most `tokens` tokens. Tokens grow with sentences nearly evenly, so a few guesses
/// between what fits and what does not find the number.
fn fit(
    name: &str,
    most: usize,
    tokens: usize,
    pose: impl Fn(usize) -> Result<(Posed, Prompts), LabError>,
) -> Result<(Posed, Prompts), LabError> {
    let (mut fits, mut best) = (0, pose(0)?);
    if best.1.longest() > tokens {
        let least = best.1.longest();
        let reason = format!("a prompt of {name} has at least {least} tokens; {tokens} were asked for");
        return Err(LabError::Settings(reason));
    }
    // A sentence of filler more than there is does not fit; its tokens are guessed.
    let (mut above, mut above_tokens) = (most + 1, 2 * tokens.max(best.1.longest()) + 1);
    let mut guesses = 0;
    while above - fits > 1 {
        let have = best.1.longest();
        let share = (tokens - have) as f64 / (above_tokens - have) as f64;
        // Halving now and then bounds the guesses where growth is not even.
        let share = if guesses % 4 == 3 { 0.5 } else { share };
        let next = fits + (((above - fits) as f64 * share) as usize).clamp(1, above - fits - 1);
        let posed = pose(next)?;
        if posed.1.longest() <= tokens {
            (fits, best) = (next, posed);
        } else {
            (above, above_tokens) = (next, posed.1.longest());
        }
        guesses += 1;
    }
    Ok(best)
}
