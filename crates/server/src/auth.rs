//! API keys.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use crate::error::ApiError;
use crate::state::AppState;

/// Whose a request is: the holder of its API key. Everybody is one where no key is asked for. What a tenant has computed is
/// never of use to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tenant(pub String);

impl Tenant {
    /// As [`require_key`] found it.
    pub(crate) fn of(request: &Request) -> Tenant {
        request.extensions().get::<Tenant>().cloned().unwrap_or_default()
    }
}

/// Whose the requests with an API key are: a name that tells keys apart and gives none away. Without keys it is the empty name.
pub fn tenant_of_key(key: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("cachalot tenant v1");
    hasher.update(key).finalize().to_hex()[..32].to_owned()
}

/// Whose the requests with the keys of a named tenant are: the same name for all of them, and no key's.
pub fn tenant_of_name(name: &str) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("cachalot named tenant v1");
    hasher.update(name.as_bytes()).finalize().to_hex()[..32].to_owned()
}

/// A key with the name of its tenant, who may have several; without one, a key is a tenant of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedKey {
    /// The tenant's name.
    pub tenant: Option<String>,
    /// The key.
    pub key: String,
}

/// A key has no business in a log.
impl std::fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamedKey").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// Keys of a file: `tenant:key` or `key` a line; empty lines and those that begin with `#` are nothing.
///
/// # Errors
/// Names the line that is none, or whose key is there already.
pub fn keys_of_file(text: &str) -> Result<Vec<NamedKey>, String> {
    let mut keys: Vec<NamedKey> = Vec::new();
    for (i, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (tenant, key) =
            line.split_once(':').map_or((None, line), |(tenant, key)| (Some(tenant.trim()), key.trim()));
        if key.is_empty() || tenant.is_some_and(str::is_empty) {
            return Err(format!("line {i} is neither `tenant:key` nor a key"));
        }
        if keys.iter().any(|known| known.key == key) {
            return Err(format!("the key of line {i} is there already"));
        }
        keys.push(NamedKey { tenant: tenant.map(str::to_owned), key: key.to_owned() });
    }
    Ok(keys)
}

/// The accepted keys, as hashes, with their tenants: comparing those takes the same time whatever the key and wherever it differs.
pub struct Keys(Vec<(blake3::Hash, String)>);

impl Keys {
    /// Accept each of these; with none at all, accept everybody.
    pub fn new(keys: &[String], named: &[NamedKey]) -> Keys {
        let own = |key: &str| (blake3::hash(key.as_bytes()), tenant_of_key(key.as_bytes()));
        let named = named.iter().map(|NamedKey { tenant, key }| match tenant {
            Some(name) => (blake3::hash(key.as_bytes()), tenant_of_name(name)),
            None => own(key),
        });
        Keys(keys.iter().map(|key| own(key)).chain(named).collect())
    }

    /// Whether the request may pass, and whose it is.
    ///
    /// # Errors
    /// 401 when no key was sent or a wrong one.
    pub fn check(&self, headers: &HeaderMap) -> Result<Tenant, ApiError> {
        if self.0.is_empty() {
            return Ok(Tenant::default());
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(ApiError::unauthorized(
                "You didn't provide an API key; send it in the header 'Authorization: Bearer KEY'.",
            ));
        };
        let value = value.as_bytes();
        let key = match value.split_at_checked(7) {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
            _ => return Err(ApiError::unauthorized("The Authorization header must be 'Bearer KEY'.")),
        };
        let sent = blake3::hash(key);
        // No early exit: every key is compared, and blake3 compares hashes in constant time.
        let found = self.0.iter().fold(None, |found, (key, tenant)| if *key == sent { Some(tenant) } else { found });
        match found {
            Some(tenant) => Ok(Tenant(tenant.clone())),
            None => Err(ApiError::unauthorized("Incorrect API key provided.")),
        }
    }
}

/// Lets `/` and `/health` through and asks for a key everywhere else, unknown routes included.
pub(crate) async fn require_key(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !matches!(request.uri().path(), "/" | "/health") {
        let tenant = state.keys.check(request.headers())?;
        request.extensions_mut().insert(tenant);
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_name_are_one_tenant_and_no_other() {
        let text = "# staff\n\nbank: sk-a\nbank:sk-b\n shop:sk-c\nsk-d\n";
        let keys = Keys::new(&["sk-e".to_owned()], &keys_of_file(text).unwrap());
        let of = |key: &str| {
            let headers = [(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap())].into_iter().collect();
            keys.check(&headers).map(|tenant| tenant.0)
        };
        assert_eq!(of("sk-a").unwrap(), of("sk-b").unwrap());
        let others = ["sk-a", "sk-c", "sk-d", "sk-e"].map(|key| of(key).unwrap());
        assert_eq!(others.iter().collect::<std::collections::HashSet<_>>().len(), 4);
        assert_eq!(others[2], tenant_of_key(b"sk-d"));
        assert!(of("bank:sk-a").is_err() && of("bank").is_err() && of("").is_err());
        // A tenant's name is nobody's key.
        assert_ne!(tenant_of_name("sk-d"), tenant_of_key(b"sk-d"));
    }

    #[test]
    fn files_of_keys_that_cannot_be_meant_are_refused() {
        for (text, line) in [("a:", "line 1"), ("b\n:key", "line 2"), ("a:k\n\nb:k", "line 3"), ("k\na:k", "line 2")] {
            assert!(keys_of_file(text).unwrap_err().contains(line), "{text:?}");
        }
        assert_eq!(keys_of_file("# none\n").unwrap(), []);
    }
}
