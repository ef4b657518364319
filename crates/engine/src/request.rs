//! What goes into the engine and what comes out.

use std::ops::Range;
use std::time::Duration;

use crate::EngineError;
use crate::beam::Beam;
use crate::blend::Wish;
use crate::constraint::ConstraintSpec;
use crate::replay::{KvReport, ReportSpec};
use crate::reuse::Pinned;
use crate::sampling::{MAX_TOP_LOGPROBS, Sampling, TokenLogprobs};
use crate::stop::{MAX_STOP_BYTES, MAX_STOP_STRINGS};

/// Most choices of one request.
pub const MAX_CHOICES: usize = 128;

/// One request. `Request { prompt, ..Request::default() }` samples one choice to the end of the context.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, special tokens included; must not be empty.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens of each choice. The end of the context ends a choice too, and so does the KV budget where it holds
    /// less than the context: all three are [`FinishReason::Length`]. `Some(0)` only computes the prompt.
    pub max_tokens: Option<usize>,
    /// Texts that end a choice; they are not part of its text. At most [`MAX_STOP_STRINGS`].
    pub stop: Vec<String>,
    /// Tokens that end a choice, beside the model's own; they have no text.
    pub stop_tokens: Vec<u32>,
    /// Choices, each with its own random stream; the prompt is computed once.
    pub n: usize,
    /// Search for the most likely texts instead of drawing tokens; `n` of them are told when they are complete.
    pub beam: Option<Beam>,
    /// Log-probabilities of each token, with this many alternatives (at most 20).
    pub logprobs: Option<usize>,
    /// How its keys and values are kept: a recipe's name or an expression; `None` for the engine's own.
    pub kv: Option<String>,
    /// Whose it is: nothing that was computed is shared with others. Never taken from what clients write.
    pub tenant: String,
    /// Stretches of the prompt, in tokens, that recipes may treat by themselves, such as images: ascending, apart.
    pub spans: Vec<Range<usize>>,
    /// What it wants of stretches that were computed in another context.
    pub wish: Wish,
    /// Compare the answer with what the exact cache would have said; see [`Event::Report`].
    pub report: Option<ReportSpec>,
    /// What the text must look like.
    pub constraint: Option<ConstraintSpec>,
    /// Treat the model's end-of-generation tokens as any other.
    pub ignore_eos: bool,
    /// The answer is a text of its own, as a turn of a chat is, and does not continue the prompt's. Vocabularies that put
    /// a space before every text then lose it.
    pub starts_text: bool,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            prompt: Vec::new(),
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            n: 1,
            beam: None,
            logprobs: None,
            kv: None,
            tenant: String::new(),
            spans: Vec::new(),
            wish: Wish::default(),
            report: None,
            constraint: None,
            ignore_eos: false,
            starts_text: false,
        }
    }
}

impl Request {
    /// Checks all that can be checked without cache and grammar compiler. `vocab` is the number of the model's logits.
    ///
    /// # Errors
    /// Of kind [`crate::ErrorKind::Request`].
    pub fn validate(&self, vocab: usize) -> Result<(), EngineError> {
        if self.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some((index, &id)) = self.prompt.iter().enumerate().find(|(_, id)| **id as usize >= vocab) {
            return Err(EngineError::UnknownToken { index, id, vocab });
        }
        for (name, stretches) in [("kv.spans", &self.spans), ("kv.chunks", &self.wish.chunks)] {
            check_stretches(name, stretches, self.prompt.len())?;
        }
        let edited = self.wish.blend.filter(|_| self.wish.before.is_some());
        if let Some(blend) = edited.filter(|blend| blend.method.wants_chunks()) {
            let allowed = "another method for an edit: it knows chunks of prompts only";
            return Err(EngineError::invalid("kv.reuse", blend.method.name(), allowed));
        }
        self.sampling.validate(vocab)?;
        if let Some(spec) = self.report.filter(|spec| !(0.0..=1.0).contains(&spec.share)) {
            return Err(EngineError::invalid("kv.report.share", spec.share, "between 0 and 1"));
        }
        if self.n == 0 || self.n > MAX_CHOICES {
            return Err(EngineError::invalid("n", self.n, format!("between 1 and {MAX_CHOICES}")));
        }
        if let Some(beam) = &self.beam {
            beam.validate(self.n)?;
            if self.report.is_some() {
                return Err(EngineError::invalid("kv.report", "with beam search", "only where tokens are drawn"));
            }
        }
        if self.logprobs.is_some_and(|n| n > MAX_TOP_LOGPROBS) {
            let n = self.logprobs.unwrap_or_default();
            return Err(EngineError::invalid("top_logprobs", n, format!("at most {MAX_TOP_LOGPROBS}")));
        }
        if self.stop.len() > MAX_STOP_STRINGS {
            let allowed = format!("at most {MAX_STOP_STRINGS} strings");
            return Err(EngineError::invalid("stop", format!("a list of {}", self.stop.len()), allowed));
        }
        for stop in &self.stop {
            if stop.is_empty() || stop.len() > MAX_STOP_BYTES {
                let allowed = format!("strings of 1 to {MAX_STOP_BYTES} bytes");
                return Err(EngineError::invalid("stop", format!("a string of {} bytes", stop.len()), allowed));
            }
        }
        Ok(())
    }
}

