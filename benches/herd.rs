//! 10,000 clients that ask at once for an artifact that is not on the node yet: waiting for it and seeding it, over TCP
//! and the Unix socket. Prints what the origin was asked, how often it was unpacked, and the daemon's peak memory.
//! `cargo bench --bench herd [-- CLIENTS]`
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench looks at the disk from outside, and fails by panicking"
)]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// What the daemon may take at most.
const MOST_MEMORY_KIB: u64 = 256 * 1024;
/// Bytes of the file in the artifact.
const SIZE: usize = 50_000_000;
/// How long all of it may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(300);
/// Every so many clients one has the declared target seeded; the others wait for the artifact.
const SEEDERS: usize = 10;
/// The wait of a client that found the socket's queue full, as a blocking one would.
const BREATH: Duration = Duration::from_millis(10);

fn main() {
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let clients: usize = asked.unwrap_or(10_000);
    allow_descriptors(clients as u64 + 1_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let herd = async { tokio::time::timeout(PATIENCE, herd(dir.path(), clients)).await.expect("all within the time") };
    runtime.block_on(herd);
}

/// For this process and the daemon, which inherits the limit.
fn allow_descriptors(wanted: u64) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    assert!(maximum.is_none_or(|most| most >= wanted), "the limit of open files is below {wanted}; raise it");
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// An origin of one archive, whose bytes come once the gate is open.
struct Origin {
    address: SocketAddr,
    gets: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
}

async fn origin(archive: Arc<Vec<u8>>) -> Origin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (gets, (open, gate)) = (Arc::new(AtomicUsize::new(0)), watch::channel(false));
    let count = gets.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, archive.clone(), count.clone(), gate.clone()));
        }
    });
    Origin { address, gets, open }
}

async fn answer(
    mut stream: TcpStream,
    archive: Arc<Vec<u8>>,
    gets: Arc<AtomicUsize>,
    mut gate: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let is_get = head.starts_with(b"GET ");
    gets.fetch_add(usize::from(is_get), Relaxed);
    let length = archive.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).await?;
    if is_get {
        stream.write_all(&archive[..4096]).await?;
        let _ = gate.wait_for(|open| *open).await;
        stream.write_all(&archive[4096..]).await?;
    }
    stream.shutdown().await
}

/// A tar archive of one file.
fn archive(dir: &Path) -> Vec<u8> {
    let made = dir.join("made");
    fs::create_dir(&made).unwrap();
    let mut number = 7u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (number >> 24) as u8
    })
    .take(SIZE)
    .collect();
    fs::write(made.join("file"), bytes).unwrap();
    let tar = Command::new("tar").arg("-C").arg(&made).args(["-c", "file"]).output().unwrap();
    assert!(tar.status.success());
    tar.stdout
}

async fn herd(dir: &Path, clients: usize) {
    let origin = origin(Arc::new(archive(dir))).await;
    let config = dir.join("config");
    fs::create_dir(&config).unwrap();
    let document = format!(
        "apiVersion: seedcache.dev/v1alpha1\nkind: Artifact\nmetadata: {{name: app}}\nspec:\n  version: v1\n  \
         source: {{http: {{url: 'http://{}/{{version}}.tar'}}}}\n  seeds: [{{target: boot/app}}]\n",
        origin.address
    );
    fs::write(config.join("app.yaml"), document).unwrap();
    // The archive stands still until all have come.
    fs::write(config.join("seedcache.yaml"), "fetch: {stallTimeout: 10m}\nlog: {format: json}\n").unwrap();
    let socket = dir.join("s.sock");
    let mut daemon = start(dir, &config, &socket);
    let address = listening(dir, &socket).await;
    println!("{:<56} {:>8.1} MiB", "memory of the daemon before", memory(&daemon, "VmRSS") as f64 / 1024.0);

    let from = Instant::now();
    let sent = Arc::new(AtomicUsize::new(0));
    let mut herd = tokio::task::JoinSet::new();
    for number in 0..clients {
        herd.spawn(client(number, address, socket.clone(), sent.clone()));
    }
    while sent.load(Relaxed) < clients {
        sleep(BREATH).await;
    }
    println!("{:<56} {:>8} ms", format!("{clients} clients asked within"), from.elapsed().as_millis());
    while in_flight(address).await < clients {
        sleep(BREATH).await;
    }
    println!("{:<56} {:>8} ms", "all of them waiting, others served within", from.elapsed().as_millis());
    println!("{:<56} {:>8.1} MiB", "memory of the daemon then", memory(&daemon, "VmRSS") as f64 / 1024.0);
    let from = Instant::now();
    origin.open.send_replace(true);
    let answers = herd.join_all().await;
    println!("{:<56} {:>8} ms", "from the archive's bytes to the last answer", from.elapsed().as_millis());
    let failed: Vec<&String> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} failed, the first: {}", failed.len(), failed[0]);
    let log = fs::read_to_string(dir.join("log")).unwrap();
    let unpacked = log.matches("\"version published\"").count();
    println!("{:<56} {:>8}", "clients that got what they asked for", answers.len());
    println!("{:<56} {:>8}", "GETs at the origin", origin.gets.load(Relaxed));
    println!("{:<56} {:>8}", "versions unpacked and published", unpacked);
    let peak = memory(&daemon, "VmHWM");
    let within = if peak < MOST_MEMORY_KIB { "within" } else { "OVER" };
    println!("{:<56} {:>8.1} MiB   {within} 256 MiB", "peak memory of the daemon", peak as f64 / 1024.0);
    assert_eq!((origin.gets.load(Relaxed), unpacked), (1, 1));
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
}

