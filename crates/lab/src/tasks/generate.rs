//! Made-up texts of the right length.

use super::prompt::prompt_tokens;
use super::{Case, Filler, Mode, Posed, Prompts, Source, Task, Wanted, prompts};
use crate::statistics::Random;
use crate::{LabError, Subject};

/// A generated kind as a source of cases.
///
/// Prompts have at most the tokens wanted, and hardly fewer. The facts lie at depths `(i + ½) / count`; neighbouring
/// cases are questions about one text, whose facts are spread over it.
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
                let mut posed = task.pose(&sentences[..keep], &depths, &mut random.clone());
                if wanted.mode == Mode::Turns {
                    // Else later turns would always be about later facts.
                    Random::of_item(wanted.seed, !(index as u64)).shuffle(&mut posed.questions);
                }
                posed
            };
            let (posed, prompts) = fit(subject, task.name(), sentences.len(), wanted, pose)?;
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

/// With as many sentences as have at most the tokens wanted. Tokens grow with sentences nearly evenly, so a few guesses
/// between what fits and what does not find the number. The prompt that is longest without any is longest with them.
fn fit(
    subject: &Subject<'_>,
    name: &str,
    most: usize,
    wanted: &Wanted<'_>,
    pose: impl Fn(usize) -> Posed,
) -> Result<(Posed, Prompts), LabError> {
    let (tokens, mode) = (wanted.tokens, wanted.mode);
    let lengths: Vec<usize> = prompts(subject, &pose(0), mode)?.ids.iter().map(Vec::len).collect();
    let (longest, least) = lengths.into_iter().enumerate().max_by_key(|length| length.1).unwrap_or_default();
    if least > tokens {
        let reason = format!("a prompt of {name} has at least {least} tokens; {tokens} were asked for");
        return Err(LabError::Settings(reason));
    }
    let (mut fits, mut below) = (0, least);
    // A sentence of filler more than there is does not fit; its tokens are guessed.
    let (mut fails, mut above) = (most + 1, 2 * tokens + 1);
    for guess in 1.. {
        if fails - fits <= 1 {
            break;
        }
        let share = (tokens - below) as f64 / (above - below) as f64;
        // Halving now and then bounds the guesses where growth is not even.
        let share = if guess % 4 == 0 { 0.5 } else { share };
        let next = fits + (((fails - fits) as f64 * share) as usize).clamp(1, fails - fits - 1);
        let length = prompt_tokens(subject, &pose(next), mode, longest)?;
        if length <= tokens {
            (fits, below) = (next, length);
        } else {
            (fails, above) = (next, length);
        }
    }
    loop {
        let posed = pose(fits);
        let prompts = prompts(subject, &posed, mode)?;
        // Facts that other sentences push to other draws may have a token more.
        if prompts.longest() <= tokens || fits == 0 {
            return Ok((posed, prompts));
        }
        fits -= 1;
    }
}
