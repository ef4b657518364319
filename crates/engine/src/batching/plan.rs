//! Groups of prompts in the order in which they are computed.

use super::collapse::collapse;
use super::tree::Tree;

/// A prompt, and how much is generated after it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Token ids.
    pub prompt: &'a [u32],
    /// Tokens that are expected to be generated; see [`Plan::of`].
    pub answer: usize,
}

/// Prompts that share a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Tokens that all its prompts begin with.
    pub prefix: usize,
    /// Numbers of its prompts, neighbours in the prefix tree beside each other. At least one.
    pub members: Vec<usize>,
}

/// Groups in the order in which they are best computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every prompt is in one group.
    pub groups: Vec<Group>,
    /// Tokens of all prompts.
    pub tokens: usize,
}

impl Plan {
    /// Groups prompts by their common prefixes. Groups that generate much for what is read come first, so that their steps are
    /// there for prompts of later ones to fill; a better guess of the answers' lengths makes a better order, never other
    /// groups.
    pub fn of(wanted: &[Wanted<'_>]) -> Plan {
        let prompts: Vec<&[u32]> = wanted.iter().map(|wanted| wanted.prompt).collect();
        let groups = collapse(&Tree::of(&prompts)).into_iter();
        let mut groups: Vec<Group> = groups.map(|(members, prefix)| Group { prefix, members }).collect();
        // Answers, and tokens to be read: those of the prefix once.
        let weight = |group: &Group| {
            let answers: usize = group.members.iter().map(|&i| wanted[i].answer).sum();
            let read: usize = group.members.iter().map(|&i| wanted[i].prompt.len()).sum();
            (answers as u128, (read - group.saved()).max(1) as u128)
        };
        groups.sort_by(|a, b| {
            let ((answers, read), (others, read_by_others)) = (weight(a), weight(b));
            let ratio = (others * read).cmp(&(answers * read_by_others));
            ratio.then_with(|| a.members.iter().min().cmp(&b.members.iter().min()))
        });
        Plan { groups, tokens: prompts.iter().map(|prompt| prompt.len()).sum() }
    }

    /// All prompts, in order.
    pub fn order(&self) -> impl Iterator<Item = usize> + '_ {
        self.groups.iter().flat_map(|group| group.members.iter().copied())
    }

    /// Tokens that need not be computed where the prefix of every group is computed once.
    pub fn saved(&self) -> usize {
        self.groups.iter().map(Group::saved).sum()
    }
}

impl Group {
    /// See [`Plan::saved`].
    pub fn saved(&self) -> usize {
        (self.members.len() - 1) * self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_generate_much_for_what_they_read_come_first() {
        let a: Vec<Vec<u32>> = (0..3).map(|i| vec![1, 2, 3, 4, 5, 6, 7, 100 + i]).collect();
        let b: Vec<Vec<u32>> = (0..2).map(|i| vec![9, 8, 200 + i]).collect();
        let alone = [50; 6];
        let wanted = |prompt, answer| Wanted { prompt, answer };
        // Interleaved, so that the order of the file is not the plan's.
        let all = [
            wanted(&a[0][..], 5),
            wanted(&alone[..], 1),
            wanted(&b[0][..], 8),
            wanted(&a[1][..], 5),
            wanted(&b[1][..], 0),
            wanted(&a[2][..], 5),
        ];
        let plan = Plan::of(&all);
        // 8 answers for 4 tokens read, 15 for 10, 1 for 6.
        let expected = [(2, vec![2, 4]), (7, vec![0, 3, 5]), (6, vec![1])];
        let expected = expected.map(|(prefix, members)| Group { prefix, members });
        assert_eq!(plan.groups, expected);
        assert_eq!(plan.order().collect::<Vec<_>>(), [2, 4, 0, 3, 5, 1]);
        assert_eq!((plan.tokens, plan.saved()), (36, 2 + 2 * 7));
        assert_eq!(Plan::of(&[]), Plan::default());
    }

    #[test]
    fn prefix_and_rest_are_the_prompt_and_no_plan_computes_more_than_all() {
        let mut state = 11u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..50 {
            let prompts: Vec<Vec<u32>> = (0..40).map(|_| (0..1 + next(12)).map(|_| next(2) as u32).collect()).collect();
            let wanted: Vec<_> = prompts.iter().map(|prompt| Wanted { prompt, answer: 7 }).collect();
            let plan = Plan::of(&wanted);
            let mut order: Vec<usize> = plan.order().collect();
            order.sort_unstable();
            assert_eq!(order, (0..40).collect::<Vec<_>>());
            for group in &plan.groups {
                let prefix = &prompts[group.members[0]][..group.prefix];
                assert!(group.members.iter().all(|&i| prompts[i].starts_with(prefix)));
            }
            assert!(plan.saved() < plan.tokens);
        }
    }
}
