//! Contexts that share their positions: each is known by the prompt it was computed in, its prefix and itself, like any other
//! prompt; see [`crate::blend`].

use cachalot_kv::mend::Piece;
use cachalot_kv::parallel::Temper;
use cachalot_kv::{KvCache, KvError, SequenceKv, SharedBlock};
use cachalot_store::Domain;

use super::{Reuse, Thread};
use crate::blend::{Layout, Method};

impl Thread {
    /// The contexts of a prompt, where it wants them read side by side.
    pub fn layout(&self, prompt: &[u32]) -> Option<Layout> {
        self.temper().and_then(|_| Layout::of(prompt, &self.wish.chunks))
    }

    /// How the contexts are weighed, where they are to be read side by side.
    fn temper(&self) -> Option<Temper> {
        match self.blend()?.method {
            Method::Ape { temperature, scale } => Some(Temper { temperature: temperature as f32, scale: scale as f32 }),
            _ => None,
        }
    }

    /// Of a prompt that is computed for this one to use.
    pub fn errand(&self) -> Thread {
        Thread { tenant: self.tenant, ..Thread::new(self.domain, "", Default::default()) }
    }
}

impl Reuse {
    /// Prompts that are to be computed before the contexts of this one are there: those of the contexts that are not.
    pub fn missing(&self, cache: &KvCache, kv: &SequenceKv, thread: &Thread, prompt: &[u32]) -> Vec<Vec<u32>> {
        let (Some(domain), Some(layout)) = (thread.domain, thread.layout(prompt)) else { return Vec::new() };
        let windows = cache.config().layers.iter().any(|g| g.window.is_some());
        if windows || kv.plan().keep.is_some() {
            return Vec::new();
        }
        let mut missing: Vec<Vec<u32>> = Vec::new();
        for context in &layout.contexts {
            let alone = layout.alone(prompt, context);
            let there = self.whole_of(domain, &alone).is_some_and(|(_, blocks)| {
                let piece = Piece::Kept { blocks: &blocks, first: 0, span: 0..alone.len() };
                cache.can_assemble(kv, &[piece])
            });
            if !there && !missing.contains(&alone) {
                missing.push(alone);
            }
        }
        missing
    }

    /// Blocks of a prompt, where all of it is there.
    fn whole_of(&self, domain: Domain, tokens: &[u32]) -> Option<(Vec<usize>, Vec<SharedBlock>)> {
        let found = self.tree.find(domain, tokens);
        let blocks = self.tree.along(&found.path).into_iter().cloned().collect();
        (found.tokens == tokens.len()).then_some((found.path, blocks))
    }

    /// Puts the contexts of a prompt behind its prefix. Tokens that were put there; none where one is not there.
    ///
    /// # Errors
    /// As [`KvCache::assemble_parallel`]; the sequence is as it was.
    pub(super) fn side_by_side(
        &mut self,
        cache: &KvCache,
        kv: &mut SequenceKv,
        thread: &mut Thread,
        prompt: &[u32],
    ) -> Result<usize, KvError> {
        let (Some(domain), Some(layout), Some(temper)) = (thread.domain, thread.layout(prompt), thread.temper()) else {
            return Ok(0);
        };
        let mut found = Vec::new();
        for context in &layout.contexts {
            let Some((path, blocks)) = self.whole_of(domain, &layout.alone(prompt, context)) else { return Ok(0) };
            if cache.first_damaged(&blocks.iter().collect::<Vec<_>>()).is_some() {
                return Ok(0);
            }
            self.tree.touch(&path, self.clock);
            found.push((blocks, context.len()));
        }
        let p = layout.prefix;
        let piece = |(blocks, tokens): &'_ (Vec<SharedBlock>, usize)| (p..p + tokens, blocks.clone());
        let held: Vec<_> = found.iter().map(piece).collect();
        let contexts: Vec<Piece<'_>> =
            held.iter().map(|(span, blocks)| Piece::Kept { blocks, first: 0, span: span.clone() }).collect();
        let prefix = Piece::Kept { blocks: &held[0].1, first: 0, span: kv.len()..p };
        let prefix = if kv.len() < p { vec![prefix] } else { Vec::new() };
        cache.assemble_parallel(kv, &prefix, &contexts, layout.silent, temper)?;
        (thread.reduced, thread.computed) = (true, kv.len());
        Ok(kv.moved())
    }
}
