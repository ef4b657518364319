//! Every byte the cache holds, by purpose. Bytes are reserved here before they are used, so a pool cannot overrun.

use crate::KvError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Pages of lanes, headers included, the positions of what a reduction left, and anchors.
    Pages,
    /// Partial results between threads; bounded by the largest step, not by the context.
    Scratch,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 2] = [Purpose::Pages, Purpose::Scratch];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Pages => "pages",
            Purpose::Scratch => "scratch",
        }
    }
}

/// An account of bytes within a budget. Clones are the same account.
#[derive(Clone, Debug)]
pub struct Ledger {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Account {
    budget: u64,
    /// Budgeted bytes: pages. Scratch is counted beside the budget.
    used: AtomicU64,
    scratch: AtomicU64,
    peak: AtomicU64,
}

/// Bytes set aside; given back on drop.
#[derive(Debug)]
pub struct Reservation {
    account: Arc<Account>,
    purpose: Purpose,
    bytes: u64,
}

impl Ledger {
    /// An empty account.
    pub fn new(budget: u64) -> Ledger {
        let zero = AtomicU64::default;
        Ledger { account: Arc::new(Account { budget, used: zero(), scratch: zero(), peak: zero() }) }
    }

    /// Most bytes of pages that can be reserved together.
    pub fn budget(&self) -> u64 {
        self.account.budget
    }

    /// Bytes of pages reserved now.
    pub fn used(&self) -> u64 {
        self.account.used.load(Relaxed)
    }

    /// Bytes of pages that can still be reserved.
    pub fn free(&self) -> u64 {
        self.budget().saturating_sub(self.used())
    }

    /// The most bytes of pages that were ever reserved at one time.
    pub fn peak(&self) -> u64 {
        self.account.peak.load(Relaxed)
    }

    /// Bytes reserved now, by purpose.
    pub fn by_purpose(&self) -> [(Purpose, u64); 2] {
        Purpose::ALL.map(|purpose| (purpose, self.account.counter(purpose).load(Relaxed)))
    }

    /// Sets bytes aside.
    ///
    /// # Errors
    /// [`KvError::OutOfBudget`] where pages would exceed the budget; nothing is set aside then.
    pub fn reserve(&self, purpose: Purpose, bytes: u64) -> Result<Reservation, KvError> {
        let budget = if purpose == Purpose::Pages { self.account.budget } else { u64::MAX };
        let counter = self.account.counter(purpose);
        let before = counter
            .fetch_update(Relaxed, Relaxed, |used| used.checked_add(bytes).filter(|&sum| sum <= budget))
            .map_err(|used| KvError::OutOfBudget { needed: bytes, free: budget.saturating_sub(used), budget })?;
        if purpose == Purpose::Pages {
            self.account.peak.fetch_max(before + bytes, Relaxed);
        }
        Ok(Reservation { account: self.account.clone(), purpose, bytes })
    }

    /// Ends what [`Reservation::hand_over`] left to the caller.
    pub(super) fn take_back(&self, purpose: Purpose, bytes: u64) {
        self.account.counter(purpose).fetch_sub(bytes, Relaxed);
    }
}

impl Account {
    fn counter(&self, purpose: Purpose) -> &AtomicU64 {
        match purpose {
            Purpose::Pages => &self.used,
            Purpose::Scratch => &self.scratch,
        }
    }
}

impl Reservation {
    /// Bytes set aside.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Leaves `bytes` of it (at most all) to who will call [`Ledger::take_back`] for them.
    pub(super) fn hand_over(&mut self, bytes: u64) {
        self.bytes -= bytes.min(self.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.counter(self.purpose).fetch_sub(self.bytes, Relaxed);
    }
}
