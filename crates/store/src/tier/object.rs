//! What tiers keep, whose it is, and where it can lie.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::seal;
use crate::BlockKey;

/// Whose objects are, in 256 bits. A key belongs to one tenant for good: tenants never share an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(pub [u8; 32]);

impl Tenant {
    /// The tenant of this name; the empty name is a tenant, too.
    pub fn named(name: &str) -> Tenant {
        let mut hasher = blake3::Hasher::new_derive_key("cachalot tenant v1");
        Tenant(*hasher.update(name.as_bytes()).finalize().as_bytes())
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes with a name and an owner. Tiers do not look into them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is called.
    pub key: BlockKey,
    /// Whose it is.
    pub tenant: Tenant,
    /// What is kept; immutable, as the key says what it is.
    pub bytes: Arc<[u8]>,
}

/// Where objects lie, fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Memory of this process.
    Ram = 0,
    /// A folder of this machine.
    Disk = 1,
    /// An object store.
    Remote = 2,
}

impl Level {
    /// All of them, fastest first.
    pub const ALL: [Level; 3] = [Level::Ram, Level::Disk, Level::Remote];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Ram => "ram",
            Level::Disk => "disk",
            Level::Remote => "remote",
        }
    }
}

/// An [`Object`] on its way, with the digest that says whether its bytes are still those that were stored. Clones are the same.
///
/// The digest is computed once, by whoever needs it first and never by the thread that stores, and stays with the bytes
/// wherever they go: what decays in memory does not get a fresh digest on its way to disk.
#[derive(Clone, Debug)]
pub struct Parcel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    object: Object,
    digest: OnceLock<[u8; 32]>,
}

impl Parcel {
    /// An object whose digest is not computed yet.
    pub fn new(object: Object) -> Parcel {
        Parcel(Arc::new(Inner { object, digest: OnceLock::new() }))
    }

    /// An object as it was found, and the digest it was sealed with.
    pub fn sealed(object: Object, digest: [u8; 32]) -> Parcel {
        Parcel(Arc::new(Inner { object, digest: OnceLock::from(digest) }))
    }

    /// What it carries.
    pub fn object(&self) -> &Object {
        &self.0.object
    }

    /// Bytes it takes in a tier that writes it as it is.
    pub fn size(&self) -> u64 {
        seal::size(self.0.object.bytes.len())
    }

    /// Seals it where it is not yet. Reads all bytes.
    pub fn digest(&self) -> [u8; 32] {
        let object = self.object();
        *self.0.digest.get_or_init(|| seal::digest(&seal::head(object, [0; 8]), &object.bytes))
    }

    /// Whether the bytes are those that were sealed. Reads all of them; seals what was not.
    pub fn is_whole(&self) -> bool {
        let object = self.object();
        match self.0.digest.get() {
            Some(digest) => *digest == seal::digest(&seal::head(object, [0; 8]), &object.bytes),
            None => {
                self.digest();
                true
            }
        }
    }
}
