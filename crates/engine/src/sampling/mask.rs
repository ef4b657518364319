//! A set of tokens a grammar allows.

/// One bit per token id, set where the token may come next. Ids beyond its length are not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TokenMask {
    words: Vec<u32>,
}

impl TokenMask {
    /// From 32 ids a word, lowest bit first.
    pub fn from_words(words: &[u32]) -> TokenMask {
        TokenMask { words: words.to_vec() }
    }

    /// From the ids that are allowed.
    pub fn of(ids: &[u32]) -> TokenMask {
        let len = ids.iter().max().map_or(0, |&max| max as usize / 32 + 1);
        let mut words = vec![0u32; len];
        for &id in ids {
            words[id as usize / 32] |= 1 << (id % 32);
        }
        TokenMask { words }
    }

    /// Whether `id` may come next.
    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Sets the logits of everything that is not allowed to minus infinity.
    pub fn apply(&self, logits: &mut [f32]) {
        for (i, chunk) in logits.chunks_mut(32).enumerate() {
            match self.words.get(i).copied().unwrap_or(0) {
                u32::MAX => {}
                0 => chunk.fill(f32::NEG_INFINITY),
                word => {
                    for (bit, logit) in chunk.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apply_agrees_with_allows() {
        let mut ids: Vec<u32> = (32..64).collect();
        ids.extend([0, 5, 31, 64, 95, 100]);
        let mask = TokenMask::of(&ids);
        let mut logits: Vec<f32> = (0..150).map(|i| i as f32).collect();
        mask.apply(&mut logits);
        for (i, &logit) in logits.iter().enumerate() {
            assert_eq!(mask.allows(i as u32), ids.contains(&(i as u32)), "{i}");
            assert_eq!(logit, if ids.contains(&(i as u32)) { i as f32 } else { f32::NEG_INFINITY }, "{i}");
        }
    }
}
