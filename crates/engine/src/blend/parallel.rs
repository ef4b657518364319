//! A prompt whose marked parts are read side by side (APE, Yang et al., 2025).

use std::ops::Range;

/// Which tokens of a prompt are what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Tokens before the first marked part: every context is computed behind them.
    pub prefix: usize,
    /// The contexts: marked parts, with what stands before one where that is something of its own.
    pub contexts: Vec<Range<usize>>,
    /// Tokens between marked parts that the prefix ends with, too: each context has them right before it there.
    pub silent: usize,
}

impl Layout {
    /// Of a prompt with these marked parts, ascending and apart. None where there are none, or where nothing follows them.
    pub fn of(prompt: &[u32], chunks: &[Range<usize>]) -> Option<Layout> {
        let prefix = chunks.first()?.start;
        let (mut layout, mut at) = (Layout { prefix, contexts: Vec::new(), silent: 0 }, prefix);
        for chunk in chunks {
            let between = prompt.get(at..chunk.start)?;
            let start = match prompt[..prefix].ends_with(between) {
                true => chunk.start,
                false => at,
            };
            layout.silent += start - at;
            layout.contexts.push(start..chunk.end);
            at = chunk.end;
        }
        (at < prompt.len()).then_some(layout)
    }

    /// The prompt that one context is computed in.
    pub fn alone(&self, prompt: &[u32], context: &Range<usize>) -> Vec<u32> {
        [&prompt[..self.prefix], &prompt[context.clone()]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_every_part_alike_is_read_once() {
        let prompt = [1, 2, 8, 9, 30, 31, 8, 9, 40, 9, 50, 51, 7, 60, 5];
        let layout = Layout::of(&prompt, &[4..6, 8..9, 10..12, 13..14]).unwrap();
        assert_eq!((layout.prefix, layout.silent), (4, 3));
        assert_eq!(layout.contexts, [4..6, 8..9, 10..12, 12..14]);
        assert_eq!(layout.alone(&prompt, &(12..14)), [1, 2, 8, 9, 7, 60]);
        // Side by side without anything between them, and from the beginning on.
        let layout = Layout::of(&prompt, &[0..3, 3..5]).unwrap();
        assert_eq!((layout.prefix, layout.silent, &layout.contexts[..]), (0, 0, &[0..3, 3..5][..]));
        assert_eq!(Layout::of(&prompt, &[]), None);
        assert_eq!(Layout::of(&prompt, std::slice::from_ref(&(3..15))), None);
    }
}
