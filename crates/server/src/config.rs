//! Everything that can be set about the server itself.

use std::time::Duration;

use crate::auth::NamedKey;

/// Settings of the server; the engine and the model have their own. `ServerConfig::default()` serves on
/// `127.0.0.1:8080` to everybody who can reach that, which is this machine.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Host name or address to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one, see [`crate::Server::local_addr`].
    pub port: u16,
    /// Keys of which a request must carry one as `Authorization: Bearer KEY`. Empty: no key is asked for.
    pub api_keys: Vec<String>,
    /// More keys, with the names of tenants who have several.
    pub named_keys: Vec<NamedKey>,
    /// Web pages of these origins may call the server from a browser; `*` allows all. Empty: none.
    pub cors_origins: Vec<String>,
    /// Name under which the model is served; the loaded model's own name by default.
    pub model_id: Option<String>,
    /// Other names that requests may use for the same model.
    pub aliases: Vec<String>,
    /// The KV recipe that the cache was built with, as requests may name it.
    pub kv_recipe: String,
    /// Largest request body in bytes.
    pub body_limit: usize,
    /// Largest sum of all request bodies held at one moment, in bytes. A request beyond it is answered with 503.
    pub body_budget: usize,
    /// Longest time from a request's arrival to the end of its answer.
    pub request_timeout: Duration,
    /// Longest time for the head of a request, and longest idle time of a connection between two requests.
    pub header_timeout: Duration,
    /// Longest time for the body of a request.
    pub body_timeout: Duration,
    /// A client that accepts no byte for this long is given up, and its generation with it.
    pub write_timeout: Duration,
    /// Silence on a stream after which a comment is sent, so that proxies keep it open during a long prefill.
    pub keep_alive: Duration,
    /// Time that running answers are given to finish when the server shuts down.
    pub grace: Duration,
    /// Most open connections. Beyond it the longest idle one is closed, and if none is idle the new one gets a 503.
    pub max_connections: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            host: "127.0.0.1".into(),
            port: 8080,
            api_keys: Vec::new(),
            named_keys: Vec::new(),
            cors_origins: Vec::new(),
            model_id: None,
            aliases: Vec::new(),
            kv_recipe: "f16".into(),
            body_limit: 4 << 20,
            body_budget: 256 << 20,
            request_timeout: Duration::from_secs(3600),
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(10),
            grace: Duration::from_secs(30),
            max_connections: 4096,
        }
    }
}
