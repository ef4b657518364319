//! A lane reduced: tokens move down into bytes that pages before them have left.

use super::{Entry, Kept, Lane, Slot};
use crate::page::WritablePage;
use crate::pool::ledger::Purpose;
use crate::pool::{PageBytes, Pool};
use crate::{KvError, Rope};
use cachalot_kernels::attention::PAGE_TOKENS;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a reduction makes of a lane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Slots that stay, ascending.
    pub kept: Vec<u32>,
    /// Those of them that stand for others too, ascending.
    pub merged: Vec<Merged>,
    /// How much each slot that stays matters, where the encoder wants to know.
    pub importance: Vec<f32>,
}

/// A slot whose token stands for others too.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The slot.
    pub slot: u32,
    /// Its key from now on, as attention reads it.
    pub k: Vec<f32>,
    /// Its value from now on.
    pub v: Vec<f32>,
    /// What is added to its scores: the logarithm of how many tokens it stands for, or zero.
    pub extra: f32,
}

/// Rows on their way to the next page.
struct Mover<'a> {
    lane: &'a mut Lane,
    rope: Option<&'a Rope>,
    pool: &'a Pool,
    importance: &'a [f32],
    /// Pages before this one are written in the body format.
    body_end: usize,
    /// First in, first out: what stays moves to the oldest bytes, and later ones become free side by side, whole slabs of
    /// them. By size.
    spare: BTreeMap<usize, VecDeque<PageBytes>>,
    /// `[tokens][dim]`.
    k: Vec<f32>,
    v: Vec<f32>,
    odd: usize,
}

impl Lane {
    /// Drops all of the first `slots` but those of the outcome and ends [`Lane::hold`]. Tokens move down page by page into
    /// bytes that pages before them have left, so that it takes nothing beside the lane; pages that nothing moves in stay as
    /// they are, shared or not. Encoded pages are decoded and encoded again. Returns how many numbers were not finite.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] or [`KvError::OutOfMemory`] where pages that others share leave no bytes; the lane is of no
    /// use then.
    pub(crate) fn keep(
        &mut self,
        outcome: &Outcome,
        slots: usize,
        rope: Option<&Rope>,
        pool: &Pool,
    ) -> Result<usize, KvError> {
        self.release();
        let Outcome { kept, merged, importance } = outcome;
        let same = kept.iter().zip(0..).take_while(|&(&slot, i)| slot == i).count();
        let told = !importance.is_empty() && self.body.is_some();
        // What is to be encoded is encoded now, before pages that a reduction left sparse are gathered.
        let encodes = self.body.is_some() && self.body_end(slots) > self.encoded;
        if same == slots && merged.is_empty() && !told && !encodes {
            return Ok(0);
        }
        let same = merged.first().map_or(same, |merged| same.min(merged.slot as usize));
        // Pages are encoded in order, so none that waits for it can stay behind.
        let untouched = if self.body.is_some() { self.encoded.min(same / PAGE_TOKENS) } else { same / PAGE_TOKENS };
        let old = Lane {
            pages: self.pages.split_off(untouched.min(self.pages.len())),
            plan: self.plan.clone(),
            exact: self.exact.clone(),
            body: self.body.clone(),
            kept: self.kept.clone(),
            first: untouched,
            parallel: None,
            ..*self
        };
        // Positions are known from here on: encoders and readers of later pages want them.
        let positions = kept.iter().map(|&slot| old.position(slot as usize) as u32).collect();
        let dropped = old.dropped() + slots - kept.len();
        let extra = extras(&old, kept, merged);
        // Counted when what was freed makes room.
        let none = pool.ledger().reserve(Purpose::Pages, 0)?;
        // Slots are positions where nothing has gone.
        let moved = dropped > 0 || !extra.is_empty();
        let bytes = if moved { (4 * kept.len() + 4 * PAGE_TOKENS * extra.len()) as u64 } else { 0 };
        self.kept = moved.then(|| Arc::new(Kept { positions, dropped, extra, _bytes: none }));
        self.encoded = self.encoded.min(untouched).max(self.plan.sink_pages());
        let body_end = if self.body.is_some() { self.body_end(kept.len()) } else { 0 };
        let (spare, k, v) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut mover = Mover { lane: self, rope, pool, importance, body_end, spare, k, v, odd: 0 };
        mover.all(old, &kept[(untouched * PAGE_TOKENS).min(kept.len())..], merged)?;
        let odd = mover.odd;
        drop(mover);
        let held = pool.ledger().reserve(Purpose::Pages, bytes)?;
        if let Some(kept) = self.kept.as_mut().and_then(Arc::get_mut) {
            kept._bytes = held;
        }
        Ok(odd)
    }

    /// Says that of `tokens` only those at these positions will be written here, from now on; nothing has been.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] where there is no room for the positions.
    pub(crate) fn admit(&mut self, positions: &[u32], tokens: usize, pool: &Pool) -> Result<(), KvError> {
        let _bytes = pool.ledger().reserve(Purpose::Pages, 4 * positions.len() as u64)?;
        let dropped = tokens - positions.len();
        self.kept = Some(Arc::new(Kept { positions: positions.to_vec(), dropped, extra: BTreeMap::new(), _bytes }));
        Ok(())
    }

