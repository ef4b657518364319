//! Names of requests.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Sixteen hexadecimal digits, different for every call and unlike those of another process.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Keyed by the system's randomness once; a hash of a counter under a fixed key does not repeat in practice.
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = KEY.get_or_init(RandomState::new).build_hasher();
    hasher.write_u64(NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{:016x}", hasher.finish())
}

/// The id that belongs to a request: the client's own if it is harmless in logs and headers, a new one otherwise.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub String);

impl RequestId {
    pub fn choose(sent: Option<&axum::http::HeaderValue>) -> RequestId {
        let harmless = |s: &&str| {
            (1..=64).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match sent.and_then(|v| v.to_str().ok()).filter(harmless) {
            Some(id) => RequestId(id.to_string()),
            None => RequestId(format!("req-{}", unique())),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
