//! Who a block belongs to and what it is called.
//!
//! A key is BLAKE3 over tagged fields, so that no two different things can be mistaken for each other: every field that changes
//! the bytes of a block, the tenant, and all tokens before it (by the parent's key).

use std::fmt;

/// The arithmetic that keys and values are computed with. Every instruction set gives the same bits; a release that changes
/// them counts this up, and finds nothing of what others wrote.
pub const ARITHMETIC: u32 = 1;

/// All that a block's bytes depend on beside its tokens, and whose they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// Digest of the weights and the architecture.
    pub model: [u8; 32],
    /// Digest of the tokenizer and the chat template.
    pub tokenizer: [u8; 32],
    /// Digest of the adapter, where there is one.
    pub adapter: Option<[u8; 32]>,
    /// How rotary position is computed, as text.
    pub rope: String,
    /// Element types of what is not encoded, as in `k=f16,v=f16`.
    pub dtype: String,
    /// The recipe as users name it. For people; [`Identity::plan`] decides.
    pub recipe: String,
    /// Digest of how every lane is written: stages, sinks, windows, and what a profile gave to them.
    pub plan: [u8; 32],
    /// Whose it is; empty where nobody is told apart.
    pub tenant: String,
}

/// An [`Identity`] in 256 bits: blocks of different domains never meet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(pub [u8; 32]);

/// The name of a block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey(pub [u8; 32]);

impl Identity {
    /// See [`Domain`].
    pub fn domain(&self) -> Domain {
        let mut fields = Fields::new("cachalot domain v1");
        fields.add("model", &self.model);
        fields.add("tokenizer", &self.tokenizer);
        fields.add("adapter", self.adapter.as_ref().map_or(&[][..], |digest| digest));
        fields.add("rope", self.rope.as_bytes());
        fields.add("dtype", self.dtype.as_bytes());
        fields.add("plan", &self.plan);
        fields.add("arithmetic", &ARITHMETIC.to_le_bytes());
        fields.add("tenant", self.tenant.as_bytes());
        Domain(fields.finish())
    }
}

impl Domain {
    /// The key of the block with these tokens behind `parent`, or at the start.
    pub fn key(self, parent: Option<BlockKey>, tokens: &[u32]) -> BlockKey {
        let mut fields = Fields::new("cachalot block v1");
        fields.add("domain", &self.0);
        fields.add("parent", parent.as_ref().map_or(&[][..], |key| &key.0));
        let tokens: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        fields.add("tokens", &tokens);
        BlockKey(fields.finish())
    }
}

impl Domain {
    /// The name of a note of where a chunk with these tokens lies, in the context that its last block stands for. A chunk has
    /// several slots; of contexts that fall into the same one, the first has it.
    pub fn chunk(self, tokens: &[u32], slot: u8) -> BlockKey {
        let mut fields = Fields::new("cachalot chunk v1");
        fields.add("domain", &self.0);
        let tokens: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        fields.add("tokens", &tokens);
        fields.add("slot", &[slot]);
        BlockKey(fields.finish())
    }
}

impl BlockKey {
    /// The name of the same block where it is written at several levels of loss, the best first; that is called as the block is.
    pub fn level(self, level: u8) -> BlockKey {
        if level == 0 {
            return self;
        }
        let mut fields = Fields::new("cachalot level v1");
        fields.add("block", &self.0);
        fields.add("level", &[level]);
        BlockKey(fields.finish())
    }

    /// Where a block that is not full lies behind this one, with some tokens that whoever looks for it does not know. Several may:
    /// each has a slot by its own key, and of those in the same slot the first has it.
    pub fn tail(self, slot: u8) -> BlockKey {
        let mut fields = Fields::new("cachalot tail v1");
        fields.add("block", &self.0);
        fields.add("slot", &[slot % BlockKey::TAILS]);
        BlockKey(fields.finish())
    }

    /// How many slots there are behind a block for such as are not full.
    pub const TAILS: u8 = 2;

    /// The name of what only a continuation close behind a block reads of it; kept apart, as many blocks have none.
    pub fn near(self) -> BlockKey {
        let mut fields = Fields::new("cachalot near v1");
        fields.add("block", &self.0);
        BlockKey(fields.finish())
    }
}

/// Fields with names and lengths, so that none can be taken for a part of its neighbour.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(context: &str) -> Fields {
        Fields(blake3::Hasher::new_derive_key(context))
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }

    fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

fn hex(digest: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_field_but_the_name_for_people_makes_another_domain() {
        let id = Identity::default();
        let others = [
            Identity { model: [1; 32], ..id.clone() },
            Identity { tokenizer: [1; 32], ..id.clone() },
            Identity { adapter: Some([1; 32]), ..id.clone() },
            Identity { rope: "a".into(), ..id.clone() },
            Identity { dtype: "a".into(), ..id.clone() },
            Identity { plan: [1; 32], ..id.clone() },
            Identity { tenant: "a".into(), ..id.clone() },
        ];
        let domains: HashSet<Domain> = others.iter().chain([&id]).map(Identity::domain).collect();
        assert_eq!(domains.len(), others.len() + 1);
        assert_eq!(Identity { recipe: "a".into(), ..id.clone() }.domain(), id.domain());
    }

    #[test]
    fn neighbouring_fields_do_not_run_into_each_other() {
        let id = |rope: &str, dtype: &str| Identity { rope: rope.into(), dtype: dtype.into(), ..Identity::default() };
        assert_ne!(id("ab", "c").domain(), id("a", "bc").domain());
        assert_ne!(id("a", "").domain(), id("", "a").domain());
    }

    #[test]
    fn a_key_depends_on_all_tokens_before_it() {
        let domain = Identity::default().domain();
        let (a, b) = (domain.key(None, &[1, 2]), domain.key(None, &[1, 3]));
        assert_ne!(domain.key(Some(a), &[7]), domain.key(Some(b), &[7]));
        assert_ne!(domain.key(Some(a), &[7]), domain.key(None, &[7]));
        assert_eq!(domain.key(Some(a), &[7]), domain.key(Some(a), &[7]));
        // Notes of chunks are no blocks, and one does not lie where another does.
        let notes = [domain.chunk(&[1, 2], 0), domain.chunk(&[1, 2], 1), domain.chunk(&[1, 3], 0), a];
        assert_eq!(notes.into_iter().collect::<HashSet<BlockKey>>().len(), 4);
    }
}
