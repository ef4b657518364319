//! Going on with tokens that a model chose itself.

/// A prompt that begins with the tokens of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spliced {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// How many of its first tokens are those of the session.
    pub kept: usize,
}

/// `rendered` with its beginning replaced by the longest beginning of `own` that spells the same.
///
/// The tokens that a model chose for its answer are seldom those that its tokenizer makes of the answer's text. A
/// conversation that is rendered and tokenized anew would part from the session there, and everything behind would be computed
/// again. `bytes` gives what a token spells; tokens that spell nothing, such as those that end turns, are the same only as
/// themselves, so that text can never stand for them.
pub fn splice(own: &[u32], rendered: &[u32], bytes: impl Fn(u32) -> Vec<u8>) -> Spliced {
    let (mut i, mut j) = (0, 0);
    let mut best = (0, 0);
    // What one side has spelled beyond the other.
    let (mut ahead, mut own_is_ahead) = (Vec::new(), false);
    loop {
        if ahead.is_empty() {
            best = (i, j);
            match (own.get(i), rendered.get(j)) {
                (Some(a), Some(b)) if a == b => {
                    (i, j) = (i + 1, j + 1);
                    continue;
                }
                (Some(&a), Some(_)) => {
                    (ahead, own_is_ahead) = (bytes(a), true);
                    i += 1;
                    if ahead.is_empty() {
                        break;
                    }
                }
                _ => break,
            }
        }
        let (list, at) = if own_is_ahead { (rendered, &mut j) } else { (own, &mut i) };
        let Some(&token) = list.get(*at) else { break };
        *at += 1;
        let more = bytes(token);
        let common = more.len().min(ahead.len());
        if common == 0 || more[..common] != ahead[..common] {
            break;
        }
        if more.len() > ahead.len() {
            ahead = more[common..].to_vec();
            own_is_ahead = !own_is_ahead;
        } else {
            ahead.drain(..common);
        }
    }
    let tokens = [&own[..best.0], &rendered[best.1..]].concat();
    Spliced { tokens, kept: best.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Below 10 a special token; else letters from `a`, the tens are the length: 23 is `dd` and so on.
    fn bytes(id: u32) -> Vec<u8> {
        match id {
            0..10 => Vec::new(),
            _ => vec![b'a' + (id % 10) as u8; (id / 10) as usize],
        }
    }

    fn of(own: &[u32], rendered: &[u32]) -> (Vec<u32>, usize) {
        let spliced = splice(own, rendered, bytes);
        (spliced.tokens, spliced.kept)
    }

    #[test]
    fn the_models_own_tokens_stay_where_they_spell_the_same() {
        assert_eq!(of(&[1, 10, 10, 2], &[1, 20, 2, 31]), (vec![1, 10, 10, 2, 31], 4));
        assert_eq!(of(&[1, 20, 10, 2], &[1, 10, 20, 2, 3]), (vec![1, 20, 10, 2, 3], 4));
        // Both ends within the other's tokens.
        assert_eq!(of(&[20, 30, 10], &[30, 20, 10, 11]), (vec![20, 30, 10, 11], 3));
        assert_eq!(of(&[10, 11], &[10, 11, 12]), (vec![10, 11, 12], 2));
    }

    #[test]
    fn what_spells_something_else_is_left_out() {
        assert_eq!(of(&[1, 10, 11, 2], &[1, 10, 12, 2]), (vec![1, 10, 12, 2], 2));
        // An end without a boundary: `aaa` and then `aa`.
        assert_eq!(of(&[1, 30], &[1, 20, 2]), (vec![1, 20, 2], 1));
        assert_eq!(of(&[1, 20], &[1, 30, 2]), (vec![1, 30, 2], 1));
        assert_eq!(of(&[], &[1]), (vec![1], 0));
        assert_eq!(of(&[1, 2], &[1]), (vec![1], 1));
    }

    #[test]
    fn special_tokens_are_the_same_only_as_themselves() {
        assert_eq!(of(&[1, 10, 3, 10], &[1, 20, 3]), (vec![1, 20, 3], 1));
        assert_eq!(of(&[1, 2, 10], &[1, 10]), (vec![1, 10], 1));
        assert_eq!(of(&[1, 10, 10], &[1, 2, 20]), (vec![1, 2, 20], 1));
    }
}
