//! Penalties for tokens that were there before.

use std::collections::HashMap;

use super::Sampling;

/// Adjusted logits are kept inside this range, so that differences of two of them stay finite.
const BOUND: f32 = 1e30;

#[derive(Clone, Copy, Default)]
struct Seen {
    /// How often it was generated; zero for tokens that are only in the prompt.
    generated: u32,
}

/// Which tokens a sequence has seen. Empty, and free, where no penalty is asked for.
#[derive(Clone, Default)]
pub(super) struct History {
    seen: HashMap<u32, Seen>,
    active: bool,
}

impl History {
    pub(super) fn new(sampling: &Sampling, prompt: &[u32]) -> History {
        let repetition = sampling.repetition_penalty != 1.0;
        let active = repetition || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0;
        let mut history = History { seen: HashMap::new(), active };
        if repetition {
            history.seen.extend(prompt.iter().map(|&id| (id, Seen::default())));
        }
        history
    }

    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    pub(super) fn accept(&mut self, token: u32) {
        if self.active {
            self.seen.entry(token).or_default().generated += 1;
        }
    }

    /// Repetition divides positive and multiplies negative logits of everything seen (Keskar et al. 2019, as in
    /// Hugging Face and llama.cpp); frequency and presence subtract from what was generated, as OpenAI defines them.
    pub(super) fn apply(&self, sampling: &Sampling, logits: &mut [f32]) {
        for (&id, seen) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            let mut value = *logit;
            if sampling.repetition_penalty != 1.0 {
                value =
                    if value > 0.0 { value / sampling.repetition_penalty } else { value * sampling.repetition_penalty };
            }
            if seen.generated > 0 {
                value -= sampling.frequency_penalty * seen.generated as f32 + sampling.presence_penalty;
            }
            *logit = value.clamp(-BOUND, BOUND);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(sampling: &Sampling, prompt: &[u32], generated: &[u32], mut logits: Vec<f32>) -> Vec<f32> {
        let mut history = History::new(sampling, prompt);
        generated.iter().for_each(|&id| history.accept(id));
        history.apply(sampling, &mut logits);
        logits
    }

    #[test]
    fn repetition_covers_prompt_and_answer_once_each() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        let got = applied(&sampling, &[0, 0, 1], &[2, 2], vec![4.0, -4.0, 1.0, 3.0]);
        assert_eq!(got, [2.0, -8.0, 0.5, 3.0]);
    }

    #[test]
    fn presence_and_frequency_look_at_the_answer_only() {
        let sampling = Sampling { presence_penalty: 0.5, frequency_penalty: 0.25, ..Sampling::default() };
        let got = applied(&sampling, &[0, 0], &[1, 2, 2], vec![1.0, 1.0, 1.0, 1.0]);
        assert_eq!(got, [1.0, 0.25, 0.0, 1.0]);
    }

    #[test]
    fn without_penalties_nothing_is_kept_and_foreign_ids_are_harmless() {
        assert!(!History::new(&Sampling::default(), &[1, 2, 3]).is_active());
        let sampling = Sampling { repetition_penalty: 1.5, ..Sampling::default() };
        assert_eq!(applied(&sampling, &[9], &[7], vec![1.0]), [1.0]);
    }
}
