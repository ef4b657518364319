//! Names of files: `DIR/<tenant>/<first byte of the key>/<key>`, in hexadecimal; `.tmp` behind it while it is written.

use crate::BlockKey;
use crate::tier::object::Tenant;

/// What follows the name of a file that is not written to its end.
pub const TEMPORARY: &str = ".tmp";

/// The file that says that somebody uses the folder.
pub const LOCK: &str = "lock";

/// The folder of a tenant.
pub fn tenant_name(tenant: &Tenant) -> String {
    tenant.to_string()
}

/// The folder of a key in its tenant's.
pub fn shard_name(key: &BlockKey) -> String {
    format!("{:02x}", key.0[0])
}

/// The tenant whose folder this is.
pub fn tenant_of(name: &str) -> Option<Tenant> {
    digest_of(name).map(Tenant)
}

/// Whether this is a folder of keys.
pub fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(is_digit)
}

/// What a file is, by its name and the name of its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// An object.
    Object(BlockKey),
    /// What writing one left behind.
    Leftover,
    /// Not ours.
    Foreign,
}

/// See [`Named`].
pub fn file_of(shard: &str, name: &str) -> Named {
    let (stem, temporary) = match name.strip_suffix(TEMPORARY) {
        Some(stem) => (stem, true),
        None => (name, false),
    };
    match digest_of(stem) {
        Some(_) if !stem.starts_with(shard) => Named::Foreign,
        Some(_) if temporary => Named::Leftover,
        Some(digest) => Named::Object(BlockKey(digest)),
        None => Named::Foreign,
    }
}

/// Lower case only: a name that is written otherwise is not ours.
fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn digest_of(name: &str) -> Option<[u8; 32]> {
    if name.len() != 64 || !name.bytes().all(is_digit) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(name.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_no_others() {
        let key = BlockKey([0xab; 32]);
        let (shard, name) = (shard_name(&key), key.to_string());
        assert_eq!(file_of(&shard, &name), Named::Object(key));
        assert_eq!(file_of(&shard, &format!("{name}{TEMPORARY}")), Named::Leftover);
        let others = ["ab", "", &name[1..], &name.to_uppercase(), &format!("{name}.bak"), &format!("+{}", &name[1..])];
        assert!(others.iter().all(|other| file_of(&shard, other) == Named::Foreign));
        assert_eq!(file_of("ac", &name), Named::Foreign);
        let tenant = Tenant::named("a");
        assert_eq!(tenant_of(&tenant_name(&tenant)), Some(tenant));
        assert!(is_shard("0f") && !is_shard("0F") && !is_shard("0") && !is_shard("000"));
    }
}
