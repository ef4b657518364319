//! A prompt as an agent's text with messages in it (KVCOMM, Ye et al., 2025).

use std::ops::Range;

/// What of a prompt is the agent's and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    /// Tells agents apart: a digest of the text that is theirs.
    pub agent: [u8; 32],
    /// Messages, which the client marked.
    pub messages: Vec<Range<usize>>,
    /// The agent's text behind each of them, up to the next or to the end; may be empty.
    pub after: Vec<Range<usize>>,
}

impl Template {
    /// Of a prompt with these messages, ascending and apart; none where there are none.
    pub fn of(prompt: &[u32], messages: &[Range<usize>]) -> Option<Template> {
        let first = messages.first()?;
        let ends = messages.iter().skip(1).map(|next| next.start).chain([prompt.len()]);
        let after: Vec<Range<usize>> = messages.iter().zip(ends).map(|(message, end)| message.end..end).collect();
        let mut hasher = blake3::Hasher::new_derive_key("cachalot agent v1");
        for text in std::iter::once(0..first.start).chain(after.iter().cloned()) {
            let text = prompt.get(text)?;
            hasher.update(&(text.len() as u64).to_le_bytes());
            text.iter().for_each(|token| _ = hasher.update(&token.to_le_bytes()));
        }
        Some(Template { agent: *hasher.finalize().as_bytes(), messages: messages.to_vec(), after })
    }

    /// Messages and what is between them, ascending.
    pub fn stretches(&self) -> Vec<Range<usize>> {
        let both = self.messages.iter().zip(&self.after).flat_map(|(message, after)| [message.clone(), after.clone()]);
        both.filter(|stretch| !stretch.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_what_stands_around_its_messages() {
        let of = |prompt: &[u32], messages: &[Range<usize>]| Template::of(prompt, messages).unwrap();
        let one = of(&[1, 2, 70, 71, 3, 80, 4], &[2..4, 5..6]);
        assert_eq!((&one.after[..], one.stretches()), (&[4..5, 6..7][..], vec![2..4, 4..5, 5..6, 6..7]));
        let other = of(&[1, 2, 90, 3, 91, 92, 93, 4], &[2..3, 4..7]);
        assert_eq!(one.agent, other.agent);
        assert_ne!(one.agent, of(&[1, 2, 70, 71, 5, 80, 4], &[2..4, 5..6]).agent);
        assert_ne!(one.agent, of(&[1, 2, 70, 71, 3, 4, 80], &[2..4, 6..7]).agent);
        assert_eq!(of(&[70, 71], &[0..1, 1..2]).stretches(), [0..1, 1..2]);
        assert_eq!(Template::of(&[1], &[]), None);
    }
}
