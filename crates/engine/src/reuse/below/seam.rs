//! What a [`super::TierStore`] is made of: tiers, and threads that turn blocks into bytes and back. A simulation puts others there.

use std::time::Duration;

use cachalot_store::BlockKey;
use cachalot_store::tier::{Completed, Object, Run, Stats, Tenant, Ticket, Tiers};

use super::worker::{Done, Pool, Work};

/// See [`Tiers`].
pub(crate) trait Tiered: Send {
    fn lookup(&mut self, tenant: Tenant, keys: &[BlockKey]) -> Run;
    fn is_near(&mut self, tenant: Tenant, key: BlockKey) -> bool;
    fn fetch(&mut self, tenant: Tenant, keys: &[BlockKey]) -> Ticket;
    fn cancel(&mut self, ticket: Ticket);
    fn store(&mut self, run: Vec<Object>);
    fn delete_tenant(&mut self, tenant: Tenant) -> Ticket;
    fn poll(&mut self) -> Vec<Completed>;
    fn settle(&mut self, most: Duration) -> bool;
    fn close(self: Box<Self>, most: Duration) -> (bool, Stats);
}

impl Tiered for Tiers {
    fn lookup(&mut self, tenant: Tenant, keys: &[BlockKey]) -> Run {
        Tiers::lookup(self, tenant, keys)
    }

    fn is_near(&mut self, tenant: Tenant, key: BlockKey) -> bool {
        Tiers::is_near(self, tenant, key)
    }

    fn fetch(&mut self, tenant: Tenant, keys: &[BlockKey]) -> Ticket {
        Tiers::fetch(self, tenant, keys)
    }

    fn cancel(&mut self, ticket: Ticket) {
        Tiers::cancel(self, ticket);
    }

    fn store(&mut self, run: Vec<Object>) {
        Tiers::store(self, run);
    }

    fn delete_tenant(&mut self, tenant: Tenant) -> Ticket {
        Tiers::delete_tenant(self, tenant)
    }

    fn poll(&mut self) -> Vec<Completed> {
        Tiers::poll(self)
    }

    fn settle(&mut self, most: Duration) -> bool {
        Tiers::settle(self, most)
    }

    fn close(self: Box<Self>, most: Duration) -> (bool, Stats) {
        Tiers::close(*self, most)
    }
}

/// See [`Pool`].
pub(crate) trait Workers: Send {
    fn send(&mut self, work: Work);
    /// Something that is done, if anything is.
    fn done(&mut self) -> Option<Done>;
}

impl Workers for Pool {
    fn send(&mut self, work: Work) {
        Pool::send(self, work);
    }

    fn done(&mut self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}
