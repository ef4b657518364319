//! A compact prefix tree of prompts: a radix tree over token ids.

use std::collections::BTreeMap;
use std::ops::Range;

/// Number of a node.
pub(super) type Node = usize;
/// The node that has no tokens.
pub(super) const ROOT: Node = 0;

/// A compact prefix tree of prompts.
pub(super) struct Tree<'a> {
    prompts: &'a [&'a [u32]],
    nodes: Vec<Branch>,
}

/// A node and the tokens that lead to it.
#[derive(Default)]
struct Branch {
    /// Tokens on the way from the parent: so far into that prompt, and any other below here.
    prompt: usize,
    tokens: Range<usize>,
    /// By the first token.
    children: BTreeMap<u32, Node>,
    /// Prompts that end here.
    ends: Vec<usize>,
}

impl<'a> Tree<'a> {
    pub(super) fn of(prompts: &'a [&'a [u32]]) -> Tree<'a> {
        let mut tree = Tree { prompts, nodes: vec![Branch::default()] };
        (0..prompts.len()).for_each(|prompt| tree.insert(prompt));
        tree
    }

    fn insert(&mut self, prompt: usize) {
        let tokens = self.prompts[prompt];
        let (mut node, mut at) = (ROOT, 0);
        while at < tokens.len() {
            let Some(&child) = self.nodes[node].children.get(&tokens[at]) else {
                let leaf = self.push(prompt, at..tokens.len());
                self.nodes[node].children.insert(tokens[at], leaf);
                (node, at) = (leaf, tokens.len());
                continue;
            };
            let way = self.tokens(child);
            let same = way.iter().zip(&tokens[at..]).take_while(|(a, b)| a == b).count();
            node = if same < way.len() { self.split(node, child, same) } else { child };
            at += same;
        }
        self.nodes[node].ends.push(prompt);
    }

    fn push(&mut self, prompt: usize, tokens: Range<usize>) -> Node {
        self.nodes.push(Branch { prompt, tokens, ..Branch::default() });
        self.nodes.len() - 1
    }

    /// Puts a node after the first `same` tokens on the way to `child`.
    fn split(&mut self, parent: Node, child: Node, same: usize) -> Node {
        let Branch { prompt, tokens, .. } = &self.nodes[child];
        let (prompt, tokens) = (*prompt, tokens.clone());
        let middle = self.push(prompt, tokens.start..tokens.start + same);
        self.nodes[child].tokens.start += same;
        let first = self.prompts[prompt][tokens.start];
        self.nodes[parent].children.insert(first, middle);
        self.nodes[middle].children.insert(self.prompts[prompt][tokens.start + same], child);
        middle
    }

    /// Tokens on the way from the parent.
    pub(super) fn tokens(&self, node: Node) -> &'a [u32] {
        let branch = &self.nodes[node];
        // The root has none, whether there are prompts or not.
        self.prompts.get(branch.prompt).map_or(&[], |prompt| &prompt[branch.tokens.clone()])
    }

    /// Children, by their first tokens.
    pub(super) fn children(&self, node: Node) -> impl Iterator<Item = Node> + '_ {
        self.nodes[node].children.values().copied()
    }

    /// Prompts that end here.
    pub(super) fn ends(&self, node: Node) -> &[usize] {
        &self.nodes[node].ends
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes below and with this one, parents before children, neighbours in the order of their tokens. Without recursion:
    /// prompts may be nested as deep as there are prompts.
    pub(super) fn below(&self, node: Node) -> Vec<Node> {
        let (mut found, mut open) = (Vec::new(), vec![node]);
        while let Some(node) = open.pop() {
            found.push(node);
            let first = open.len();
            open.extend(self.children(node));
            open[first..].reverse();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes below the root with their tokens and the prompts that end there.
    fn shown(prompts: &[&[u32]]) -> Vec<(Vec<u32>, Vec<usize>)> {
        let tree = Tree::of(prompts);
        let nodes = tree.below(ROOT).into_iter().skip(1);
        nodes.map(|node| (tree.tokens(node).to_vec(), tree.ends(node).to_vec())).collect()
    }

    #[test]
    fn edges_are_split_where_prompts_part() {
        let prompts: [&[u32]; 6] = [&[1, 2, 3, 4], &[1, 2, 5], &[7], &[1, 2], &[1, 2, 5], &[1, 2, 3, 4, 9]];
        let expected = [
            (vec![1, 2], vec![3]),
            (vec![3, 4], vec![0]),
            (vec![9], vec![5]),
            (vec![5], vec![1, 4]),
            (vec![7], vec![2]),
        ];
        assert_eq!(shown(&prompts), expected);
    }

    #[test]
    fn every_way_spells_its_prompt() {
        let mut state = 7u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let prompts: Vec<Vec<u32>> = (0..300).map(|_| (0..1 + next(9)).map(|_| next(3) as u32).collect()).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let tree = Tree::of(&prompts);
        let mut spelled = vec![(ROOT, Vec::new())];
        let mut ended = 0;
        while let Some((node, way)) = spelled.pop() {
            for &prompt in tree.ends(node) {
                assert_eq!(way, prompts[prompt]);
                ended += 1;
            }
            // A node without an end parts; else it would be one with its child.
            assert!(node == ROOT || !tree.ends(node).is_empty() || tree.children(node).count() > 1);
            spelled.extend(tree.children(node).map(|child| (child, [way.as_slice(), tree.tokens(child)].concat())));
        }
        assert_eq!(ended, 300);
    }

    #[test]
    fn nesting_is_not_limited_by_the_stack() {
        let longest: Vec<u32> = (0..20_000).collect();
        let prompts: Vec<&[u32]> = (1..=longest.len()).map(|n| &longest[..n]).collect();
        assert_eq!(Tree::of(&prompts).below(ROOT).len(), 20_001);
    }
}
