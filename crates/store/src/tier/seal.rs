//! How an object is written at rest: 128 bytes of header, then its bytes.
//!
//! ```text
//!   0  magic "CACHOBJ\x01"      8      24  zeros                8
//!   8  version, 1               4      32  tenant              32
//!  12  zeros                    4      64  key                 32
//!  16  length of what follows   8      96  BLAKE3 of [0..96] and of what follows
//! ```
//! Numbers are little endian. Bytes 24 to 32 say what wrote what follows ([`Coding`]), zeros for bytes as they are.
//! Every bit of an object at rest is either compared with what must be there or covered by the digest.

use super::object::{Object, Parcel, Tenant};
use super::{Coding, FaultKind};
use crate::BlockKey;
use std::sync::Arc;

/// Bytes before those of the object.
pub const HEADER: usize = 128;
const HEAD: usize = 96;
const MAGIC: &[u8; 8] = b"CACHOBJ\x01";
const VERSION: u32 = 1;

/// Bytes at rest of an object of `len` bytes.
pub fn size(len: usize) -> u64 {
    (HEADER + len) as u64
}

/// The header without its digest.
pub(super) fn head(object: &Object, coding: [u8; 8]) -> [u8; HEAD] {
    head_of(&object.tenant, &object.key, object.bytes.len() as u64, coding)
}

