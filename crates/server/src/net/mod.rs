//! Listening, connections and the end of the server.
//!
//! hyper is driven directly, for three things that a plain `axum::serve` does not give: a bound on the time a request head
//! may take, a bound on open connections that a crowd of idle clients cannot use up, and a bound on how long a client may
//! leave its answer unread.
//!
//! A client that closes its sending half is taken for gone, and its generation is cancelled: that is how a disconnect
//! looks before something is written to it, and a long prefill writes nothing.

mod connections;
mod stall;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use cachalot_engine::EngineHandle;
use cachalot_model::Loaded;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service as _;

use crate::backend::Backend;
use crate::config::ServerConfig;
use crate::engine_backend::EngineBackend;
use crate::state::{AppState, Phase};
use connections::{Answering, Connections, Slot};
use stall::StallGuard;

/// Connections that may wait to be accepted; a thousand at once must not see a refusal.
const BACKLOG: u32 = 4096;
/// How long cancelled answers get to tell their clients so.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often samples of histograms are moved into their buckets; they pile up where nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Nothing can listen there.
    #[error("cannot listen on {host}:{port}: {source}; choose another --host or --port")]
    Bind {
        /// Host as configured.
        host: String,
        /// Port as configured.
        port: u16,
        /// The system's words.
        #[source]
        source: std::io::Error,
    },
}

/// Serve a loaded model through a running engine until `shutdown` is complete; see [`Server`] for more control, such as
/// knowing the port that was taken.
///
/// # Errors
/// As [`Server::bind`].
pub async fn serve(
    config: ServerConfig,
    handle: EngineHandle,
    loaded: Arc<Loaded>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let backend = Arc::new(EngineBackend::new(&config, handle, loaded));
    let server = Server::bind(config, backend).await?;
    tracing::info!(address = %server.local_addr(), "serving");
    server.run(shutdown).await;
    Ok(())
}

/// A server that listens, and serves once it is run.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    config: ServerConfig,
    phase: watch::Sender<Phase>,
}

impl Server {
    /// Listen on the configured address. From here on connections are held by the system until [`Server::run`].
    ///
    /// # Errors
    /// [`ServerError::Bind`] when the name does not resolve or the address is taken.
    pub async fn bind(config: ServerConfig, backend: Arc<dyn Backend>) -> Result<Server, ServerError> {
        let failed = |source| ServerError::Bind { host: config.host.clone(), port: config.port, source };
        let listener = listen(&config.host, config.port).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (phase, seen) = watch::channel(Phase::Running);
        let router = crate::router(AppState::with_phase(config.clone(), backend, seen));
        Ok(Server { listener, address, router, config, phase })
    }

    /// Where the server listens; the port is the real one where 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serve until `shutdown` is complete. Then no connection is accepted, running answers have the grace period to
    /// finish, what is left after it is told so and ended.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Server { listener, router, config, phase, .. } = self;
        let connections = Arc::new(Connections::new(config.max_connections));
        let serving = Serving { router, config: Arc::new(config), phase: phase.subscribe() };
        let mut tasks = JoinSet::new();
        let metrics = crate::metrics::recorder();
        let mut upkeep = tokio::time::interval(UPKEEP);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                // Only to let go of finished tasks.
                Some(_) = tasks.join_next() => {}
                _ = upkeep.tick() => if let Some(metrics) = &metrics { metrics.run_upkeep() },
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => match connections.admit() {
                        Some(slot) => { tasks.spawn(serving.clone().connection(stream, slot)); }
                        None => { tasks.spawn(refuse(stream)); }
                    },
                    Err(error) => {
                        // Usually no file descriptors are left. Some come back when connections end; spinning would not help.
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
        drop(listener);
        tracing::info!(open = connections.len(), "shutting down");
        let _ = phase.send(Phase::Draining);
        if !finished(&mut tasks, serving.config.grace).await {
            tracing::warn!(open = connections.len(), "the grace period is over, cancelling");
            let _ = phase.send(Phase::Cancelling);
            finished(&mut tasks, LAST_WORDS).await;
        }
        let _ = phase.send(Phase::Aborting);
        tasks.shutdown().await;
    }
}

async fn listen(host: &str, port: u16) -> std::io::Result<TcpListener> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, port)).await? {
        let bound = || {
            let socket = match address {
                SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
            };
            // A restarted server need not wait for the connections of the one before to be forgotten.
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        match bound() {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether all tasks ended within `time`.
async fn finished(tasks: &mut JoinSet<()>, time: Duration) -> bool {
    tokio::time::timeout(time, async { while tasks.join_next().await.is_some() {} }).await.is_ok()
}

/// Tell a client that there is no room for it.
async fn refuse(stream: TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let error = crate::ApiError::unavailable("overloaded", "The server has too many open connections.", 1);
    let body = error.body().to_string();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = stream;
    let _ = tokio::time::timeout(Duration::from_millis(500), async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with the request unread would reset the connection, and the answer with it.
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    })
    .await;
}

#[derive(Clone)]
struct Serving {
    router: Router,
    config: Arc<ServerConfig>,
    phase: watch::Receiver<Phase>,
}

impl Serving {
    async fn connection(mut self, stream: TcpStream, slot: Slot) {
        // Tokens are small and must not wait for more of them.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(StallGuard::new(stream, self.config.write_timeout));
        let state = slot.state();
        let router = self.router;
        let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let answering = Answering::begin(&state);
            let answer = router.clone().call(request.map(Body::new));
            async move { answer.await.map(|response| response.map(|body| answering.until_sent(body))) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_timeout)
            .max_buf_size(64 << 10)
            .serve_connection(io, service);
        tokio::pin!(connection);
        loop {
            let phase = *self.phase.borrow_and_update();
            match phase {
                Phase::Running => {}
                Phase::Aborting => return,
                Phase::Draining | Phase::Cancelling => connection.as_mut().graceful_shutdown(),
            }
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = slot.evicted() => return,
                changed = self.phase.changed() => if changed.is_err() { return },
            }
        }
    }
}
