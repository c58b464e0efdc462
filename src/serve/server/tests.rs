//! Listeners, limits and the end of serving, over real sockets.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::serve::caller::Peer;
use crate::serve::fixture::Fixture;

struct Running {
    address: SocketAddr,
    socket: PathBuf,
    cancel: CancellationToken,
    task: JoinHandle<()>,
    _root: tempfile::TempDir,
}

async fn run(router: Router) -> Running {
    run_with(router, Limits::default()).await
}

async fn run_with(router: Router, limits: Limits) -> Running {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("s");
    let listen = Listen { http: Some("127.0.0.1:0".into()), socket: Some(socket.clone()), token_file: None };
    let server = Server::bind(&listen, "node").await.unwrap();
    let (address, cancel) = (server.address().unwrap(), CancellationToken::new());
    assert_eq!(server.socket().unwrap(), socket);
    let until = cancel.clone();
    let task = tokio::spawn(async move { serve_on(Connections::new(router, limits), server, &until).await });
    Running { address, socket, cancel, task, _root: root }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

use tokio::io::{AsyncRead, AsyncWrite};

async fn whoami(axum::Extension(peer): axum::Extension<Peer>) -> String {
    format!("{peer:?}")
}

#[tokio::test]
async fn hundreds_may_come_at_one_moment() {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let listen = Listen { http: Some("127.0.0.1:0".into()), socket: None, token_file: None };
    let server = Server::bind(&listen, "node").await.unwrap();
    // None is accepted; who found the queue full would be asked to come again a second later, and again.
    let connect = || tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(server.address().unwrap()));
    let mut waiting = Vec::new();
    for _ in 0..400.min(most) {
        waiting.push(connect().await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn both_listeners_know_their_peers() {
    let server = run(Router::new().route("/", get(whoami))).await;
    let over_tcp = exchange(TcpStream::connect(server.address).await.unwrap(), "/").await;
    assert!(over_tcp.contains("Tcp(127.0.0.1:"), "{over_tcp}");
    let over_unix = exchange(UnixStream::connect(&server.socket).await.unwrap(), "/").await;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert!(over_unix.contains(&format!("Unix {{ uid: {uid}, gid: {gid}, outside: false }}")), "{over_unix}");
    server.cancel.cancel();
    server.task.await.unwrap();
    assert!(!server.socket.exists(), "the socket goes with the daemon");
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn files_come_over_a_kept_connection() {
    let fixture = Fixture::new();
    let server = run(fixture.router()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let path = "/v1/artifacts/thing/versions/v1/files/hello.txt";
    let kept = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(kept.as_bytes()).await.unwrap();
    let mut first = Vec::new();
    while !first.ends_with(b"hello, world\n") {
        assert_ne!(stream.read_buf(&mut first).await.unwrap(), 0, "closed early");
    }
    let second = exchange(stream, path).await;
    assert!(second.starts_with("HTTP/1.1 200 OK") && second.ends_with("hello, world\n"), "{second}");
    server.cancel.cancel();
    server.task.await.unwrap();
}

#[tokio::test]
async fn shutdown_finishes_what_is_in_flight_and_takes_nothing_new() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = {
        let (begun, go_on) = (begun.clone(), go_on.clone());
        async move || {
            begun.notify_one();
            go_on.notified().await;
            "finished"
        }
    };
    let server = run(Router::new().route("/slow", get(slow))).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    let stream = UnixStream::connect(&server.socket).await.unwrap();
    let answer = tokio::spawn(exchange(stream, "/slow"));
    begun.notified().await;
    server.cancel.cancel();
    while server.socket.exists() {
        tokio::task::yield_now().await;
    }
    assert!(!server.task.is_finished());
    go_on.notify_one();
    assert!(answer.await.unwrap().ends_with("finished"));
    server.task.await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn what_outstays_the_drain_is_ended() {
    let begun = Arc::new(Notify::new());
    let never = {
        let begun = begun.clone();
        async move || {
            begun.notify_one();
            std::future::pending::<()>().await;
        }
    };
    let limits = Limits { drain_time: Duration::from_millis(1), ..Limits::default() };
    let server = run_with(Router::new().route("/never", get(never)), limits).await;
    let answer = tokio::spawn(exchange(TcpStream::connect(server.address).await.unwrap(), "/never"));
    begun.notified().await;
    server.cancel.cancel();
    server.task.await.unwrap();
    assert_eq!(answer.await.unwrap(), "");
}

#[tokio::test]
async fn a_taken_address_is_refused_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = Some(taken.local_addr().unwrap().to_string());
    let listen = Listen { http, socket: None, token_file: None };
    let error = Server::bind(&listen, "node").await.unwrap_err();
    assert!(error.to_string().contains("listen.http"), "{error}");
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed() {
    let limits = Limits { head_time: Duration::from_millis(10), ..Limits::default() };
    let server = run_with(Router::new().route("/", get(whoami)), limits).await;
    for half in ["", "GET / HTT"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        // Ends because the server closes, however it does.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    server.cancel.cancel();
    server.task.await.unwrap();
}

#[tokio::test]
async fn connections_over_the_cap_wait_their_turn() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let busy = {
        let (now, most) = (now.clone(), most.clone());
        async move || {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            now.fetch_sub(1, SeqCst);
            "done"
        }
    };
    let limits = Limits { connections: 2, ..Limits::default() };
    let server = run_with(Router::new().route("/", get(busy)), limits).await;
    let address = server.address;
    let asks: Vec<_> = (0..10)
        .map(|_| tokio::spawn(async move { exchange(TcpStream::connect(address).await.unwrap(), "/").await }))
        .collect();
    for ask in asks {
        assert!(ask.await.unwrap().ends_with("done"));
    }
    assert!(most.load(SeqCst) <= 2);
    server.cancel.cancel();
    server.task.await.unwrap();
}
