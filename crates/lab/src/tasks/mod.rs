//! Questions with known answers, generated from a seed at any length.
//!
//! A kind of task implements [`Task`]: it makes the text and the question of one case. What all kinds share is done
//! once: the filler ([`Filler`]), the prompt in the model's own form and of the right length ([`cases`]), and the score
//! ([`Case::score`]).

mod filler;
mod multi;
mod needle;
mod pairs;

pub use filler::Filler;
pub use multi::MultiNeedles;
pub use needle::Needles;
pub use pairs::KeyValue;

use crate::statistics::Random;
use crate::{LabError, Subject, Text};
use cachalot_model::template::Message;
use cachalot_model::tokenizer::Specials;

/// All kinds.
pub const TASKS: [&dyn Task; 3] = [&Needles, &MultiNeedles, &KeyValue];

/// Kinds by their names, separated by commas.
///
/// # Errors
/// [`LabError::Settings`] for a name that is none.
pub fn named(list: &str) -> Result<Vec<&'static dyn Task>, LabError> {
    let named = |name: &str| {
        TASKS.into_iter().find(|task| task.name() == name).ok_or_else(|| {
            let names: Vec<&str> = TASKS.iter().map(|task| task.name()).collect();
            LabError::Settings(format!("there is no task `{name}`; choose from {}", names.join(", ")))
        })
    };
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(named).collect()
}

/// A kind of question.
pub trait Task: Sync {
    /// As results are filed.
    fn name(&self) -> &'static str;

    /// Most tokens of an answer.
    fn answer_tokens(&self) -> usize;

    /// One text with a question for each depth: places the facts among the filler's sentences. Depths lie in `[0, 1]`.
    ///
    /// Called again with fewer sentences until the prompts fit; the same draws must give the same facts.
    fn pose(&self, sentences: &[&str], depths: &[f64], random: &mut Random) -> Posed;
}

/// A text and the questions that are asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posed {
    /// What the text is about and what will be asked of it.
    pub introduction: String,
    /// Filler with the facts in it.
    pub text: String,
    /// One for each depth.
    pub questions: Vec<Question>,
    /// How to answer, for models that follow instructions.
    pub instruction: String,
}

/// A question and what the answer must contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The question.
    pub text: String,
    /// How the answer begins, as in RULER: a small model goes on where it would not begin.
    pub prefix: String,
    /// What the answer must contain.
    pub expected: Vec<String>,
}

/// A question as a model gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Kind of task.
    pub task: &'static str,
    /// Which of the cases of one seed.
    pub index: usize,
    /// Where the fact lies, as a share of the text.
    pub depth: f64,
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Those before the question.
    pub context: usize,
    /// What the answer must contain.
    pub expected: Vec<String>,
    /// Most tokens of the answer.
    pub answer_tokens: usize,
}

impl Case {
    /// Tokens that both prompts begin with, and after which both go on.
    pub fn common(&self, other: &Case) -> usize {
        common(&self.prompt, &other.prompt)
    }

    /// The share of the expected strings that the answer contains, whatever the case of letters (`string_match_all` of
    /// RULER, Hsieh et al., 2024).
    pub fn score(&self, answer: &str) -> f64 {
        let answer = answer.to_lowercase();
        let found = self.expected.iter().filter(|expected| answer.contains(&expected.to_lowercase())).count();
        found as f64 / self.expected.len().max(1) as f64
    }
}

fn common(one: &[u32], other: &[u32]) -> usize {
    let same = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    same.min(one.len().min(other.len()).saturating_sub(1))
}

/// A number of five digits that is not `known`. One that the filler happens to have would prove nothing.
fn number(sentences: &[&str], known: impl Fn(&str) -> bool, random: &mut Random) -> String {
    loop {
        let number = (10_000 + random.below(90_000)).to_string();
        if !known(&number) && !sentences.iter().any(|sentence| sentence.contains(&number)) {
            return number;
        }
    }
}

