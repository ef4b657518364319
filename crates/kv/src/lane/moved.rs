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
    /// to the positions from `at` on, values stay as they are. The pages they go to are there and can be written.
    pub(crate) fn take_rows(&self, forms: &Forms, tokens: Range<usize>, to: usize, at: usize, rope: Option<&Rope>) {
        let mut rows = [Vec::new(), Vec::new()];
        self.read_rows(forms, tokens, at, rope, &mut rows);
        self.write_rows(to, &rows);
    }

    /// Appends rows of another lane's page, which stood at the positions `tokens`, to keys and values, `[tokens][dim]`: keys are
    /// turned to the positions from `at` on.
    pub(crate) fn read_rows(
        &self,
        forms: &Forms,
        tokens: Range<usize>,
        at: usize,
        rope: Option<&Rope>,
        rows: &mut [Vec<f32>; 2],
    ) {
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
        let table = rope.filter(|_| before_rope).map(|rope| rope.table(at + tokens.len()));
        let shift = rope.filter(|_| !before_rope).and_then(|rope| rope.shift(at as i64 - tokens.start as i64));
        for (i, token) in tokens.enumerate() {
            let row = token % PAGE_TOKENS * dim..(token % PAGE_TOKENS + 1) * dim;
            let keys = rows[0].len();
            rows[0].extend_from_slice(&k[row.clone()]);
            rows[1].extend_from_slice(&v[row]);
            match (rope, &table, &shift) {
                (Some(rope), Some(table), _) => rope.rotate(table, at + i, &mut rows[0][keys..]),
                (_, _, Some(shift)) => shift.apply(&mut rows[0][keys..]),
                _ => {}
            }
        }
    }

    /// Writes keys and values, `[tokens][dim]`, to the slots from `to` on. The pages they go to are there and can be written.
    fn write_rows(&self, to: usize, [k, v]: &[Vec<f32>; 2]) {
        let (dim, width) = (self.exact.dim, self.exact.width());
        let mut padded = [vec![0.0; width], vec![0.0; width]];
        for (i, (k, v)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
            padded[0][..dim].copy_from_slice(k);
            padded[1][..dim].copy_from_slice(v);
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
                Ok(Ok(open)) => Slot::Writable(Box::new(open)),
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

    /// Adds to keys and values, `[tokens][dim]`, of the slots from `to` on, which can be written.
    pub(crate) fn add_rows(&self, to: usize, deltas: &[Vec<f32>; 2]) {
        let (dim, width) = (self.exact.dim, self.exact.width());
        let tokens = deltas[0].len() / dim;
        let (mut k, mut v) = (vec![0.0; PAGE_TOKENS * dim], vec![0.0; PAGE_TOKENS * dim]);
        for page in to / PAGE_TOKENS..(to + tokens).div_ceil(PAGE_TOKENS) {
            let slots = to.max(page * PAGE_TOKENS)..(to + tokens).min((page + 1) * PAGE_TOKENS);
            let Some(view) = self.writable(page).map(|page| page.view()) else { continue };
            read_keys(view.k_element, view.k, width, dim, &mut k);
            read_values(view.v_element, view.v, width, dim, &mut v);
            let there = slots.start % PAGE_TOKENS * dim..(slots.start % PAGE_TOKENS + slots.len()) * dim;
            let own = (slots.start - to) * dim..(slots.end - to) * dim;
            let sum = |rows: &[f32], delta: &[f32]| rows.iter().zip(delta).map(|(a, b)| a + b).collect();
            let rows = [sum(&k[there.clone()], &deltas[0][own.clone()]), sum(&v[there], &deltas[1][own])];
            self.write_rows(slots.start, &rows);
        }
    }
}
