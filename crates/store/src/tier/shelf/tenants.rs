//! What one tenant has in a tier.

use super::Shelf;
use crate::tier::object::Tenant;
use crate::tier::policy::{Policy, PolicyKind};

/// Bytes and order of one tenant's entries.
pub struct Account {
    pub used: u64,
    pub leaving: u64,
    pub policy: Box<dyn Policy>,
    /// All of it is being deleted: nothing of it is evicted meanwhile.
    pub frozen: bool,
}

impl Account {
    pub fn new(policy: PolicyKind) -> Account {
        Account { used: 0, leaving: 0, policy: policy.build(), frozen: false }
    }
}

impl Shelf {
    /// Bytes a tenant may have.
    pub fn quota(&self, tenant: &Tenant) -> u64 {
        let quota = self.config.quotas.get(tenant).copied().or(self.config.quota);
        quota.map_or(self.config.capacity, |quota| quota.min(self.config.capacity))
    }

    /// Sets what a tenant may have. What it has beyond that is [`Shelf::excess`].
    pub fn set_quota(&mut self, tenant: Tenant, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => self.config.quotas.insert(tenant, bytes),
            None => self.config.quotas.remove(&tenant),
        };
        self.audit = true;
    }

    /// Keeps eviction away from a tenant while all of it is deleted, or lets it back.
    pub fn freeze(&mut self, tenant: &Tenant, frozen: bool) {
        if let Some(account) = self.tenants.get_mut(tenant) {
            account.frozen = frozen;
            if account.used == 0 && !frozen {
                self.tenants.remove(tenant);
            }
        }
    }

    /// Tenants by how much of their quota they have, fullest first; ties in their order.
    pub(super) fn fullest(&self) -> Vec<Tenant> {
        let share = |tenant: &Tenant, account: &Account| {
            let used = u128::from(account.used - account.leaving);
            (used << 64) / u128::from(self.quota(tenant).max(1))
        };
        let able = self.tenants.iter().filter(|(_, account)| !account.frozen && account.used > account.leaving);
        let mut order: Vec<_> = able.map(|(tenant, account)| (share(tenant, account), *tenant)).collect();
        order.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        order.into_iter().map(|(_, tenant)| tenant).collect()
    }
}
