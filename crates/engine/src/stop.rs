//! Stop texts, found as the text arrives in pieces of any size.

/// Most stop texts of one request.
pub const MAX_STOP_STRINGS: usize = 64;
/// Longest stop text, in bytes. So much text may be held back.
pub const MAX_STOP_BYTES: usize = 1024;

/// Passes text on until one of the stop texts is complete, and neither it nor anything after it.
///
/// The match that is complete first wins, the longest among several that end together: what a reader of single
/// characters would see. So the result does not depend on how the text is cut into tokens.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The longest end of the text so far that may be the beginning of a stop text.
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// A matcher for these texts; empty ones never match.
    pub fn new(stops: &[String]) -> StopMatcher {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        StopMatcher { stops, held: String::new(), stopped: false }
    }

    /// Whether a stop text was found; everything after it is dropped.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Takes text and returns what may be passed on.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped {
            return String::new();
        }
        if self.stops.is_empty() {
            return text.to_owned();
        }
        let searched = self.held.len();
        self.held.push_str(text);
        let mut released = std::mem::take(&mut self.held);
        if let Some(start) = self.first_match(&released, searched) {
            self.stopped = true;
            released.truncate(start);
        } else {
            self.held = released.split_off(self.hold_from(&released));
        }
        released
    }

    /// The text ends here: what was held back, unless a stop text was found.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Start of the first complete match that ends after byte `searched`.
    fn first_match(&self, text: &str, searched: usize) -> Option<usize> {
        let bytes = text.as_bytes();
        (searched + 1..=bytes.len()).find_map(|end| {
            let ending = self.stops.iter().filter(|stop| bytes[..end].ends_with(stop.as_bytes()));
            ending.map(|stop| end - stop.len()).min()
        })
    }

    /// The first byte from where on `text` may be the beginning of a stop text.
    fn hold_from(&self, text: &str) -> usize {
        let longest = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0);
        let earliest = text.len().saturating_sub(longest);
        let may_begin = |at: usize| {
            text.get(at..)
                .is_some_and(|rest| self.stops.iter().any(|stop| stop.len() > rest.len() && stop.starts_with(rest)))
        };
        (earliest..text.len()).find(|&at| may_begin(at)).unwrap_or(text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stops(list: &[&str]) -> StopMatcher {
        StopMatcher::new(&list.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn holds_back_only_what_may_become_a_stop() {
        let mut m = stops(&["\n\nUser:", "</s>"]);
        assert_eq!(m.push("Paris.\n"), "Paris.");
        assert_eq!(m.push("\n"), "");
        assert_eq!(m.push("Us"), "");
        assert_eq!(m.push("age is <"), "\n\nUsage is ");
        assert_eq!(m.push("/s"), "");
        assert_eq!(m.push("> and more"), "");
        assert!(m.is_stopped());
        assert_eq!((m.push("x"), m.finish()), (String::new(), String::new()));
    }

    #[test]
    fn held_text_is_returned_at_the_end() {
        let mut m = stops(&["abcd"]);
        assert_eq!(m.push("xab"), "x");
        assert_eq!(m.finish(), "ab");
        assert!(!m.is_stopped());
    }

    #[test]
    fn of_matches_that_end_together_the_longest_is_cut() {
        let mut m = stops(&["b", "ab"]);
        assert_eq!(m.push("xab"), "x");
        // A match that is complete first wins, even if another began earlier.
        let mut m = stops(&["abcdef", "cd"]);
        assert_eq!(m.push("xabcdef"), "xab");
    }

    #[test]
    fn characters_of_several_bytes_are_not_split() {
        let mut m = stops(&["é!", "日本"]);
        assert_eq!(m.push("è日"), "è");
        assert_eq!(m.push("曜é"), "日曜");
        assert_eq!(m.push("!"), "");
        assert!(m.is_stopped());
    }

    /// Reads the whole text a character at a time.
    fn naive(text: &str, stops: &[String]) -> (String, bool) {
        for (at, c) in text.char_indices() {
            let end = at + c.len_utf8();
            let longest = stops.iter().filter(|s| text[..end].ends_with(s.as_str())).map(String::len).max();
            if let Some(len) = longest {
                return (text[..end - len].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_cut_gives_what_a_search_of_the_whole_text_gives(
            text in "[abé日]{0,40}",
            stops in prop::collection::vec("[abé日]{1,5}", 0..4),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let boundaries: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|i| boundaries[i.index(boundaries.len())]).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut m = StopMatcher::new(&stops);
            let mut got = String::new();
            for pair in cuts.windows(2) {
                got += &m.push(&text[pair[0]..pair[1]]);
                // Nothing released may ever have to be taken back, and nothing is held without need.
                let (so_far, stopped) = naive(&text[..pair[1]], &stops);
                prop_assert!(so_far.starts_with(&got), "released {got:?} of {so_far:?}");
                if !stopped {
                    let held = &so_far[got.len()..];
                    prop_assert!(held.is_empty() || stops.iter().any(|s| s.starts_with(held)), "holds {held:?}");
                }
            }
            let stopped = m.is_stopped();
            got += &m.finish();
            prop_assert_eq!((got, stopped), naive(&text, &stops));
        }
    }
}
