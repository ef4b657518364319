//! Pages of a step that leave the window: from plain elements to the body format, before anybody attends.

use super::Attention;
use crate::KvError;
use crate::page::SealedPage;
use crate::pool::PageBytes;
use cachalot_kernels::attention::PAGE_TOKENS;
use std::sync::{Mutex, PoisonError};

/// A page to encode, and the bytes it goes to.
struct Due {
    segment: usize,
    head: usize,
    page: usize,
    bytes: Mutex<Option<PageBytes>>,
    done: Mutex<Option<SealedPage>>,
}

impl Attention<'_, '_> {
    /// Gives every page that the last row of its segment reads encoded its body form. Returns how many numbers were not
    /// finite.
    pub(super) fn encode(&mut self) -> Result<usize, KvError> {
        let mut due = Vec::new();
        for (segment, s) in self.segments.iter_mut().enumerate().filter(|(_, s)| s.rows > 0) {
            let last = s.seq.len + s.rows - 1;
            for head in 0..self.geometry.kv_heads {
                let lane = s.seq.lane(self.layer, head);
                let last = lane.slots(last);
                let size = lane.body_bytes();
                for page in lane.due(last) {
                    let missing = || KvError::Misuse(format!("no room reserved to encode page {page}"));
                    let bytes = Mutex::new(Some(s.seq.take_spare(size).ok_or_else(missing)?));
                    due.push(Due { segment, head, page, bytes, done: Mutex::default() });
                }
            }
        }
        if due.is_empty() {
            return Ok(0);
        }
        let odd: Vec<Mutex<usize>> = due.iter().map(|_| Mutex::default()).collect();
        let this = &*self;
        let (due, odd_of) = (&due, &odd);
        let run = |i: usize| {
            if let Some((page, count)) = this.encode_page(&due[i]) {
                *due[i].done.lock().unwrap_or_else(PoisonError::into_inner) = Some(page);
                *odd_of[i].lock().unwrap_or_else(PoisonError::into_inner) = count;
            }
        };
        self.team.for_each(due.len(), run);
        for due in due {
            let page = due.done.lock().unwrap_or_else(PoisonError::into_inner).take();
            let lane = self.segments[due.segment].seq.lane_mut(self.layer, due.head);
            match page {
                Some(page) => lane.set_body(due.page, page),
                None => return Err(KvError::Misuse(format!("page {} cannot be encoded: it is not held", due.page))),
            }
        }
        Ok(odd.into_iter().map(|count| count.into_inner().unwrap_or_else(PoisonError::into_inner)).sum())
    }

    fn encode_page(&self, due: &Due) -> Option<(SealedPage, usize)> {
        let lane = self.segments[due.segment].seq.lane(self.layer, due.head);
        let bytes = due.bytes.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let dim = self.geometry.head_dim;
        lane.exact(due.page)?;
        let (mut k, mut v) = (vec![0.0; PAGE_TOKENS * dim], vec![0.0; PAGE_TOKENS * dim]);
        lane.read_keys(due.page, None, &mut k);
        lane.read_values(due.page, &mut v);
        lane.encode(due.page, &mut k, &v, self.geometry.rope.as_deref(), &[], bytes)
    }

    /// After the step: nobody reads the encoded pages exactly any more.
    pub(super) fn let_go(&mut self) {
        let kv_heads = self.geometry.kv_heads;
        for segment in self.segments.iter_mut().filter(|s| s.rows > 0) {
            for head in 0..kv_heads {
                let lane = segment.seq.lane_mut(self.layer, head);
                let size = lane.exact_bytes();
                let mut freed = Vec::new();
                lane.drop_plain(&mut freed);
                segment.seq.spare.entry(size).or_default().extend(freed);
            }
        }
    }
}
