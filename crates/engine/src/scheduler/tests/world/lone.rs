//! What a request is answered alone, with nothing to begin with; and what a client hears.

use std::collections::{BTreeMap, HashMap};

use super::super::sharing::plan;
use super::super::*;
use crate::testing::cache_with;

/// Of each choice its tokens, with the bits of their log-probabilities and of those of the likeliest others.
pub type Answer = BTreeMap<usize, Vec<(u32, Vec<u32>)>>;

/// A client, as far as it has heard.
pub struct Asked {
    pub request: Request,
    pub recipe: usize,
    receiver: Option<UnboundedReceiver<Event>>,
    answer: Answer,
    errors: Vec<EngineError>,
    pub usage: Option<Usage>,
    /// It may end with [`EngineError::TenantDeleted`].
    pub doomed: bool,
}

impl Asked {
    pub fn new(client: Client, recipe: usize) -> Asked {
        let Client { request, receiver, .. } = client;
        Asked { request, recipe, receiver, answer: Answer::new(), errors: Vec::new(), usage: None, doomed: false }
    }

    /// Whether it has come to its end.
    pub fn hear(&mut self) -> bool {
        while let Some(event) = self.receiver.as_mut().and_then(|receiver| receiver.try_recv().ok()) {
            match event {
                Event::Token { choice, id, logprob, .. } => {
                    let logprob = logprob.unwrap();
                    let others = logprob.top.iter().flat_map(|top| [top.id, top.logprob.to_bits()]);
                    let bits = [logprob.logprob.to_bits()].into_iter().chain(others).collect();
                    self.answer.entry(choice).or_default().push((id, bits));
                }
                Event::Done(usage) => self.usage = Some(usage),
                Event::Error(error) => self.errors.push(error),
                _ => {}
            }
        }
        self.usage.is_some()
    }

    pub fn go_away(&mut self) {
        self.receiver = None;
    }

    /// The complete answer; `None` where its tenant was deleted.
    #[track_caller]
    pub fn complete(&self) -> Option<&Answer> {
        match (&self.errors[..], self.doomed) {
            ([], _) => Some(&self.answer),
            ([EngineError::TenantDeleted], true) => None,
            (errors, _) => panic!("{errors:?}"),
        }
    }
}

/// What was asked for: prompt, tokens, choices, recipe.
type Question = (Vec<u32>, Option<usize>, usize, usize);

/// Lone runs, each done once.
#[derive(Default)]
pub struct Lone {
    pub window: Option<usize>,
    pub known: HashMap<Question, Answer>,
}

impl Lone {
    pub fn answer(&mut self, request: &Request, recipe: usize, name: &str) -> &Answer {
        let question = (request.prompt.clone(), request.max_tokens, request.n, recipe);
        let window = self.window;
        self.known.entry(question).or_insert_with(|| {
            let mut bench = Bench::over(cache_with(4000, window), HashDecoder::new(600), EngineConfig::default());
            let plan = plan(&bench.cache, name);
            let mut asked = Asked::new(bench.submit_with(request.clone(), plan), recipe);
            bench.run();
            assert!(asked.hear() && asked.usage.unwrap().cached_tokens == 0);
            asked.complete().unwrap().clone()
        })
    }
}
