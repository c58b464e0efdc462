//! Files over real sockets: from one piece in its place to whole answers of the server.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use std::time::Duration;

use bytes::Buf as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::super::descriptor::Taking;
use super::super::fixture::{ARTIFACT, Fixture, VERSION};
use super::super::listener::{Connections, Limits};
use super::*;

/// Larger than a piece, and than what a Unix socket takes while nobody reads.
const BIG: &str = "dir/big";

fn big(fixture: &Fixture) -> Vec<u8> {
    fixture.content(&BIG.parse().unwrap())
}

fn held(fixture: &Fixture) -> Arc<Held> {
    let (version, _) = fixture.opened();
    Arc::new(Held::new(version.tree().open_file(&BIG.parse().unwrap()).unwrap(), version))
}

fn pair() -> (UnixStream, Sending<Taking>, Outbox) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let (sending, outbox) = Sending::new(Taking::new(ours).unwrap().0);
    (theirs, sending, outbox)
}

/// Writes bytes and stand-ins as the HTTP library does.
async fn write(sending: &mut Sending<Taking>, mut parts: VecDeque<Bytes>) -> io::Result<()> {
    while !parts.is_empty() {
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = sending.write_vectored(&slices).await?;
        while written > 0 {
            let front = parts.front_mut().unwrap();
            let part = written.min(front.len());
            front.advance(part);
            written -= part;
            if front.is_empty() {
                parts.pop_front();
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn pieces_come_in_place_of_what_stands_for_them() {
    let fixture = Fixture::new();
    let (mut theirs, mut sending, outbox) = pair();
    let (held, big) = (held(&fixture), big(&fixture));
    let parts = VecDeque::from([
        Bytes::from_static(b"head"),
        outbox.put(held.clone(), 5, PIECE),
        outbox.put(held.clone(), 700_000, 1),
        Bytes::from_static(b"head of the next"),
        outbox.put(held.clone(), 0, 100),
    ]);
    let writing = tokio::spawn(async move { write(&mut sending, parts).await });
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).await.unwrap();
    writing.await.unwrap().unwrap();
    let expected = [b"head", &big[5..5 + PIECE], &big[700_000..], b"head of the next", &big[..100]].concat();
    assert!(got == expected);
    assert_eq!(Arc::strong_count(&held), 1, "what was sent is let go of");
}

#[tokio::test]
async fn a_stand_in_that_goes_astray_ends_the_connection() {
    type Case = fn(Bytes, Bytes) -> VecDeque<Bytes>;
    let cases: [(&str, Case); 7] = [
        ("copied", |first, second| [Bytes::copy_from_slice(&first), second].into()),
        ("dropped", |_, second| [second].into()),
        ("dropped before other bytes", |_, _| [Bytes::from_static(b"x")].into()),
        ("in another order", |first, second| [second, first].into()),
        ("without its start", |first, second| [first.slice(1..), second].into()),
        ("without its end", |first, second| [first.slice(..99), second].into()),
        ("in parts", |first, second| [first.slice(..50), first.slice(50..), second].into()),
    ];
    let fixture = Fixture::new();
    let held = held(&fixture);
    for (what, case) in cases {
        let (mut theirs, mut sending, outbox) = pair();
        let parts = case(outbox.put(held.clone(), 0, 100), outbox.put(held.clone(), 100, 90));
        write(&mut sending, parts).await.expect_err(what);
        write(&mut sending, [Bytes::from_static(b"x")].into()).await.expect_err(what);
        drop(sending);
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"", "{what}");
    }
}

#[tokio::test]
async fn nothing_comes_within_a_piece_and_none_twice() {
    let fixture = Fixture::new();
    let (held, bytes) = (held(&fixture), Bytes::from_static(b"x"));
    let (theirs, mut sending, outbox) = pair();
    let stand_in = outbox.put(held.clone(), 0, PIECE);
    let sent = sending.write(&stand_in).await.unwrap();
    assert!(sent < PIECE, "more than the socket takes");
    write(&mut sending, [bytes.clone()].into()).await.unwrap_err();
    write(&mut sending, [stand_in].into()).await.unwrap_err();
    drop(theirs);

    let (_theirs, mut sending, outbox) = pair();
    let stand_in = outbox.put(held, 0, 10);
    write(&mut sending, [stand_in.clone(), bytes].into()).await.unwrap();
    write(&mut sending, [stand_in].into()).await.unwrap_err();
}

struct Serving {
    fixture: Fixture,
    address: std::net::SocketAddr,
    socket: std::path::PathBuf,
    _root: tempfile::TempDir,
    _end: tokio_util::sync::DropGuard,
}

async fn serving(limits: Limits) -> Serving {
    let (fixture, root, cancel) = (Fixture::new(), tempfile::tempdir().unwrap(), CancellationToken::new());
    let socket = root.path().join("s");
    let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), UnixListener::bind(&socket).unwrap());
    let (address, router, until) = (tcp.local_addr().unwrap(), fixture.router(), cancel.clone());
    tokio::spawn(async move {
        let connections = Connections::new(router, limits);
        tokio::join!(connections.accept_from(tcp, &until), connections.accept_from(unix, &until));
    });
    Serving { fixture, address, socket, _root: root, _end: cancel.drop_guard() }
}

