//! Which variant of a chunk is cheapest to mend.

use cachalot_store::{BlockKey, Domain};

use super::{Kept, Library};
use crate::blend::craft::gain;
use crate::reuse::tree::Tree;

/// A variant of a stretch for one prompt.
#[derive(Debug)]
pub(crate) struct Choice {
    variant: usize,
    /// The share of it that is computed again.
    pub overhead: f64,
    /// Its tokens that are, counted from its first.
    pub rows: Vec<u32>,
    used: u64,
}

impl Library {
    /// Variants of a stretch with these tokens, and the one of them that is cheapest to mend behind the chunks `before` it.
    pub fn look(
        &self,
        tree: &Tree,
        domain: Domain,
        tokens: &[u32],
        (before, alpha): (&[BlockKey], f64),
    ) -> (usize, Option<Choice>) {
        let variants = self.variants.get(&domain.key(None, tokens)).map_or(&[][..], |(_, variants)| variants);
        let there = variants.iter().enumerate().filter(|(_, v)| v.tokens == tokens && v.is_there(tree));
        let choices = there.clone().filter_map(|(variant, v)| {
            let context = v.context.as_ref()?;
            let overhead = context.overhead(before, alpha);
            Some(Choice { variant, overhead, rows: context.rows(overhead), used: v.used })
        });
        let cheapest = choices.min_by(|a, b| a.overhead.total_cmp(&b.overhead).then(b.used.cmp(&a.used)));
        (there.count(), cheapest)
    }

    /// Takes a variant that [`Library::look`] has chosen.
    pub fn take(&mut self, tree: &mut Tree, domain: Domain, tokens: &[u32], choice: &Choice, now: u64) -> Option<Kept> {
        let (_, variants) = self.variants.get_mut(&domain.key(None, tokens))?;
        let variant = variants.get_mut(choice.variant)?;
        variant.used = now;
        variant.score += gain(choice.overhead, tokens.len());
        Some(variant.kept(tree, now))
    }
}
