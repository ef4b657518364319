//! The real listener and raw sockets: clients that are slow, rude, gone, or very many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

mod support;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use cachalot_server::{Server, ServerConfig, ServerError};
use support::Fake;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Nothing here takes anywhere near this long; it only keeps a failing test from hanging.
const FOREVER: Duration = Duration::from_secs(60);

struct Running {
    address: SocketAddr,
    fake: Arc<Fake>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

async fn start(fake: Fake, config: ServerConfig) -> Running {
    let fake = Arc::new(fake);
    let server = Server::bind(ServerConfig { port: 0, ..config }, fake.clone()).await.unwrap();
    let address = server.local_addr();
    assert_ne!(address.port(), 0);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server.run(async { drop(stopped.await) }));
    Running { address, fake, stop, server }
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

const STREAMING: &str = r#"{"prompt": "hi", "stream": true}"#;

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads to the end of the connection.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        read_to_end(&mut stream).await
    }

    async fn healthy(&self) {
        let answer = self.exchange(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Waits until so many generations run.
    async fn live(&self, count: usize) {
        let reached = async {
            while self.fake.live.load(SeqCst) != count {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(FOREVER, reached).await.expect("the number of generations is not reached");
    }
}

/// What comes until the connection ends, also if it ends with a reset.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match timeout(FOREVER, stream.read(&mut piece)).await.expect("the server neither answers nor closes") {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => break,
            Err(e) => panic!("{e}"),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until `end` was seen.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = String::new();
    let mut piece = [0; 1024];
    while !all.contains(end) {
        let n = timeout(FOREVER, stream.read(&mut piece)).await.expect("nothing comes").unwrap();
        assert_ne!(n, 0, "closed after {all}");
        all += &String::from_utf8_lossy(&piece[..n]);
    }
    all
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let s = start(Fake::default(), ServerConfig::default()).await;
    let mut stream = s.connect().await;
    for body in [r#"{"prompt": "hi"}"#, r#"{"prompt": ""}"#, r#"{"prompt": "x", "stream": true}"#] {
        stream.write_all(post("/v1/completions", body).as_bytes()).await.unwrap();
        let end = if body.contains("stream") { "[DONE]\n\n\r\n0\r\n\r\n" } else { "}" };
        let answer = read_until(&mut stream, end).await;
        assert!(answer.starts_with(if body.contains("\"\"") { "HTTP/1.1 400" } else { "HTTP/1.1 200" }), "{answer}");
    }
    // Several at once, in one write.
    let three = post("/v1/completions", r#"{"prompt": "hi"}"#).repeat(3);
    stream.write_all(three.as_bytes()).await.unwrap();
    let mut answers = String::new();
    while answers.matches("Hello w").count() < 3 {
        answers += &read_until(&mut stream, "}").await;
    }
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3);
}

#[tokio::test]
async fn garbage_and_truncated_requests_do_no_harm() {
    let s = start(Fake::default(), ServerConfig::default()).await;
    let long_header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000));
    let garbage: Vec<&[u8]> = vec![
        b"\x00\x01\x02\x03\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello there\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-type: application/json\r\n\r\nzz\r\n",
        long_header.as_bytes(),
        many_headers.as_bytes(),
    ];
    for bytes in garbage {
        let mut stream = s.connect().await;
        // The server may close before it has taken in everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let answer = read_to_end(&mut stream).await;
        let first = answer.lines().next().unwrap_or_default();
        assert!(first.is_empty() || first.starts_with("HTTP/1.1 4"), "{first}");
    }
    // A body that is shorter than declared.
    let mut stream = s.connect().await;
    let head =
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n";
    stream.write_all(format!("{head}{{\"prompt\"").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    // A declared length beyond the limit is refused before the body comes.
    let huge = head.replace("99", "99999999999");
    let answer = s.exchange(huge.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"), "{answer}");
    s.healthy().await;
    assert!(s.fake.seen.lock().unwrap().is_empty(), "none of this reached the engine");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_generation() {
    let s =
        start(Fake { endless: true, pace: Duration::from_millis(1), ..Fake::default() }, ServerConfig::default()).await;
    // In the middle of a stream.
    let mut stream = s.connect().await;
    stream.write_all(post("/v1/completions", STREAMING).as_bytes()).await.unwrap();
    read_until(&mut stream, "on and on").await;
    s.live(1).await;
    drop(stream);
    s.live(0).await;
    // While waiting for a whole answer.
    let mut stream = s.connect().await;
    stream.write_all(post("/v1/completions", r#"{"prompt": "hi"}"#).as_bytes()).await.unwrap();
    s.live(1).await;
    drop(stream);
    s.live(0).await;
    // With a reset instead of a farewell.
    let mut stream = s.connect().await;
    stream.write_all(post("/v1/completions", STREAMING).as_bytes()).await.unwrap();
    s.live(1).await;
    #[allow(deprecated, reason = "a lingering time of zero does not block")]
    stream.set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    s.live(0).await;
    s.healthy().await;
}

#[tokio::test]
async fn a_client_that_goes_away_during_the_prefill_cancels_it() {
    let s = start(Fake { stuck: true, ..Fake::default() }, ServerConfig::default()).await;
    for body in [STREAMING, r#"{"prompt": "hi"}"#] {
        let mut stream = s.connect().await;
        stream.write_all(post("/v1/completions", body).as_bytes()).await.unwrap();
        s.live(1).await;
        drop(stream);
        s.live(0).await;
    }
}

#[tokio::test]
async fn a_half_closed_client_is_taken_for_gone_and_nobody_else_notices() {
    let s =
        start(Fake { endless: true, pace: Duration::from_millis(1), ..Fake::default() }, ServerConfig::default()).await;
    let mut other = s.connect().await;
    other.write_all(post("/v1/completions", STREAMING).as_bytes()).await.unwrap();
    s.live(1).await;
    let mut stream = s.connect().await;
    stream.write_all(post("/v1/completions", STREAMING).as_bytes()).await.unwrap();
    s.live(2).await;
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream).await;
    s.live(1).await;
    read_until(&mut other, "on and on").await;
    // Half closed before anything was said.
    let mut stream = s.connect().await;
    stream.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn a_reader_that_stops_is_given_up_and_holds_up_nobody() {
    let fake = Fake { endless: true, ..Fake::default() };
    let s = start(fake, ServerConfig { write_timeout: Duration::from_millis(300), ..ServerConfig::default() }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(s.address).await.unwrap();
    slow.write_all(post("/v1/completions", STREAMING).as_bytes()).await.unwrap();
    s.live(1).await;
    // It reads nothing, the buffers fill up; others are served meanwhile.
    for _ in 0..20 {
        s.healthy().await;
    }
    s.live(0).await;
    drop(slow);
}

#[tokio::test]
async fn slow_heads_and_bodies_are_cut_off() {
    let config = ServerConfig {
        header_timeout: Duration::from_millis(100),
        body_timeout: Duration::from_millis(100),
        ..ServerConfig::default()
    };
    let s = start(Fake::default(), config).await;
    let mut silent = s.connect().await;
    let mut head = s.connect().await;
    head.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
    let mut body = s.connect().await;
    let start = post("/v1/completions", STREAMING);
    body.write_all(&start.as_bytes()[..start.len() - 3]).await.unwrap();
    assert!(!read_to_end(&mut silent).await.contains("200 OK"));
    assert!(!read_to_end(&mut head).await.contains("200 OK"));
    assert!(read_to_end(&mut body).await.starts_with("HTTP/1.1 408"));
}

#[tokio::test]
async fn idle_connections_make_room_for_those_that_speak() {
    let s = start(Fake::default(), ServerConfig { max_connections: 20, ..ServerConfig::default() }).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut stream = s.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        idle.push(stream);
    }
    // Until then they may be about to speak.
    sleep(Duration::from_millis(1100)).await;
    for _ in 0..5 {
        s.healthy().await;
    }
    // The oldest of them was closed for that, the youngest was not.
    assert_eq!(read_to_end(&mut idle[0]).await, "");
    let last = idle.last_mut().unwrap();
    last.write_all(b"host: x\r\n\r\n").await.unwrap();
    assert!(read_until(last, "\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn where_all_are_busy_the_refusal_is_an_answer() {
    let fake = Fake { endless: true, pace: Duration::from_millis(1), ..Fake::default() };
    let s = start(fake, ServerConfig { max_connections: 2, ..ServerConfig::default() }).await;
    let mut busy = [s.connect().await, s.connect().await];
    for stream in &mut busy {
        stream.write_all(post("/v1/completions", STREAMING).as_bytes()).await.unwrap();
    }
    s.live(2).await;
    let refused = s.exchange(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
    let (_, body) = refused.split_once("\r\n\r\n").unwrap();
    assert_eq!(support::check_error(&serde_json::from_str(body).unwrap())["code"], "overloaded");
    drop(busy);
    s.live(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_at_once() {
    let s = Arc::new(start(Fake { pace: Duration::from_millis(2), ..Fake::default() }, ServerConfig::default()).await);
    let clients: Vec<_> = (0..1000)
        .map(|i| {
            let s = s.clone();
            tokio::spawn(async move {
                let body = if i % 2 == 0 { STREAMING } else { r#"{"prompt": "hi"}"# };
                let request = post("/v1/completions", body).replace("host: x", "host: x\r\nconnection: close");
                let mut stream = s.connect().await;
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = read_to_end(&mut stream).await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                assert_eq!(answer.contains("[DONE]"), i % 2 == 0);
                assert!(answer.contains(if i % 2 == 0 { " wörld" } else { "Hello wörld!" }), "{answer}");
            })
        })
        .collect();
    for client in clients {
        timeout(FOREVER, client).await.expect("a client waits for ever").unwrap();
    }
    assert_eq!(s.fake.seen.lock().unwrap().len(), 1000);
    s.live(0).await;
}

#[tokio::test]
async fn shutting_down_finishes_streams() {
    let fake = Fake { pace: Duration::from_millis(60), ..Fake::default() };
    let s = start(fake, ServerConfig::default()).await;
    let mut stream = s.connect().await;
    stream.write_all(post("/v1/completions", STREAMING).as_bytes()).await.unwrap();
    read_until(&mut stream, "Hel").await;
    let mut idle = s.connect().await;
    s.stop.send(()).unwrap();
    assert_eq!(read_to_end(&mut idle).await, "", "idle connections are closed at once");
    let rest = read_to_end(&mut stream).await;
    assert!(rest.contains("[DONE]"), "{rest}");
    timeout(FOREVER, s.server).await.unwrap().unwrap();
    assert!(TcpStream::connect(s.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn the_grace_period_ends() {
    let fake = Fake { endless: true, pace: Duration::from_millis(1), ..Fake::default() };
    let s = start(fake, ServerConfig { grace: Duration::from_millis(100), ..ServerConfig::default() }).await;
    let mut stream = s.connect().await;
    stream.write_all(post("/v1/completions", STREAMING).as_bytes()).await.unwrap();
    read_until(&mut stream, "on and on").await;
    s.stop.send(()).unwrap();
    let rest = read_to_end(&mut stream).await;
    assert!(rest.contains("\"code\":\"shutting_down\"") && !rest.contains("[DONE]"), "{rest}");
    timeout(FOREVER, s.server).await.unwrap().unwrap();
    assert_eq!(s.fake.live.load(SeqCst), 0);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let s = start(Fake::default(), ServerConfig::default()).await;
    let config = ServerConfig { port: s.address.port(), ..ServerConfig::default() };
    let error = Server::bind(config, s.fake.clone()).await.err().expect("taken");
    assert!(matches!(error, ServerError::Bind { .. }));
    assert!(error.to_string().contains(&s.address.to_string()), "{error}");
    let config = ServerConfig { host: "no.such.host.invalid".into(), ..ServerConfig::default() };
    assert!(Server::bind(config, s.fake.clone()).await.is_err());
}
