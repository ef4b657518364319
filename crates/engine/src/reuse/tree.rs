//! Blocks by the tokens before them: a radix tree for each domain, with nodes of 64 tokens.
//!
//! A pure state machine: time is a number that the caller counts up.

use std::collections::{BTreeSet, HashMap};

use cachalot_kernels::attention::PAGE_TOKENS;
use cachalot_kv::SharedBlock;
use cachalot_store::tier::PolicyKind;
use cachalot_store::tier::policy::Policy;
use cachalot_store::{BlockKey, Domain};

use super::below::Parts;
use super::held::Held;

/// A node, for as long as nothing is removed.
pub(crate) type NodeId = usize;

/// One block in its place.
pub(crate) struct Node {
    pub key: BlockKey,
    pub domain: Domain,
    parent: Option<NodeId>,
    children: Vec<NodeId>,
    pub tokens: Vec<u32>,
    /// Blocks before it.
    pub depth: usize,
    pub block: SharedBlock,
    /// What of it was handed down.
    pub stored: Parts,
    /// When it was last of use.
    used: u64,
}

/// What is there for a prompt.
#[derive(Default)]
pub(crate) struct Found {
    /// Blocks, the first at position zero.
    pub path: Vec<NodeId>,
    /// Tokens of the prompt that they begin with: the last block may agree in part.
    pub tokens: usize,
}

/// All blocks that are shared.
#[derive(Default)]
pub(crate) struct Tree {
    nodes: Vec<Option<Node>>,
    free: Vec<NodeId>,
    by_key: HashMap<BlockKey, NodeId>,
    roots: HashMap<Domain, Vec<NodeId>>,
    /// Blocks that no other follows, by when they were last of use.
    leaves: BTreeSet<(u64, NodeId)>,
    held: Held,
    /// In what order they go, where it is another than that.
    order: Option<Box<dyn Policy>>,
}