/// Whether stretches lie in a prompt of so many tokens, one after the other.
pub(crate) fn check_stretches(
    name: &'static str,
    stretches: &[Range<usize>],
    tokens: usize,
) -> Result<(), EngineError> {
    let mut end = 0;
    for span in stretches {
        if span.start < end || span.is_empty() || span.end > tokens {
            let allowed = format!("stretches of the prompt's {tokens} tokens, none empty, each after the one before");
            return Err(EngineError::invalid(name, format!("{}..{}", span.start, span.end), allowed));
        }
        end = span.end;
    }
    Ok(())
}

/// Why a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end token, a stop text, or the constraint is fulfilled and allows no more.
    Stop,
    /// `max_tokens`, the context or the KV budget is used up.
    Length,
    /// The client gave up, or the engine was told to stop at once.
    Cancelled,
    /// An [`Event::Error`] before it says what happened.
    Error,
}

/// What a client is told, in this order: progress of the prompt; tokens of all choices, interleaved; one `Finished` for
/// each choice; one `Report` for each choice that was compared; `Done`, always last. An `Error` comes before the `Finished` of the choices it ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// So many of the prompt's tokens are computed.
    PromptProgress {
        /// Tokens computed.
        done: usize,
        /// Tokens of the prompt.
        total: usize,
    },
    /// A token was generated; one event for every one, the token that ends the choice included.
    Token {
        /// Which choice, from 0.
        choice: usize,
        /// New text: whole characters only, empty while a character is incomplete or a stop text may be beginning.
        /// End tokens have none, but text that was held back comes with them.
        text: String,
        /// Token id.
        id: u32,
        /// If asked for.
        logprob: Option<TokenLogprobs>,
    },
    /// A choice is complete.
    Finished {
        /// Which choice.
        choice: usize,
        /// Why.
        reason: FinishReason,
    },
    /// How far a choice was from what the exact cache would have said, where the request asked for that and generated it
    /// to its end.
    Report {
        /// Which choice.
        choice: usize,
        /// The comparison, or why there is none.
        report: KvReport,
    },
    /// The request is complete.
    Done(Usage),
    /// Something failed.
    Error(EngineError),
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Usage {
    /// Tokens of the prompt, counted once whatever `n`.
    pub prompt_tokens: usize,
    /// Tokens generated, of all choices: the number of [`Event::Token`].
    pub completion_tokens: usize,
    /// Tokens of the prompt that were not computed because their cache was there already.
    pub cached_tokens: usize,
    /// Of these, tokens whose cache a lossy codec below the pool has changed, or that were computed behind such: answers are not
    /// those of a prompt that is computed whole.
    pub lossy_tokens: usize,
    /// Further tokens of the prompt whose cache came from another context, whether some layers of them were computed again or
    /// not: answers are not those of a prompt that is computed whole.
    pub moved_tokens: usize,
    /// Of those, rows of the first choice that were computed again in the last layers or all of them, and of its prompt while
    /// its answer was generated.
    pub recomputed_tokens: usize,
    /// What became of the wish that the prompt's blocks stay, where there was one.
    pub pinned: Option<Pinned>,
    /// The share of the keys and values of the first choice that its recipe kept when it last reduced them, mean of all
    /// heads and layers; absent where it was not reduced.
    pub kept_share: Option<f64>,
    /// How long it took.
    pub timings: Timings,
}

