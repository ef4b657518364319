//! An object store in memory that fails when it is told to.

use std::collections::BTreeMap;
use std::sync::Mutex;

use cachalot_store::BlockKey;
use cachalot_store::tier::backend::Backend;
use cachalot_store::tier::machine::Purged;
use cachalot_store::tier::{Fault, FaultKind, Level, Parcel, Tenant, seal};

use super::rng::Rng;

type Objects = BTreeMap<(Tenant, BlockKey), Vec<u8>>;

pub struct SimRemote(Mutex<(Rng, f64, Objects)>);

impl SimRemote {
    pub fn new(seed: u64) -> SimRemote {
        SimRemote(Mutex::new((Rng(seed), 0.0, BTreeMap::new())))
    }

    pub fn set_faults(&self, share: f64) {
        self.0.lock().unwrap().1 = share;
    }

    pub fn of(&self, tenant: Tenant) -> usize {
        self.0.lock().unwrap().2.keys().filter(|(whose, _)| *whose == tenant).count()
    }

    pub fn damage(&self, rng: &mut Rng) {
        let mut state = self.0.lock().unwrap();
        let n = state.2.len();
        if let Some((_, bytes)) = state.2.iter_mut().nth(rng.below(n)) {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }
    }

    fn call(&self) -> Result<(), Fault> {
        let (rng, share, _) = &mut *self.0.lock().unwrap();
        let kinds = [FaultKind::Slow, FaultKind::Denied, FaultKind::Io];
        match rng.chance(*share) {
            false => Ok(()),
            true => Err(fault(kinds[rng.below(3)])),
        }
    }
}

fn fault(kind: FaultKind) -> Fault {
    Fault { kind, level: Level::Remote, place: "simulated".to_owned(), what: String::new() }
}

impl Backend for SimRemote {
    fn put(&self, parcels: &[Parcel]) -> Vec<Result<u64, Fault>> {
        let put = |parcel: &Parcel| {
            self.call()?;
            let sealed = seal::seal(parcel, None).map_err(|(kind, _)| fault(kind))?;
            let bytes = [&sealed.header[..], &sealed.bytes].concat();
            let len = bytes.len() as u64;
            let object = parcel.object();
            self.0.lock().unwrap().2.insert((object.tenant, object.key), bytes);
            // An answer that is lost says nothing about what was asked for.
            self.call().map(|()| len)
        };
        parcels.iter().map(put).collect()
    }

    fn get(&self, tenant: Tenant, key: BlockKey, bytes: u64) -> Result<Parcel, Fault> {
        self.call()?;
        let stored = self.0.lock().unwrap().2.get(&(tenant, key)).cloned().ok_or_else(|| fault(FaultKind::Missing))?;
        if stored.len() as u64 != bytes {
            return Err(fault(FaultKind::Missing));
        }
        seal::open(tenant, key, &stored, None).map_err(|(kind, _)| fault(kind))
    }

    fn remove(&self, tenant: Tenant, key: BlockKey) -> Result<(), Fault> {
        self.call()?;
        self.0.lock().unwrap().2.remove(&(tenant, key));
        Ok(())
    }

    fn probe(&self, tenant: Tenant, keys: &[BlockKey]) -> Vec<Result<Option<u64>, Fault>> {
        let head = |key: &BlockKey| {
            self.call()?;
            Ok(self.0.lock().unwrap().2.get(&(tenant, *key)).map(|bytes| bytes.len() as u64))
        };
        keys.iter().map(head).collect()
    }

    fn purge(&self, tenant: Tenant) -> Result<Purged, Fault> {
        let mut purged = Purged::default();
        self.call()?;
        let keys: Vec<_> = self.0.lock().unwrap().2.keys().filter(|(whose, _)| *whose == tenant).copied().collect();
        for name in keys {
            match self.call() {
                Ok(()) => {
                    purged.objects += 1;
                    purged.bytes += self.0.lock().unwrap().2.remove(&name).unwrap().len() as u64;
                }
                Err(fault) => purged.fault = Some(fault),
            }
        }
        self.call()?;
        let state = self.0.lock().unwrap();
        let left = state.2.iter().filter(|((whose, _), _)| *whose == tenant);
        purged.left = left.map(|((_, key), bytes)| (*key, bytes.len() as u64)).collect();
        Ok(purged)
    }
}