impl Tree {
    /// An empty one whose blocks go in this order.
    pub fn with(policy: PolicyKind) -> Tree {
        Tree {
            order: Some(policy).filter(|policy| *policy != PolicyKind::Lru).map(PolicyKind::build),
            ..Tree::default()
        }
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// When the block that no other follows was last of use, of those that were so longest ago.
    pub fn oldest(&self) -> Option<u64> {
        self.leaves.first().map(|&(used, _)| used)
    }

    /// The blocks of a path.
    pub fn along(&self, path: &[NodeId]) -> Vec<&SharedBlock> {
        path.iter().filter_map(|&id| self.node(id)).map(|node| &node.block).collect()
    }

    /// Blocks by their names, which are of use now.
    pub fn blocks(&mut self, keys: &[BlockKey], now: u64) -> Vec<SharedBlock> {
        let path: Vec<NodeId> = keys.iter().filter_map(|key| self.by_key.get(key).copied()).collect();
        self.touch(&path, now);
        self.along(&path).into_iter().cloned().collect()
    }

    /// Bytes of pages, those that sequences hold too included.
    pub fn bytes(&self) -> u64 {
        self.held.bytes()
    }

    /// Bytes of pages that nobody else holds.
    pub fn reclaimable(&self) -> u64 {
        self.nodes.iter().flatten().map(|node| self.held.reclaimable(&node.block)).sum()
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id)?.as_ref()
    }

    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(id)?.as_mut()
    }

    pub fn contains(&self, key: BlockKey) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Whether a domain has any block.
    pub fn knows(&self, domain: Domain) -> bool {
        self.roots.contains_key(&domain)
    }

    /// The blocks with which `tokens` begins. Tokens are compared, whatever the keys say.
    pub fn find(&self, domain: Domain, tokens: &[u32]) -> Found {
        let mut found = Found::default();
        let mut key = None;
        while let Some(next) = tokens.get(found.tokens..found.tokens + PAGE_TOKENS) {
            let name = domain.key(key, next);
            let Some((id, node)) = self.by_key.get(&name).and_then(|&id| Some((id, self.node(id)?))) else { break };
            if node.tokens != next {
                break;
            }
            found.path.push(id);
            found.tokens += PAGE_TOKENS;
            key = Some(name);
        }
        let rest = &tokens[found.tokens..];
        let common = |id: &NodeId| {
            let node = self.node(*id)?;
            Some((node.tokens.iter().zip(rest).take_while(|(a, b)| a == b).count(), *id))
        };
        let children = match found.path.last() {
            Some(&last) => self.node(last).map_or(&[][..], |node| &node.children),
            None => self.roots.get(&domain).map_or(&[][..], |roots| roots),
        };
        if let Some((more, id)) = children.iter().filter_map(common).max().filter(|(more, _)| *more > 0) {
            found.path.push(id);
            found.tokens += more;
        }
        found
    }

    /// The longest run of blocks that `tokens` begins with as a whole, those at its end that hold fewer tokens included.
    pub fn whole(&self, domain: Domain, tokens: &[u32]) -> Vec<NodeId> {
        let mut path = self.find(domain, tokens).path;
        let rest = |node: &Node| &tokens[node.depth * PAGE_TOKENS..];
        let is_whole = |id: NodeId| self.node(id).is_some_and(|node| rest(node).starts_with(&node.tokens));
        if let Some(last) = path.pop_if(|last| !is_whole(*last)) {
            // Another may end where the tokens do, beside one that goes on.
            let siblings = match self.node(last).and_then(|node| node.parent) {
                Some(parent) => self.node(parent).map_or(&[][..], |node| &node.children),
                None => self.roots.get(&domain).map_or(&[][..], |roots| roots),
            };
            let length = |id: &NodeId| self.node(*id).map_or(0, |node| node.tokens.len());
            path.extend(siblings.iter().copied().filter(|&id| is_whole(id)).max_by_key(length));
        }
        path
    }

    /// Marks blocks as of use now.
    pub fn touch(&mut self, path: &[NodeId], now: u64) {
        for &id in path {
            let Some(node) = self.nodes.get_mut(id).and_then(Option::as_mut) else { continue };
            if let Some(order) = &mut self.order {
                order.touch(&node.key);
            }
            let before = std::mem::replace(&mut node.used, now);
            if self.leaves.remove(&(before, id)) {
                self.leaves.insert((now, id));
            }
        }
    }

    /// Whether what these blocks keep for good was handed down.
    pub fn are_stored(&self, keys: &[BlockKey]) -> bool {
        let node = |key| self.by_key.get(key).and_then(|&id| self.node(id));
        keys.iter().all(|key| node(key).is_some_and(|node| node.stored.kept))
    }

    /// Notes that what these blocks keep for good is below the pool.
    pub fn mark_stored(&mut self, keys: &[BlockKey]) {
        for key in keys {
            if let Some(node) = self.by_key.get(key).and_then(|&id| self.nodes[id].as_mut()) {
                node.stored.kept = true;
            }
        }
    }

    /// Adds a block behind another, or what it has to the one that is there. False where the block before it is not there.
    pub fn insert(
        &mut self,
        domain: Domain,
        parent: Option<BlockKey>,
        tokens: &[u32],
        block: SharedBlock,
        now: u64,
    ) -> bool {
        let key = domain.key(parent, tokens);
        if let Some(node) = self.by_key.get(&key).and_then(|&id| self.nodes[id].as_mut()) {
            self.held.remove(&node.block);
            node.block.absorb(block);
            self.held.add(&node.block);
            return true;
        }
        let parent = match parent {
            None => None,
            Some(key) => match self.by_key.get(&key) {
                Some(&id) => Some(id),
                None => return false,
            },
        };
        self.replace_beginnings(domain, parent, tokens, &block);
        self.held.add(&block);
        if let Some(order) = &mut self.order {
            order.insert(key, block.bytes());
        }
        let depth = parent.and_then(|id| self.node(id)).map_or(0, |node| node.depth + 1);
        let (tokens, stored) = (tokens.to_vec(), Parts::default());
        let node = Node { key, domain, parent, depth, children: Vec::new(), tokens, block, stored, used: now };
        let id = self.free.pop().unwrap_or(self.nodes.len());
        match self.nodes.get_mut(id) {
            Some(place) => *place = Some(node),
            None => self.nodes.push(Some(node)),
        }
        self.by_key.insert(key, id);
        self.leaves.insert((now, id));
        match parent {
            None => self.roots.entry(domain).or_default().push(id),
            Some(parent) => {
                if let Some(node) = self.nodes[parent].as_mut() {
                    self.leaves.remove(&(node.used, parent));
                    node.children.push(id);
                }
            }
        }
        true
    }

    /// Drops those ends of other sequences that a new block goes on from and has all of.
    fn replace_beginnings(&mut self, domain: Domain, parent: Option<NodeId>, tokens: &[u32], block: &SharedBlock) {
        let siblings = match parent {
            Some(id) => self.node(id).map_or(&[][..], |node| &node.children),
            None => self.roots.get(&domain).map_or(&[][..], |roots| roots),
        };
        let begins = |node: &Node| node.tokens.len() < tokens.len() && tokens.starts_with(&node.tokens);
        let covered = |id: &&NodeId| self.node(**id).is_some_and(|node| begins(node) && block.covers(&node.block));
        let covered: Vec<NodeId> = siblings.iter().filter(covered).copied().collect();
        covered.into_iter().for_each(|id| self.remove(id));
    }

    /// Lets go of the block that was of use longest ago, or that its policy chooses, of those that no other follows and that no
    /// sequence holds. Bytes freed; `None` where there is none.
    pub fn evict(&mut self) -> Option<u64> {
        if let Some(mut order) = self.order.take() {
            let free = |key: &BlockKey| {
                let node = self.by_key.get(key).and_then(|&id| self.node(id));
                node.filter(|node| node.children.is_empty()).map_or(0, |node| self.held.reclaimable(&node.block))
            };
            let mut bytes = 0;
            let gone = order.evict(&mut |key| {
                bytes = free(key);
                bytes > 0
            });
            self.order = Some(order);
            self.remove(*self.by_key.get(&gone?)?);
            return Some(bytes);
        }
        let free = |id: NodeId| self.node(id).map_or(0, |node| self.held.reclaimable(&node.block));
        let (id, bytes) = self.leaves.iter().map(|&(_, id)| (id, free(id))).find(|&(_, bytes)| bytes > 0)?;
        self.remove(id);
        Some(bytes)
    }

    /// Removes a block and all that follow it.
    pub fn remove(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id).and_then(Option::take) else { return };
        node.children.iter().for_each(|&child| self.remove(child));
        self.held.remove(&node.block);
        self.by_key.remove(&node.key);
        if let Some(order) = &mut self.order {
            order.remove(&node.key);
        }
        self.leaves.remove(&(node.used, id));
        self.free.push(id);
        match node.parent {
            None => {
                if let Some(roots) = self.roots.get_mut(&node.domain) {
                    roots.retain(|&root| root != id);
                    if roots.is_empty() {
                        self.roots.remove(&node.domain);
                    }
                }
            }
            Some(parent) => {
                // Gone already where the removal began above.
                if let Some(before) = self.nodes.get_mut(parent).and_then(Option::as_mut) {
                    before.children.retain(|&child| child != id);
                    if before.children.is_empty() {
                        self.leaves.insert((before.used, parent));
                    }
                }
            }
        }
    }

    /// Removes everything of a domain.
    pub fn remove_domain(&mut self, domain: Domain) {
        let roots = self.roots.get(&domain).cloned().unwrap_or_default();
        roots.into_iter().for_each(|id| self.remove(id));
    }

    /// All blocks.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| Some((id, node.as_ref()?)))
    }
}
