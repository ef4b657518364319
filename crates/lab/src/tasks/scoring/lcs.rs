//! Longest common subsequences, for ROUGE.

/// Which way back through the table where both are equally long. The two packages differ, and so do their scores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ties {
    /// The earlier word of the answer.
    Answer,
    /// The earlier word of the reference.
    Reference,
}

/// Places in `right` of the words of a longest subsequence that it shares with `answer`, in ascending order.
pub(super) fn places<T: PartialEq>(right: &[T], answer: &[T], ties: Ties) -> Vec<usize> {
    let width = answer.len() + 1;
    let mut longest = vec![0u32; (right.len() + 1) * width];
    for i in 1..=right.len() {
        for j in 1..width {
            longest[i * width + j] = if right[i - 1] == answer[j - 1] {
                longest[(i - 1) * width + j - 1] + 1
            } else {
                longest[(i - 1) * width + j].max(longest[i * width + j - 1])
            };
        }
    }
    let (mut i, mut j, mut places) = (right.len(), answer.len(), Vec::new());
    while i > 0 && j > 0 {
        let (up, left) = (longest[(i - 1) * width + j], longest[i * width + j - 1]);
        if right[i - 1] == answer[j - 1] {
            places.push(i - 1);
            (i, j) = (i - 1, j - 1);
        } else if up > left || up == left && ties == Ties::Reference {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    places.reverse();
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_the_way_they_are_told() {
        let words = |text: &'static str| text.split(' ').collect::<Vec<_>>();
        let (right, answer) = (words("a b c d"), words("a c b d"));
        assert_eq!(places(&right, &answer, Ties::Answer), [0, 2, 3]);
        assert_eq!(places(&right, &answer, Ties::Reference), [0, 1, 3]);
        assert_eq!(places(&right, &[], Ties::Reference), Vec::<usize>::new());
    }
}