    /// Moves pages that nobody shares to fuller slabs, so that those that a reduction left sparse become empty.
    pub(crate) fn consolidate(&mut self) {
        for entry in &mut self.pages {
            match &mut entry.slot {
                Slot::Writable(page) => page.consolidate(),
                Slot::Shared(page) => {
                    if let Some(page) = Arc::get_mut(page) {
                        page.consolidate();
                    }
                }
            }
        }
    }
}

/// See [`Lane::extra`].
fn extras(old: &Lane, kept: &[u32], merged: &[Merged]) -> BTreeMap<usize, Box<[f32; PAGE_TOKENS]>> {
    let new: BTreeMap<u32, f32> = merged.iter().map(|merged| (merged.slot, merged.extra)).collect();
    let mut pages: BTreeMap<usize, Box<[f32; PAGE_TOKENS]>> = BTreeMap::new();
    for (i, slot) in kept.iter().enumerate() {
        let extra = new.get(slot).copied().unwrap_or_else(|| old.extra_of(*slot as usize));
        if extra != 0.0 {
            pages.entry(i / PAGE_TOKENS).or_insert_with(|| Box::new([0.0; PAGE_TOKENS]))[i % PAGE_TOKENS] = extra;
        }
    }
    pages
}

impl Mover<'_> {
    /// Moves `kept` out of the pages of `old`.
    fn all(&mut self, mut old: Lane, kept: &[u32], merged: &[Merged]) -> Result<(), KvError> {
        let dim = old.exact.dim;
        let (mut k, mut v) = (vec![0.0; PAGE_TOKENS * dim], vec![0.0; PAGE_TOKENS * dim]);
        let mut moved = kept.iter().map(|&slot| slot as usize).peekable();
        let mut merged = merged.iter().peekable();
        for page in old.first.. {
            if old.pages.is_empty() {
                break;
            }
            let end = (page + 1) * PAGE_TOKENS;
            if moved.peek().is_some_and(|&slot| slot < end) {
                old.read_keys(page, self.rope, &mut k);
                old.read_values(page, &mut v);
            }
            old.first += 1;
            if let Some(entry) = old.pages.pop_front() {
                self.free(entry);
            }
            while let Some(slot) = moved.next_if(|&slot| slot < end) {
                let row = slot % PAGE_TOKENS * dim..(slot % PAGE_TOKENS + 1) * dim;
                match merged.next_if(|merged| merged.slot as usize == slot) {
                    Some(merged) => {
                        self.k.extend_from_slice(&merged.k);
                        self.v.extend_from_slice(&merged.v);
                    }
                    None => {
                        self.k.extend_from_slice(&k[row.clone()]);
                        self.v.extend_from_slice(&v[row]);
                    }
                }
                if self.k.len() == PAGE_TOKENS * dim || moved.peek().is_none() {
                    self.write()?;
                }
            }
        }
        Ok(())
    }

    /// The bytes of a page that has been read, for those to come.
    fn free(&mut self, entry: Entry) {
        let bytes = match entry.slot {
            Slot::Writable(page) => Some(page.into_bytes()),
            Slot::Shared(page) => Arc::try_unwrap(page).ok().map(|page| page.into_bytes()),
        };
        if let Some(bytes) = bytes {
            self.spare.entry(bytes.len()).or_default().push_back(bytes);
        }
    }

    fn take(&mut self, len: usize) -> Result<PageBytes, KvError> {
        if let Some(bytes) = self.spare.get_mut(&len).and_then(VecDeque::pop_front) {
            return Ok(bytes);
        }
        // What another size has left is free for this one.
        self.spare.clear();
        self.pool.take(len, 1)?.pop().ok_or_else(|| KvError::Misuse("no page".into()))
    }

    /// Writes the rows gathered as the next page.
    fn write(&mut self) -> Result<(), KvError> {
        let (page, dim, width) = (self.lane.end(), self.lane.exact.dim, self.lane.exact.width());
        let tokens = self.k.len() / dim;
        let slot = if tokens == PAGE_TOKENS && page >= self.lane.plan.sink_pages() && page < self.body_end {
            let bytes = self.take(self.lane.body_bytes())?;
            let hints = self.importance.get(page * PAGE_TOKENS..(page + 1) * PAGE_TOKENS).unwrap_or(&[]);
            let encoded = self.lane.encode(page, &mut self.k, &self.v, self.rope, hints, bytes);
            let (sealed, odd) = encoded.ok_or_else(|| KvError::Misuse("a page without a format".into()))?;
            self.odd += odd;
            self.lane.encoded = page + 1;
            Slot::Shared(Arc::new(sealed))
        } else {
            let bytes = self.take(self.lane.exact_bytes())?;
            let new = WritablePage::new(self.lane.exact.clone(), self.lane.plan.exact, bytes);
            let pad = |rows: &[f32]| -> Vec<f32> {
                let padded = |row: &[f32]| row.iter().copied().chain(std::iter::repeat_n(0.0, width - dim)).collect();
                rows.chunks_exact(dim).flat_map(|row| -> Vec<f32> { padded(row) }).collect()
            };
            // SAFETY: nobody else knows the page.
            unsafe { new.write(&pad(&self.k), &pad(&self.v), 0) };
            Slot::Writable(Box::new(new))
        };
        self.lane.pages.push_back(Entry { slot, body: None });
        self.k.clear();
        self.v.clear();
        Ok(())
    }
}
