//! Texts and questions to tokens.

use super::case::common;
use super::{Form, Mode, Posed, Question};
use crate::{LabError, Subject};
use cachalot_model::template::Message;
use cachalot_model::tokenizer::Specials;

/// The prompts of all questions of a text.
pub(crate) struct Prompts {
    /// Token ids, one prompt a question.
    pub ids: Vec<Vec<u32>>,
    /// Tokens before the first question, the same in all.
    pub context: usize,
}

impl Prompts {
    /// Tokens of the longest.
    pub fn longest(&self) -> usize {
        self.ids.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// One prompt for each question, in turns with those before it and their right answers.
pub(crate) fn prompts(subject: &Subject<'_>, posed: &Posed, mode: Mode) -> Result<Prompts, LabError> {
    let ids = (0..posed.questions.len()).map(|at| asked(subject, posed, mode, at));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    Ok(Prompts { context: context(subject, posed, &ids)?, ids })
}

/// Tokens of the prompt of one question.
pub(super) fn prompt_tokens(subject: &Subject<'_>, posed: &Posed, mode: Mode, at: usize) -> Result<usize, LabError> {
    Ok(asked(subject, posed, mode, at)?.len())
}

fn asked(subject: &Subject<'_>, posed: &Posed, mode: Mode, at: usize) -> Result<Vec<u32>, LabError> {
    let before = if mode == Mode::Turns { &posed.questions[..at] } else { &[] };
    prompt(subject, posed, before, &posed.questions[at])
}

/// What comes before any question, also before ones that nobody asks.
fn context(subject: &Subject<'_>, posed: &Posed, prompts: &[Vec<u32>]) -> Result<usize, LabError> {
    let no_question = posed.questions.iter().any(|question| question.text.is_empty());
    if no_question || posed.text.is_empty() && posed.history.is_empty() {
        return Ok(0);
    }
    // Two that begin differently: the question itself may begin like one of them.
    let other = |text: &str| prompt(subject, posed, &[], &Question::new(text.into(), Vec::new(), 0.0));
    let (one, two) = (other("Is that all?")?, other("Whatever else?")?);
    Ok(prompts.iter().map(|prompt| common(prompt, &one)).chain([common(&one, &two)]).min().unwrap_or(0))
}

/// In the model's chat template where it has one and the form wants it, else as a plain text that the answer continues.
fn prompt(
    subject: &Subject<'_>,
    posed: &Posed,
    before: &[Question],
    question: &Question,
) -> Result<Vec<u32>, LabError> {
    let template = subject.template.filter(|_| !matches!(posed.form, Form::Plain { .. }));
    match template {
        Some(template) => {
            let mut messages = posed.history.clone();
            for (at, question) in before.iter().chain([question]).enumerate() {
                let begin = if at == 0 { beginning(posed) } else { String::new() };
                messages.push(Message::new("user", begin + &ask(posed, question, true)));
                if at < before.len() {
                    messages.push(Message::new("assistant", answer(question)));
                }
            }
            let mut ids = template.encode(subject.tokenizer, &messages, true, None, None)?;
            if !question.prefix.is_empty() {
                ids.extend(subject.tokenizer.encode(&question.prefix, Specials::Plain)?);
            }
            Ok(ids)
        }
        None if !posed.history.is_empty() => Err(LabError::Settings(
            "the model has no chat template, so it cannot read messages; give it lines with a `prompt`".into(),
        )),
        None => {
            let mut text = beginning(posed);
            for question in before {
                text += &ask(posed, question, false);
                text += &after(&text, &answer(question));
                text += "\n\n";
            }
            text += &ask(posed, question, false);
            text += &after(&text, &question.prefix);
            let bos = subject.tokenizer.bos().filter(|_| subject.tokenizer.add_bos());
            Ok(bos.into_iter().chain(subject.tokenizer.encode(&text, Specials::Plain)?).collect())
        }
    }
}

/// Everything before the first question.
fn beginning(posed: &Posed) -> String {
    let Posed { introduction, text, .. } = posed;
    let between = if introduction.is_empty() { "" } else { "\n\n" };
    let join = match posed.form {
        _ if text.is_empty() => "",
        Form::Asked => "\n\n",
        Form::Chat { join } | Form::Plain { join } => join,
    };
    format!("{introduction}{between}{text}{join}")
}

fn ask(posed: &Posed, question: &Question, chat: bool) -> String {
    match posed.form {
        Form::Asked if chat => format!("{} {}", question.text, posed.instruction),
        Form::Asked => format!("Question: {}\nAnswer:", question.text),
        Form::Chat { .. } | Form::Plain { .. } => question.text.clone(),
    }
}

/// The whole right answer.
fn answer(question: &Question) -> String {
    format!("{}{}", question.prefix, question.answer).trim_start().to_owned()
}

/// An answer as it goes on after a text.
fn after(text: &str, answer: &str) -> String {
    let blank = answer.is_empty() || text.ends_with(char::is_whitespace) || answer.starts_with(char::is_whitespace);
    format!("{}{answer}", if blank { "" } else { " " })
}
