//! Rows that come from pages of other lanes, at other positions.

use super::share::Forms;
use super::{Entry, Lane, Slot};
use crate::Rope;
use crate::encode::{read_keys, read_values};
use crate::page::{SealedPage, SealedView};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::ops::Range;
use std::sync::Arc;

impl Lane {
    /// The form of a page that rows are best taken from, where this lane can read it.
    pub(crate) fn readable<'a>(&self, forms: &'a Forms) -> Option<&'a Arc<SealedPage>> {
        forms.plain.iter().chain(&forms.kept).find(|page| self.takes(page))
    }

    /// Writes rows of another lane's page, which stood at the positions `tokens`, to the slots from `to` on: keys are turned
    /// there, values stay as they are. The pages they go to are there and can be written.
    pub(crate) fn take_rows(&self, forms: &Forms, tokens: Range<usize>, to: usize, rope: Option<&Rope>) {
        let Some(page) = self.readable(forms) else { return };
        let (dim, width) = (self.exact.dim, self.exact.width());
        let (mut k, mut v) = (vec![0.0; PAGE_TOKENS * dim], vec![0.0; PAGE_TOKENS * dim]);
        let mut before_rope = false;
        match page.view() {
            SealedView::Exact(view) => {
                read_keys(view.k_element, view.k, width, dim, &mut k);
                read_values(view.v_element, view.v, width, dim, &mut v);
            }
            SealedView::Body { k: keys, v: values } => {
                let Some(body) = &self.plan.body else { return };
                body.k.decode(keys, &mut k);
                body.v.decode(values, &mut v);
                before_rope = body.k.before_rope();
            }
        }
        let table = rope.filter(|_| before_rope).map(|rope| rope.table(to + tokens.len()));
        let shift = rope.filter(|_| !before_rope).and_then(|rope| rope.shift(to as i64 - tokens.start as i64));
        let mut padded = [vec![0.0; width], vec![0.0; width]];
        for (i, token) in tokens.enumerate() {
            let row = token % PAGE_TOKENS * dim..(token % PAGE_TOKENS + 1) * dim;
            padded[0][..dim].copy_from_slice(&k[row.clone()]);
            padded[1][..dim].copy_from_slice(&v[row]);
            match (rope, &table, &shift) {
                (Some(rope), Some(table), _) => rope.rotate(table, to + i, &mut padded[0][..dim]),
                (_, _, Some(shift)) => shift.apply(&mut padded[0][..dim]),
                _ => {}
            }
            if let Some(page) = self.writable((to + i) / PAGE_TOKENS) {
                // SAFETY: the caller has the lane for itself.
                unsafe { page.write(&padded[0], &padded[1], (to + i) % PAGE_TOKENS) };
            }
        }
    }

    /// Whether rows of a page can be written over: it is in plain elements, and nobody else has it.
    pub(crate) fn reopens(&self, page: usize) -> bool {
        self.dropped() == 0
            && self.entry(page).is_some_and(|entry| match &entry.slot {
                Slot::Writable(_) => true,
                Slot::Shared(sealed) => sealed.is_plain() && Arc::strong_count(sealed) == 1,
            })
    }

    /// Opens a page that [`Lane::reopens`], until [`Lane::close`].
    pub(crate) fn reopen(&mut self, page: usize) {
        let Some(i) = page.checked_sub(self.first).filter(|&i| i < self.pages.len()) else { return };
        let Some(Entry { slot, body }) = self.pages.remove(i) else { return };
        let slot = match slot {
            Slot::Shared(sealed) => match Arc::try_unwrap(sealed).map(SealedPage::reopen) {
                Ok(Ok(open)) => Slot::Writable(open),
                Ok(Err(sealed)) => Slot::Shared(Arc::new(sealed)),
                Err(sealed) => Slot::Shared(sealed),
            },
            slot => slot,
        };
        self.pages.insert(i, Entry { slot, body });
    }

    /// Seals a full page again.
    pub(crate) fn close(&mut self, page: usize) {
        self.seal_page(page, PAGE_TOKENS);
    }
}