/// Asks once and reads the answer; what it is, if not that all is there.
async fn client(
    number: usize,
    address: SocketAddr,
    socket: std::path::PathBuf,
    sent: Arc<AtomicUsize>,
) -> Result<(), String> {
    let (method, path, body) = match number % SEEDERS {
        0 => ("POST", "seed", r#"{"target": "boot/app", "wait": "10m"}"#),
        _ => ("GET", "wait?timeout=10m", ""),
    };
    let length = body.len();
    let question = format!(
        "{method} /v1/artifacts/app/{path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    // Seeders too come over both.
    let answered = if (number / SEEDERS + number).is_multiple_of(2) {
        match TcpStream::connect(address).await {
            Ok(stream) => ask(stream, &question, &sent).await,
            Err(error) => Err(error),
        }
    } else {
        match connect(&socket).await {
            Ok(stream) => ask(stream, &question, &sent).await,
            Err(error) => Err(error),
        }
    };
    let answer = answered.map_err(|error| format!("client {number}: {error}"))?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"v1\"") { Ok(()) } else { Err(answer) }
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BREATH).await,
            other => return other,
        }
    }
}

async fn ask(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    question: &str,
    sent: &AtomicUsize,
) -> io::Result<String> {
    stream.write_all(question.as_bytes()).await?;
    sent.fetch_add(1, Relaxed);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Requests that the daemon is working on, this one aside.
async fn in_flight(address: SocketAddr) -> usize {
    let stream = TcpStream::connect(address).await.unwrap();
    let question = "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
    let answer = ask(stream, question, &AtomicUsize::new(0)).await.unwrap();
    let mut lines = answer.lines().filter_map(|line| line.strip_prefix("seedcache_http_requests_in_flight "));
    lines.next().and_then(|number| number.parse::<usize>().ok()).map_or(0, |number| number.saturating_sub(1))
}

fn start(dir: &Path, config: &Path, socket: &Path) -> Child {
    let log = fs::File::create(dir.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_seedcache"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(config);
    command.arg("--root").arg(dir.join("root")).arg("--socket").arg(socket);
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Waits until the daemon downloads, and finds its TCP address in its log.
async fn listening(dir: &Path, socket: &Path) -> SocketAddr {
    loop {
        sleep(BREATH).await;
        let Ok(stream) = UnixStream::connect(socket).await else { continue };
        let question = "GET /v1/artifacts/app HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
        let Ok(answer) = ask(stream, question, &AtomicUsize::new(0)).await else { continue };
        if answer.contains("\"Warming\"") {
            break;
        }
    }
    let log = fs::read_to_string(dir.join("log")).unwrap();
    let (_, rest) = log.split_once("\"http\":\"").expect("the log says where it listens");
    rest.split('"').next().unwrap().parse().unwrap()
}

/// Kilobytes, as the kernel counts them.
fn memory(daemon: &Child, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}