fn head_of(tenant: &Tenant, key: &BlockKey, len: u64, coding: [u8; 8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[16..24].copy_from_slice(&len.to_le_bytes());
    head[24..32].copy_from_slice(&coding);
    head[32..64].copy_from_slice(&tenant.0);
    head[64..].copy_from_slice(&key.0);
    head
}

pub(super) fn digest(head: &[u8; HEAD], bytes: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new_derive_key("cachalot object v1").update(head).update(bytes).finalize().as_bytes()
}

/// What tells the bytes of one coding from those of another.
fn tag(coding: Option<&dyn Coding>) -> [u8; 8] {
    let mut tag = [0; 8];
    if let Some(coding) = coding {
        tag.copy_from_slice(&blake3::hash(coding.name().as_bytes()).as_bytes()[..8]);
    }
    tag
}

/// Header and bytes, to be written one after the other.
pub struct Sealed {
    /// See the module.
    pub header: [u8; HEADER],
    /// What follows it.
    pub bytes: Arc<[u8]>,
}

/// The parcel as it is written at rest.
///
/// # Errors
/// What is wrong: bytes that decayed since they were sealed, or that the coding does not take.
pub fn seal(parcel: &Parcel, coding: Option<&dyn Coding>) -> Result<Sealed, (FaultKind, String)> {
    let object = parcel.object();
    let (head, digest, bytes) = match coding {
        None => (head(object, [0; 8]), parcel.digest(), Arc::clone(&object.bytes)),
        Some(with) => {
            if !parcel.is_whole() {
                return Err((FaultKind::Corrupt, "bytes changed in memory".to_owned()));
            }
            let coded: Arc<[u8]> = with.encode(&object.bytes).map_err(|e| (FaultKind::Io, e.to_string()))?.into();
            let head = head_of(&object.tenant, &object.key, coded.len() as u64, tag(coding));
            (head, digest(&head, &coded), coded)
        }
    };
    let mut header = [0; HEADER];
    header[..HEAD].copy_from_slice(&head);
    header[HEAD..].copy_from_slice(&digest);
    Ok(Sealed { header, bytes })
}

/// The parcel that was written, where these are its bytes, all of them, and nothing else.
///
/// # Errors
/// What is wrong.
pub fn open(
    tenant: Tenant,
    key: BlockKey,
    stored: &[u8],
    coding: Option<&dyn Coding>,
) -> Result<Parcel, (FaultKind, String)> {
    let corrupt = |what: &str| Err((FaultKind::Corrupt, what.to_owned()));
    let Some((header, bytes)) = stored.split_at_checked(HEADER) else {
        return Err((FaultKind::Short, format!("{} bytes, fewer than a header", stored.len())));
    };
    let mut len = [0; 8];
    len.copy_from_slice(&header[16..24]);
    let len = u64::from_le_bytes(len);
    if header[..8] != MAGIC[..] {
        return corrupt("no object of a tier");
    }
    if header[8..12] != VERSION.to_le_bytes() {
        return corrupt("another version");
    }
    if (bytes.len() as u64) < len {
        return Err((FaultKind::Short, format!("{} of {len} bytes", bytes.len())));
    }
    if header[24..32] != tag(coding) {
        return corrupt("written by another codec");
    }
    // All fields of the header are known now, so one comparison with what must stand there covers them and the zeros.
    let head = head_of(&tenant, &key, bytes.len() as u64, tag(coding));
    if header[..HEAD] != head {
        return corrupt("header of another object");
    }
    let digest = digest(&head, bytes);
    if header[HEAD..] != digest {
        return corrupt("digest differs");
    }
    match coding {
        None => Ok(Parcel::sealed(Object { key, tenant, bytes: bytes.into() }, digest)),
        Some(coding) => match coding.decode(bytes) {
            Ok(bytes) => Ok(Parcel::new(Object { key, tenant, bytes: bytes.into() })),
            Err(error) => corrupt(&error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel() -> Parcel {
        Parcel::new(Object { key: BlockKey([3; 32]), tenant: Tenant::named("a"), bytes: (0..200u8).collect() })
    }

    fn written() -> Vec<u8> {
        let sealed = seal(&parcel(), None).unwrap();
        [&sealed.header[..], &sealed.bytes].concat()
    }

    #[test]
    fn what_was_sealed_opens_and_says_the_size_it_takes() {
        let stored = written();
        assert_eq!(stored.len() as u64, parcel().size());
        let back = open(Tenant::named("a"), BlockKey([3; 32]), &stored, None).unwrap();
        assert_eq!(back.object(), parcel().object());
        assert!(back.is_whole());
    }

    #[test]
    fn every_flipped_bit_and_every_other_length_is_seen() {
        let stored = written();
        let read = |bytes: &[u8]| open(Tenant::named("a"), BlockKey([3; 32]), bytes, None);
        for bit in 0..stored.len() * 8 {
            let mut bytes = stored.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..stored.len() {
            assert!(matches!(read(&stored[..len]), Err((FaultKind::Short, _))), "length {len}");
        }
        assert!(read(&[&stored[..], &[0]].concat()).is_err());
    }

    #[test]
    fn another_name_tenant_or_coding_is_another_object() {
        let stored = written();
        assert!(open(Tenant::named("b"), BlockKey([3; 32]), &stored, None).is_err());
        assert!(open(Tenant::named("a"), BlockKey([4; 32]), &stored, None).is_err());
        assert!(open(Tenant::named("a"), BlockKey([3; 32]), &stored, Some(&Backwards)).is_err());
    }

    #[test]
    fn a_parcel_that_changed_in_memory_is_not_whole_and_gets_no_new_seal() {
        let digest = parcel().digest();
        let mut object = parcel().object().clone();
        object.bytes = object.bytes.iter().map(|byte| byte ^ 1).collect();
        let changed = Parcel::sealed(object, digest);
        assert!(!changed.is_whole());
        assert!(seal(&changed, Some(&Backwards)).is_err());
        let sealed = seal(&changed, None).unwrap();
        let stored = [&sealed.header[..], &sealed.bytes].concat();
        assert!(open(Tenant::named("a"), BlockKey([3; 32]), &stored, None).is_err());
    }

    #[test]
    fn a_coding_is_undone() {
        let sealed = seal(&parcel(), Some(&Backwards)).unwrap();
        assert_ne!(sealed.bytes, parcel().object().bytes);
        let stored = [&sealed.header[..], &sealed.bytes].concat();
        let back = open(Tenant::named("a"), BlockKey([3; 32]), &stored, Some(&Backwards)).unwrap();
        assert_eq!(back.object(), parcel().object());
    }

    struct Backwards;

    impl Coding for Backwards {
        fn name(&self) -> &str {
            "backwards"
        }

        fn most(&self, len: usize) -> usize {
            len + 1
        }

        fn encode(&self, bytes: &[u8]) -> Result<Vec<u8>, crate::StoreError> {
            Ok(bytes.iter().rev().copied().collect())
        }

        fn decode(&self, coded: &[u8]) -> Result<Vec<u8>, crate::StoreError> {
            self.encode(coded)
        }
    }
}