fn request(method: &str, headers: &str) -> String {
    format!("{method} /v1/artifacts/{ARTIFACT}/versions/{VERSION}/files/{BIG} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
}

/// Reads a head: all of it, and its content length.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> (String, usize) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    (head, length)
}

async fn body(stream: &mut (impl AsyncRead + Unpin), length: usize) -> Vec<u8> {
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    body
}

async fn many_on_one(mut stream: impl AsyncRead + AsyncWrite + Unpin, big: &[u8]) {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..50 {
        let start = random.usize(..big.len());
        let end = random.usize(start..big.len());
        let range = format!("Range: bytes={start}-{end}\r\n");
        stream.write_all(request("GET", &range).as_bytes()).await.unwrap();
        let (head, length) = head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 206"), "{head}");
        assert!(body(&mut stream, length).await == big[start..=end], "{start}-{end}");
    }
    // Several at once, in the order of their requests, one without a body among them.
    let asked = ["GET", "HEAD", "GET", "GET"].map(|method| request(method, "")).concat();
    stream.write_all(asked.as_bytes()).await.unwrap();
    for with_body in [true, false, true, true] {
        let (head, length) = head(&mut stream).await;
        assert_eq!((head.starts_with("HTTP/1.1 200"), length), (true, big.len()), "{head}");
        assert!(!with_body || body(&mut stream, length).await == big);
    }
    // Asked for on condition, all of it or a part.
    stream.write_all(request("HEAD", "").as_bytes()).await.unwrap();
    let (told, _) = head(&mut stream).await;
    let tag = told.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    for (tag, status, expected) in [(tag, "206", &big[9..]), ("\"other\"", "200", big)] {
        let range = format!("Range: bytes=9-\r\nIf-Range: {tag}\r\n");
        stream.write_all(request("GET", &range).as_bytes()).await.unwrap();
        let (head, length) = head(&mut stream).await;
        assert!(head.contains(status), "{head}");
        assert!(body(&mut stream, length).await == expected);
    }
}

#[tokio::test]
async fn whatever_is_asked_on_a_kept_connection() {
    let serving = serving(Limits::default()).await;
    let big = big(&serving.fixture);
    many_on_one(TcpStream::connect(serving.address).await.unwrap(), &big).await;
    many_on_one(UnixStream::connect(&serving.socket).await.unwrap(), &big).await;
}

#[tokio::test]
async fn sixty_four_at_once() {
    let serving = serving(Limits::default()).await;
    let (address, expected) = (serving.address, big(&serving.fixture));
    let clients = (0..64).map(|_| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request("GET", "").as_bytes()).await.unwrap();
        let (_, length) = head(&mut stream).await;
        body(&mut stream, length).await
    });
    for client in clients.map(tokio::spawn).collect::<Vec<_>>() {
        assert!(client.await.unwrap() == expected);
    }
}

#[tokio::test]
async fn a_file_that_is_cut_short_never_looks_whole() {
    let serving = serving(Limits::default()).await;
    let mut stream = UnixStream::connect(&serving.socket).await.unwrap();
    stream.write_all(request("GET", "").as_bytes()).await.unwrap();
    let (_, length) = head(&mut stream).await;
    serving.fixture.damage(BIG);
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert!(got.len() < length, "closed before its end");
    assert!(big(&serving.fixture).starts_with(&got));
}

