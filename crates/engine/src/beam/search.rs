//! What is kept of what beams could go on with: nothing here knows of models or caches.

use super::{Beam, Stopping};
use crate::sampling::TokenLogprobs;

/// A beam and a token it could go on with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// Which beam.
    pub beam: usize,
    /// The token.
    pub token: u32,
    /// Log-probability of the beam with it.
    pub sum: f64,
    /// If asked for.
    pub logprob: Option<TokenLogprobs>,
    /// Whether a text ends with it.
    pub ends: bool,
}

/// A complete text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hypothesis {
    /// Its tokens, without the prompt's.
    pub tokens: Vec<u32>,
    /// Of each token, if asked for.
    pub logprobs: Vec<Option<TokenLogprobs>>,
    /// See [`Beam::length_penalty`].
    pub score: f64,
    /// Whether it ended by itself.
    pub stopped: bool,
}

/// A beam: what it has come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Live {
    pub sum: f64,
    pub tokens: Vec<u32>,
    pub logprobs: Vec<Option<TokenLogprobs>>,
}

/// A search under way.
#[derive(Debug)]
pub(crate) struct Search {
    beam: Beam,
    /// Most tokens of a text.
    limit: usize,
    live: Vec<Live>,
    /// Best first; at most the width.
    complete: Vec<Hypothesis>,
    done: bool,
}

impl Search {
    pub fn new(beam: Beam, limit: usize) -> Search {
        Search { beam, limit, live: vec![Live::default()], complete: Vec::new(), done: false }
    }

    /// How many continuations of each beam are worth looking at: with as many that end there are still enough that do not.
    pub fn per_beam(&self) -> usize {
        2 * self.beam.width
    }

    /// What a beam has come to.
    pub fn live(&self, beam: usize) -> Option<&Live> {
        self.live.get(beam)
    }

    /// How many beams there are.
    pub fn width(&self) -> usize {
        self.live.len()
    }

    fn score(&self, sum: f64, tokens: usize) -> f64 {
        sum / (tokens.max(1) as f64).powf(f64::from(self.beam.length_penalty))
    }

    fn extended(&self, candidate: &Candidate) -> Option<Live> {
        let mut live = self.live.get(candidate.beam)?.clone();
        live.sum = candidate.sum;
        live.tokens.push(candidate.token);
        live.logprobs.push(candidate.logprob.clone());
        Some(live)
    }

    fn add(&mut self, live: Live, stopped: bool) {
        let score = self.score(live.sum, live.tokens.len());
        let place = self.complete.partition_point(|other| other.score >= score);
        let Live { tokens, logprobs, .. } = live;
        self.complete.insert(place, Hypothesis { tokens, logprobs, score, stopped });
        self.complete.truncate(self.beam.width);
    }

    /// One step: which beams go on, with what; none where the search is over. Equal candidates go by beam, then by token.
    pub fn step(&mut self, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        candidates.sort_by(|a, b| b.sum.total_cmp(&a.sum).then(a.beam.cmp(&b.beam)).then(a.token.cmp(&b.token)));
        candidates.truncate(self.per_beam());
        let best = candidates.first().map_or(f64::NEG_INFINITY, |best| best.sum);
        let mut next: Vec<Candidate> = Vec::new();
        for (rank, candidate) in candidates.into_iter().enumerate() {
            if candidate.ends {
                // One that ends and is not among the best is no better than those that go on.
                if rank < self.beam.width
                    && let Some(live) = self.extended(&candidate)
                {
                    self.add(live, true);
                }
            } else if next.len() < self.beam.width {
                next.push(candidate);
            }
        }
        let tokens = self.live.first().map_or(0, |live| live.tokens.len()) + 1;
        self.done = next.is_empty() || self.is_done(best, tokens);
        self.live = next.iter().filter_map(|candidate| self.extended(candidate)).collect();
        if self.done || tokens >= self.limit {
            // Those that are cut off count where the search was not over.
            let cut = std::mem::take(&mut self.live);
            if !self.done {
                cut.into_iter().for_each(|live| self.add(live, false));
            }
            self.done = true;
            return Vec::new();
        }
        next
    }