/// How long a request took. Milliseconds from submission where not said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Timings {
    /// Waiting for a place in the batch.
    pub queue_ms: f64,
    /// From the place in the batch to the last prompt token; absent if it did not come to that.
    pub prompt_ms: Option<f64>,
    /// To the first generated token.
    pub ttft_ms: Option<f64>,
    /// From the first to the last generated token.
    pub decode_ms: Option<f64>,
    /// Tokens per second between the first and the last token, of all choices together; absent for fewer than two.
    pub decode_tokens_per_second: Option<f64>,
    /// To the end.
    pub total_ms: f64,
}

/// The moments of a request, on the scheduler's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub submitted: Duration,
    pub admitted: Option<Duration>,
    pub prompt_done: Option<Duration>,
    pub first_token: Option<Duration>,
    pub last_token: Option<Duration>,
}

impl Moments {
    /// `first_tokens` are the tokens that came with the first step, one per choice.
    pub(crate) fn timings(&self, now: Duration, tokens: usize, first_tokens: usize) -> Timings {
        let ms = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64() * 1e3;
        let decode = self.first_token.zip(self.last_token).map(|(first, last)| ms(first, last));
        Timings {
            queue_ms: ms(self.submitted, self.admitted.unwrap_or(now)),
            prompt_ms: self.admitted.zip(self.prompt_done).map(|(from, to)| ms(from, to)),
            ttft_ms: self.first_token.map(|at| ms(self.submitted, at)),
            decode_ms: decode,
            decode_tokens_per_second: decode
                .filter(|&ms| ms > 0.0 && tokens > first_tokens)
                .map(|ms| (tokens - first_tokens) as f64 / (ms / 1e3)),
            total_ms: ms(self.submitted, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_requests_are_refused_by_name() {
        let ok = Request { prompt: vec![1, 2], ..Request::default() };
        assert_eq!(ok.validate(3), Ok(()));
        assert_eq!(Request::default().validate(3), Err(EngineError::EmptyPrompt));
        assert_eq!(ok.validate(2), Err(EngineError::UnknownToken { index: 1, id: 2, vocab: 2 }));
        let named = |request: Request| match request.validate(3) {
            Err(EngineError::InvalidParameter { name, .. }) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(named(Request { n: 0, ..ok.clone() }), "n");
        assert_eq!(named(Request { n: MAX_CHOICES + 1, ..ok.clone() }), "n");
        assert_eq!(named(Request { logprobs: Some(21), ..ok.clone() }), "top_logprobs");
        let share = |share| Some(ReportSpec { share, within: None });
        assert_eq!(named(Request { report: share(1.1), ..ok.clone() }), "kv.report.share");
        assert_eq!(named(Request { report: share(f64::NAN), ..ok.clone() }), "kv.report.share");
        assert_eq!(named(Request { stop: vec![String::new()], ..ok.clone() }), "stop");
        assert_eq!(named(Request { stop: vec!["x".repeat(MAX_STOP_BYTES + 1)], ..ok.clone() }), "stop");
        assert_eq!(named(Request { stop: vec!["x".into(); MAX_STOP_STRINGS + 1], ..ok }), "stop");
    }

    #[test]
    fn timings_follow_the_moments() {
        let at = Duration::from_millis;
        let moments = Moments {
            submitted: at(100),
            admitted: Some(at(150)),
            prompt_done: Some(at(400)),
            first_token: Some(at(410)),
            last_token: Some(at(1410)),
        };
        let t = moments.timings(at(1500), 21, 1);
        assert_eq!((t.queue_ms, t.prompt_ms, t.ttft_ms, t.total_ms), (50.0, Some(250.0), Some(310.0), 1400.0));
        assert_eq!(t.decode_tokens_per_second, Some(20.0));
        let never = Moments { submitted: at(100), ..Moments::default() }.timings(at(300), 0, 0);
        assert_eq!((never.queue_ms, never.ttft_ms, never.decode_tokens_per_second), (200.0, None, None));
    }
}
