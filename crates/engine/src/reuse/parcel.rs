//! Blocks on their way out of the engine and into it.

use cachalot_kv::{CachePlan, KvCache, KvError, SharedBlock};
use cachalot_store::tier::Tenant;
use cachalot_store::{Block, BlockKey, Domain, Form, Page};

use super::Reuse;

/// A block with its place: pages are shared, not copied.
#[derive(Clone)]
pub struct Parcel {
    /// Whose it is.
    pub domain: Domain,
    /// The block before it.
    pub parent: Option<BlockKey>,
    /// Position of its first token.
    pub start: usize,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Its pages.
    pub block: SharedBlock,
}

impl Parcel {
    /// Its name.
    pub fn key(&self) -> BlockKey {
        self.domain.key(self.parent, &self.tokens)
    }

    /// With the bytes of its pages, as it is kept outside.
    pub fn to_block(&self) -> Block {
        let form = |exact| if exact { Form::Exact } else { Form::Kept };
        let page = |page: cachalot_kv::share::SharedPage<'_>| Page {
            form: form(page.exact),
            bytes: page.page.bytes().to_vec(),
        };
        let pages = self.block.pages().map(page).collect();
        Block { domain: self.domain, parent: self.parent, start: self.start as u64, tokens: self.tokens.clone(), pages }
    }

    /// A block from outside, its pages copied to the pool.
    ///
    /// # Errors
    /// [`KvError::Foreign`] where a page is not of this plan; [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`].
    pub fn of_block(cache: &KvCache, plan: &CachePlan, block: Block) -> Result<Parcel, KvError> {
        let pages = block.pages.iter().map(|page| (page.form == Form::Exact, &page.bytes[..]));
        let shared = cache.importer(plan)?.block(pages)?;
        let Block { domain, parent, start, tokens, pages: _ } = block;
        Ok(Parcel { domain, parent, start: start as usize, tokens, block: shared })
    }
}

impl Reuse {
    /// The blocks that `tokens` begins with as a whole.
    pub fn export(&self, domain: Domain, tokens: &[u32]) -> Vec<Parcel> {
        let path = self.tree.whole(domain, tokens);
        let mut parent = None;
        let nodes = path.iter().filter_map(|&id| self.tree.node(id));
        let parcel = nodes.map(|node| {
            let before = parent.replace(node.key);
            let start = node.depth * cachalot_kernels::attention::PAGE_TOKENS;
            Parcel { domain, parent: before, start, tokens: node.tokens.clone(), block: node.block.clone() }
        });
        parcel.collect()
    }

    /// Takes in blocks, each behind the one before it. How many found their place.
    pub fn import(&mut self, tenant: Tenant, parcels: Vec<Parcel>) -> usize {
        self.owners.extend(parcels.iter().map(|parcel| (parcel.domain, tenant)));
        self.clock += 1;
        let clock = self.clock;
        let put =
            |p: &Parcel, tree: &mut super::Tree| tree.insert(p.domain, p.parent, &p.tokens, p.block.clone(), clock);
        parcels.iter().take_while(|parcel| put(parcel, &mut self.tree)).count()
    }
}