#[tokio::test]
async fn who_takes_nothing_is_given_up() {
    let limits = Limits { connections: 1, stall_time: Duration::from_millis(10), ..Limits::default() };
    let serving = serving(limits).await;
    let ask = async || {
        let mut stream = UnixStream::connect(&serving.socket).await.unwrap();
        stream.write_all(request("GET", "").as_bytes()).await.unwrap();
        stream
    };
    let mut stalled = ask().await;
    // There is room for this one when the first is given up.
    let mut next = ask().await;
    let (_, length) = head(&mut next).await;
    let mut got = Vec::new();
    stalled.read_to_end(&mut got).await.unwrap();
    assert!(got.len() < length);
}

#[tokio::test]
async fn who_goes_away_in_the_middle_leaves_nothing_held() {
    let serving = serving(Limits::default()).await;
    let (artifact, version) = (ARTIFACT.parse().unwrap(), VERSION.parse().unwrap());
    let mut stream = UnixStream::connect(&serving.socket).await.unwrap();
    stream.write_all(request("GET", "").as_bytes()).await.unwrap();
    head(&mut stream).await;
    assert!(serving.fixture.store.is_read(&artifact, &version), "as long as it is being sent");
    drop(stream);
    let let_go = async {
        while serving.fixture.store.is_read(&artifact, &version) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), let_go).await.unwrap();
}

/// Runs only where the test does, so that it ends only where nothing in here waits for a disk.
#[tokio::test]
async fn who_sends_waits_for_no_file_system() {
    let (fixture, mount) = (Fixture::new(), tempfile::tempdir().unwrap());
    let content: Vec<u8> = (0..3 * PIECE / 2).map(|at| (at % 251) as u8).collect();
    let slow = Arc::new(crate::hung::Hung::at(mount.path(), content.clone()));
    let file = File::open(mount.path().join(crate::hung::FILE)).unwrap();
    let (version, _) = fixture.opened();
    let held = Arc::new(Held::new(file, version));
    slow.hang(true);
    // It answers after all where this waits for it, and then the test fails rather than hang.
    let late = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (timer, is_done) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn({
        let (slow, late) = (slow.clone(), late.clone());
        move || {
            if is_done.recv_timeout(Duration::from_secs(30)).is_err() {
                late.store(true, std::sync::atomic::Ordering::SeqCst);
                slow.hang(false);
            }
        }
    });
    let (mut theirs, mut sending, outbox) = pair();
    let writing = tokio::spawn(async move {
        let parts = [outbox.put(held.clone(), 0, PIECE), outbox.put(held, PIECE as u64, PIECE / 2)];
        write(&mut sending, parts.into()).await
    });
    while slow.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!late.load(std::sync::atomic::Ordering::SeqCst), "sending waited for the file system");
    slow.hang(false);
    timer.send(()).unwrap();
    watch.join().unwrap();
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).await.unwrap();
    writing.await.unwrap().unwrap();
    assert!(got == content);
}

/// A socket that the kernel sends no files to: no file that is only appended to is one.
struct Refusing {
    stream: Taking,
    appended: File,
}

impl AsyncRead for Refusing {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Refusing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsFd for Refusing {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.appended.as_fd()
    }
}

impl Socket for Refusing {
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_writable(cx)
    }

    fn try_write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.stream.try_write(write)
    }
}

#[tokio::test]
async fn what_sendfile_refuses_is_read_and_sent() {
    let (fixture, (mut theirs, ours)) = (Fixture::new(), UnixStream::pair().unwrap());
    let (held, big, file) = (held(&fixture), big(&fixture), tempfile::NamedTempFile::new().unwrap());
    let appended = File::options().append(true).open(file.path()).unwrap();
    assert_eq!(send_file(&appended, held.file(), 0, 10).map_err(|error| is_refusal(&error)), Err(true));
    let (mut sending, outbox) = Sending::new(Refusing { stream: Taking::new(ours).unwrap().0, appended });
    let stand_in = outbox.put(held.clone(), 3, PIECE);
    let writing = tokio::spawn(async move {
        let mut rest = stand_in;
        while !rest.is_empty() {
            let sent = sending.write(&rest).await?;
            rest.advance(sent);
        }
        io::Result::Ok(())
    });
    let mut got = Vec::new();
    theirs.read_to_end(&mut got).await.unwrap();
    writing.await.unwrap().unwrap();
    assert!(got == big[3..3 + PIECE]);
    assert!(held.refused.load(Relaxed));
}
