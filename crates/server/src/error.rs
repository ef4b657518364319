//! Errors in the shape OpenAI's clients expect: `{"error": {"message", "type", "param", "code"}}`.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What a client is told when its request cannot be answered.
///
/// `message` is written for a person: it names the thing, the place and the mend. `param` is the path of the field that
/// is to blame (`messages[1].content`), `code` a stable word for programs.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP status of the response.
    pub status: StatusCode,
    /// OpenAI's error family, for example `invalid_request_error`.
    pub kind: &'static str,
    /// Text for a person.
    pub message: String,
    /// The field of the request that is to blame.
    pub param: Option<String>,
    /// Stable word for programs.
    pub code: Option<&'static str>,
    /// Seconds after which trying again makes sense (`Retry-After`).
    pub retry_after: Option<u32>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        ApiError { status, kind, message: message.into(), param: None, code, retry_after: None }
    }

    /// 400: the value of one field is not acceptable.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut e = Self::bad_request("invalid_value", message);
        e.param = Some(param.into());
        e
    }

    /// 400: one field has the wrong JSON type.
    pub fn wrong_type(param: impl Into<String>, expected: &str, found: &Value) -> Self {
        let param = param.into();
        let mut e = Self::bad_request(
            "invalid_type",
            format!("Invalid type for '{param}': expected {expected}, found {}.", type_name(found)),
        );
        e.param = Some(param);
        e
    }

    /// 400: a required field is absent.
    pub fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let mut e = Self::bad_request("missing_required_parameter", format!("Missing required parameter: '{param}'."));
        e.param = Some(param);
        e
    }

    /// 400: the server knows what is asked for and does not do it.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut e = Self::bad_request("unsupported_value", message);
        e.param = Some(param.into());
        e
    }

    /// 400 without a field.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some(code), message)
    }

    /// 401: no key, or a wrong one.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    /// 404: no such route.
    pub fn unknown_route(method: &str, path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("unknown_url"),
            format!("Unknown request URL: {method} {path}. GET / lists what this server answers."),
        )
    }

    /// 404: the request names a model that is not served here.
    pub fn model_not_found(asked: &str, served: &str) -> Self {
        let mut e = Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("model_not_found"),
            format!("The model '{}' is not served here; this server has '{served}'.", shorten(asked)),
        );
        e.param = Some("model".into());
        e
    }

    /// 405: the route exists, with another method.
    pub fn method_not_allowed(method: &str, path: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            Some("method_not_allowed"),
            format!("{method} is not allowed on {path}; the Allow header names what is."),
        )
    }

    /// 409: everything that belongs to the API key is being deleted.
    pub fn tenant_deleted(message: impl Into<String>) -> Self {
        let code = Some("tenant_deleted");
        let e = Self::new(StatusCode::CONFLICT, "invalid_request_error", code, message);
        ApiError { retry_after: Some(1), ..e }
    }

    /// 408: the client did not send its body in time.
    pub fn body_timeout(seconds: f64) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            Some("body_timeout"),
            format!("The request body did not arrive within {seconds} seconds."),
        )
    }

    /// 413: the body is larger than the server reads.
    pub fn body_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("body_too_large"),
            format!("The request body is larger than the {limit} bytes this server accepts."),
        )
    }

    /// 413: the prompt does not fit into the context.
    pub fn context_length(param: &str, prompt: usize, context: usize) -> Self {
        let mut e = Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("context_length_exceeded"),
            format!(
                "The prompt has {prompt} tokens, but this server's context is {context} tokens and at least one of them \
                 is needed for the answer. Shorten the prompt by at least {} tokens.",
                (prompt + 1).saturating_sub(context)
            ),
        );
        e.param = Some(param.into());
        e
    }

    /// 415: the body is not declared as JSON.
    pub fn unsupported_media(found: Option<&str>) -> Self {
        let found = match found {
            Some(f) => format!("Content-Type '{}'", shorten(f)),
            None => "no Content-Type".to_string(),
        };
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            Some("unsupported_media_type"),
            format!("The request has {found}; send JSON with Content-Type: application/json."),
        )
    }

    /// 429: the queue is full.
    pub fn queue_full(message: impl Into<String>, retry_after: u32) -> Self {
        let mut e = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"), message);
        e.retry_after = Some(retry_after);
        e
    }

    /// 500: our fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error"), message)
    }

    /// 503: the server is going away or has no room at the moment.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after: u32) -> Self {
        let mut e = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some(code), message);
        e.retry_after = Some(retry_after);
        e
    }

    /// 503: the server is shutting down.
    pub fn shutting_down() -> Self {
        Self::unavailable("shutting_down", "The server is shutting down.", 5)
    }

    /// 504: the answer was not finished within the server's request timeout.
    pub fn timeout(seconds: f64) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "server_error",
            Some("timeout"),
            format!(
                "The answer was not finished within this server's request timeout of {seconds} seconds. Ask for fewer \
                 tokens, or raise the timeout where the server is started."
            ),
        )
    }

    /// The JSON body of the response, also sent as the last event of a stream that fails.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status.as_u16(), self.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(s) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(s));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::GATEWAY_TIMEOUT {
            // OpenAI's clients retry every 5xx; an answer that took too long once will take too long again.
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        if self.status == StatusCode::PAYLOAD_TOO_LARGE || self.status == StatusCode::REQUEST_TIMEOUT {
            // What is left of the body will not be read, so the connection cannot carry another request.
            if self.code != Some("context_length_exceeded") {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        response
    }
}

/// The JSON type of a value, with its article, as error messages say it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The first characters of text that came from outside, so that an error message stays short.
pub(crate) fn shorten(text: &str) -> String {
    const KEEP: usize = 80;
    if text.chars().nth(KEEP).is_none() {
        return text.to_string();
    }
    text.chars().take(KEEP).chain("...".chars()).collect()
}