/// The sentences with facts among them, each before the sentence of its number.
fn hidden(sentences: &[&str], facts: &[(usize, String)]) -> String {
    let mut text = Vec::new();
    for at in 0..=sentences.len() {
        text.extend(facts.iter().filter(|fact| fact.0.min(sentences.len()) == at).map(|fact| &fact.1[..]));
        text.extend(sentences.get(at));
    }
    text.join(" ")
}

/// `count` cases whose prompts have at most `tokens` tokens, and hardly fewer. The facts lie at depths
/// `(i + ½) / count`; `share` neighbouring cases are questions about one text, whose facts are spread over it.
///
/// # Errors
/// [`LabError::Settings`] where not even the question fits, [`LabError::Text`] where the text has too little filler.
pub fn cases(
    task: &dyn Task,
    subject: &Subject<'_>,
    text: &Text,
    tokens: usize,
    count: usize,
    share: usize,
    seed: u64,
) -> Result<Vec<Case>, LabError> {
    let mut filler = Filler::new(text, subject.tokenizer);
    let mut cases = Vec::with_capacity(count);
    let texts = count.div_ceil(share.max(1));
    for index in 0..texts {
        let mut random = Random::of_item(seed, index as u64);
        let sentences = filler.take(tokens, &mut random)?;
        let depths: Vec<f64> = (index..count).step_by(texts).map(|i| (i as f64 + 0.5) / count as f64).collect();
        let mut keep = sentences.len();
        let (posed, prompts) = loop {
            let posed = task.pose(&sentences[..keep], &depths, &mut random.clone());
            let prompts = posed.questions.iter().map(|question| prompt(subject, &posed, question));
            let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
            let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
            if longest <= tokens {
                break (posed, prompts);
            }
            if keep == 0 {
                let name = task.name();
                let reason = format!("a prompt of {name} has at least {longest} tokens; {tokens} were asked for");
                return Err(LabError::Settings(reason));
            }
            // A sentence has some twenty tokens: never too many at once, so that the prompt stays close to the length.
            keep -= ((longest - tokens) / 40).clamp(1, keep);
        };
        // What comes before any question, also before one that nobody asks.
        let other = Question { text: "Is that all?".into(), prefix: String::new(), expected: Vec::new() };
        let other = prompt(subject, &posed, &other)?;
        let context = prompts.iter().map(|prompt| common(prompt, &other)).min().unwrap_or(0);
        for ((question, prompt), depth) in posed.questions.into_iter().zip(prompts).zip(depths) {
            let (task, answer_tokens, index) = (task.name(), task.answer_tokens(), cases.len());
            cases.push(Case { task, index, depth, prompt, context, expected: question.expected, answer_tokens });
        }
    }
    Ok(cases)
}

/// In the model's chat template where it has one, else as a plain text that the answer continues.
fn prompt(subject: &Subject<'_>, posed: &Posed, question: &Question) -> Result<Vec<u32>, LabError> {
    let (tokenizer, Posed { introduction, text, instruction, .. }) = (subject.tokenizer, posed);
    let Question { text: question, prefix, .. } = question;
    let mut ids = match subject.template {
        Some(template) => {
            let message = Message::new("user", format!("{introduction}\n\n{text}\n\n{question} {instruction}"));
            template.encode(tokenizer, &[message], true, None, None)?
        }
        None => {
            let text = format!("{introduction}\n\n{text}\n\nQuestion: {question}\nAnswer:");
            let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
            bos.into_iter().chain(tokenizer.encode(&text, Specials::Plain)?).collect()
        }
    };
    if !prefix.is_empty() {
        ids.extend(tokenizer.encode(prefix, Specials::Plain)?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_scored_by_what_they_contain() {
        let expected = vec!["48213".to_owned(), "Lima".to_owned()];
        let case = Case { task: "t", index: 0, depth: 0.5, prompt: vec![], context: 0, expected, answer_tokens: 1 };
        assert_eq!(case.score("It is 48213 in LIMA."), 1.0);
        assert_eq!(case.score("4821 lima"), 0.5);
        assert_eq!(case.score(""), 0.0);
    }
}
