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

/// The accepted keys, as hashes: comparing those takes the same time whatever the key and wherever it differs.
pub struct Keys(Vec<blake3::Hash>);

impl Keys {
    /// Accept each of `keys`; with none, accept everybody.
    pub fn new(keys: &[String]) -> Keys {
        Keys(keys.iter().map(|k| blake3::hash(k.as_bytes())).collect())
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
        match self.0.iter().fold(false, |found, key| found | (*key == sent)) {
            true => Ok(Tenant(tenant_of_key(key))),
            false => Err(ApiError::unauthorized("Incorrect API key provided.")),
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