    fn is_done(&self, best: f64, tokens: usize) -> bool {
        let Some(worst) = self.complete.last().filter(|_| self.complete.len() >= self.beam.width) else { return false };
        match self.beam.stopping {
            Stopping::Early => true,
            Stopping::Hopeless => worst.score >= self.score(best, tokens),
            // Sums only fall: a positive penalty helps most at the end, any other now.
            Stopping::Never => {
                let tokens = if self.beam.length_penalty > 0.0 { self.limit } else { tokens };
                worst.score >= self.score(best, tokens)
            }
        }
    }

    /// The best texts, best first.
    pub fn into_best(self, n: usize) -> Vec<Hypothesis> {
        self.complete.into_iter().take(n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 0;

    /// A model of three tokens whose log-probabilities depend on the last token.
    fn step_all(search: &mut Search, table: &[[f64; 3]; 3]) {
        while !search.done {
            let mut candidates = Vec::new();
            for beam in 0..search.width() {
                let live = search.live(beam).unwrap();
                let last = live.tokens.last().map_or(2, |token| *token as usize);
                for token in 0..3u32 {
                    let sum = live.sum + table[last][token as usize].ln();
                    candidates.push(Candidate { beam, token, sum, logprob: None, ends: token == END });
                }
            }
            search.step(candidates);
        }
    }

    /// All texts of at most `limit` tokens that end, or are cut off, with their scores.
    fn all(table: &[[f64; 3]; 3], limit: usize, penalty: f64) -> Vec<(Vec<u32>, f64)> {
        let (mut open, mut found) = (vec![(Vec::new(), 0.0)], Vec::new());
        for tokens in 1..=limit {
            let mut next = Vec::new();
            for (text, sum) in open {
                let last = text.last().map_or(2, |token: &u32| *token as usize);
                for token in 0..3u32 {
                    let mut text = text.clone();
                    text.push(token);
                    let sum: f64 = sum + table[last][token as usize].ln();
                    let ends = token == END || tokens == limit;
                    if ends {
                        found.push((text, sum / (tokens as f64).powf(penalty)));
                    } else {
                        next.push((text, sum));
                    }
                }
            }
            open = next;
        }
        found.sort_by(|a, b| b.1.total_cmp(&a.1));
        found
    }

    const TABLE: [[f64; 3]; 3] = [[1.0, 1e-9, 1e-9], [0.1, 0.3, 0.6], [0.2, 0.45, 0.35]];

    /// As wide as there are texts, beam search is exhaustive.
    #[test]
    fn wide_enough_it_finds_the_best_of_all() {
        for penalty in [0.0f32, 1.0, 2.0, -0.5] {
            let beam = Beam { width: 64, length_penalty: penalty, stopping: Stopping::Never };
            let mut search = Search::new(beam, 5);
            step_all(&mut search, &TABLE);
            let best = search.into_best(3);
            let all = all(&TABLE, 5, f64::from(penalty));
            for (own, (text, score)) in best.iter().zip(&all) {
                assert!((own.score - score).abs() < 1e-9, "{penalty}: {own:?} {text:?} {score}");
            }
            assert_eq!(best[0].tokens, all[0].0);
        }
    }

    #[test]
    fn one_beam_takes_the_most_likely_token() {
        let beam = Beam { width: 1, ..Beam::default() };
        let mut search = Search::new(beam, 4);
        step_all(&mut search, &TABLE);
        let best = search.into_best(1).remove(0);
        assert_eq!((&best.tokens[..], best.stopped), (&[1, 2, 1, 2][..], false));
    }

    #[test]
    fn it_ends_when_it_is_told_to() {
        let tokens = |stopping| {
            // Texts may end early, and long ones are favoured.
            let table = [[1.0, 1e-9, 1e-9], [0.3, 0.3, 0.4], [0.4, 0.35, 0.25]];
            let mut search = Search::new(Beam { width: 2, length_penalty: 2.0, stopping }, 12);
            step_all(&mut search, &table);
            search.into_best(1)[0].tokens.len()
        };
        assert!(tokens(Stopping::Early) <= tokens(Stopping::Hopeless));
        assert!(tokens(Stopping::Hopeless) <= tokens(Stopping::Never));
        assert!(tokens(Stopping::Early) < tokens(Stopping::Never));
        assert!(Beam { width: 2, ..Beam::default() }.validate(3).is_err());
        assert!(Beam { length_penalty: f32::NAN, ..Beam::default() }.validate(1).is_err());
    }
}
