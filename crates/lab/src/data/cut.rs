//! Prompts that are too long lose their middle, as in LongBench (Bai et al., 2023): what is wanted and how often
//! stands at the ends.

use crate::tasks::{Mode, Posed, Prompts, prompts};
use crate::{LabError, Subject};
use cachalot_model::tokenizer::Specials;

/// Prompts of at most `limit` tokens; `posed` is cut to what they have. `None` where not even the rest fits.
///
/// As many tokens stay before the cut as behind it, counted from the ends of the whole prompt. LongBench cuts
/// prompts; here it is their longest part that is cut, so that no question is.
pub(super) fn fit(
    subject: &Subject<'_>,
    posed: &mut Posed,
    mode: Mode,
    whole: Prompts,
    limit: usize,
) -> Result<Option<Prompts>, LabError> {
    let has_text = !posed.text.is_empty();
    let part = longest_part(posed).clone();
    let ids = subject.tokenizer.encode(&part, Specials::Plain)?;
    // Where the text does not begin the prompt, the tokens before it belong to the first half.
    let before = if has_text { whole.context.saturating_sub(ids.len()) } else { 0 };
    let mut keep = ids.len();
    let mut made = whole;
    while made.longest() > limit {
        let over = made.longest() - limit;
        if over > keep {
            return Ok(None);
        }
        // Pieces joined again may have a few more tokens than before: then once more.
        keep -= over;
        let first = (limit / 2).saturating_sub(before).min(keep);
        let (head, tail) = (&ids[..first], &ids[ids.len() - (keep - first)..]);
        // A character that was cut in two is gone.
        let decode = |ids: &[u32]| subject.tokenizer.decode(ids);
        let (head, tail) = (decode(head), decode(tail));
        *longest_part(posed) = format!(
            "{}{}",
            head.trim_end_matches(char::REPLACEMENT_CHARACTER),
            tail.trim_start_matches(char::REPLACEMENT_CHARACTER)
        );
        made = prompts(subject, posed, mode)?;
    }
    Ok(Some(made))
}

/// The text, or else the longest message.
fn longest_part(posed: &mut Posed) -> &mut String {
    if !posed.text.is_empty() {
        return &mut posed.text;
    }
    let messages = posed.history.iter_mut().map(|message| &mut message.content);
    let asked = posed.questions.iter_mut().map(|question| &mut question.text);
    // There is a question in every line.
    messages.chain(asked).max_by_key(|part| part.len()).unwrap_or(&mut posed.text)
}
