//! What is known of the remote tier: which objects are there, as far as was asked, and for how long that is believed.

use super::object::Tenant;
use crate::BlockKey;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What is believed of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It is there and takes so many bytes.
    Present(u64),
    /// It is not.
    Absent,
    /// It is asked for, written or removed at this moment; not to be touched.
    Busy,
}

/// Beliefs, at most so many, each until its time.
pub struct Known {
    most: usize,
    beliefs: HashMap<BlockKey, (Tenant, Belief, Duration)>,
    order: BTreeSet<(Duration, BlockKey)>,
    present: u64,
    present_bytes: u64,
}

impl Known {
    /// Nothing is known.
    pub fn new(most: usize) -> Known {
        Known { most, beliefs: HashMap::new(), order: BTreeSet::new(), present: 0, present_bytes: 0 }
    }

    /// What is believed, where anything is.
    pub fn get(&self, now: Duration, tenant: &Tenant, key: &BlockKey) -> Option<Belief> {
        let (whose, belief, until) = self.beliefs.get(key)?;
        (whose == tenant && (*until > now || *belief == Belief::Busy)).then_some(*belief)
    }

    /// Believes it until a time. The belief that would end first goes where there are too many.
    pub fn set(&mut self, key: BlockKey, tenant: Tenant, belief: Belief, until: Duration) {
        self.forget(&key);
        if let Belief::Present(bytes) = belief {
            self.present += 1;
            self.present_bytes += bytes;
        }
        // What is busy has a job that ends it, and is bounded by their number.
        if belief != Belief::Busy {
            self.order.insert((until, key));
        }
        self.beliefs.insert(key, (tenant, belief, until));
        while self.order.len() > self.most {
            let Some(&(_, key)) = self.order.first() else { break };
            self.forget(&key);
        }
    }

    /// Believes nothing.
    pub fn forget(&mut self, key: &BlockKey) {
        if let Some((_, belief, until)) = self.beliefs.remove(key) {
            self.order.remove(&(until, *key));
            if let Belief::Present(bytes) = belief {
                self.present -= 1;
                self.present_bytes -= bytes;
            }
        }
    }

    /// Forgets all of a tenant.
    pub fn forget_tenant(&mut self, tenant: &Tenant) {
        let keys: Vec<_> = self.beliefs.iter().filter(|(_, (t, ..))| t == tenant).map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| self.forget(key));
    }

    /// Objects believed to be there, and their bytes.
    pub fn present(&self) -> (u64, u64) {
        (self.present, self.present_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beliefs_end_are_bounded_and_belong_to_a_tenant() {
        let (a, b) = (Tenant::named("a"), Tenant::named("b"));
        let second = Duration::from_secs;
        let key = |n| BlockKey([n; 32]);
        let mut known = Known::new(2);
        known.set(key(1), a, Belief::Present(10), second(5));
        known.set(key(2), a, Belief::Absent, second(9));
        assert_eq!(known.get(second(4), &a, &key(1)), Some(Belief::Present(10)));
        assert_eq!(known.get(second(5), &a, &key(1)), None);
        assert_eq!(known.get(second(4), &b, &key(1)), None);
        known.set(key(3), a, Belief::Busy, second(0));
        assert_eq!(known.get(second(99), &a, &key(3)), Some(Belief::Busy));
        known.set(key(4), b, Belief::Present(7), second(9));
        assert_eq!(known.get(second(0), &a, &key(1)), None);
        assert_eq!(known.present(), (1, 7));
        known.forget_tenant(&b);
        assert_eq!(known.present(), (0, 0));
    }
}
