//! Descriptors that peers attach to what they send over the Unix socket.
//!
//! What must hold: whatever a peer sends, a connection holds one waiting descriptor at most; more than that ends it. One
//! that no request takes is closed with the request, and none is closed on an async thread, since closing what lies on
//! somebody's own file system may take as long as they like. That goes for those, too, that are still in the socket's
//! queue when it is closed: the kernel closes them on the thread that closes the socket. And for those that come with
//! bytes out of band: unless these are to come in line, it closes them on the thread that reads.

use std::future::Future as _;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::ioctl_fionread;
use rustix::net::sockopt::{set_socket_oobinline, set_socket_send_buffer_size};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, Shutdown, recvmsg, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

use super::closing::{self, Closing};
use super::problem::Problem;
use super::sendfile::Socket;
use crate::fs::Dir;

/// Descriptors that one message may bring: as many as the kernel lets it. Those for which there is no room it would close
/// on this thread.
const ROOM: usize = 253;
/// Bytes that the system holds for a connection of many; it takes twice as many for what it needs besides.
const LITTLE: usize = 16 * 1024;
/// The wait until it is looked again whether more can be closed.
const BREATH: Duration = Duration::from_millis(10);

/// A descriptor that came with a request.
#[derive(Debug, Clone)]
pub(super) struct Descriptor(Arc<Closing<OwnedFd>>);

impl Descriptor {
    fn new(fd: OwnedFd) -> Self {
        Self(Arc::new(Closing::new(fd)))
    }

    /// It as a directory, which it may not be; to be kept until whoever was given a clone is done with it. `path` is for
    /// messages only.
    pub(super) fn dir(&self, path: &Path) -> Result<Closing<Dir>, Problem> {
        let own = self.0.get().try_clone().map_err(|error| Problem::internal(&error))?;
        Ok(Closing::new(Dir::adopt(own, path)))
    }
}

/// The descriptor of a connection that no request has taken yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<Mutex<Option<Descriptor>>>);

impl Waiting {
    /// The one that came with the request that begins now.
    pub(super) fn take(&self) -> Option<Descriptor> {
        self.lock().take()
    }

    fn put(&self, descriptors: Vec<Descriptor>) -> io::Result<()> {
        let mut waiting = self.lock();
        for descriptor in descriptors {
            if waiting.is_some() {
                return Err(too_many());
            }
            *waiting = Some(descriptor);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Descriptor>> {
        // One word, set whole: whoever panicked left it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "more descriptors were sent than one with a request")
}

/// A connection over the Unix socket that takes descriptors.
#[derive(Debug)]
pub(super) struct Taking {
    /// Taken out when this is dropped, and never before.
    stream: Option<UnixStream>,
    waiting: Waiting,
    /// Until it is looked again whether there is room for more to be closed.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Taking {
    /// The connection, of which nothing was read yet, and where its descriptors go.
    pub(super) fn new(stream: UnixStream) -> io::Result<(Self, Waiting)> {
        let waiting = Waiting::default();
        let taking = Self { stream: Some(stream), waiting: waiting.clone(), pause: None };
        set_socket_oobinline(&taking, true)?;
        Ok((taking, waiting))
    }

    fn held(&self) -> &UnixStream {
        self.stream.as_ref().unwrap_or_else(|| unreachable!("taken out when it is dropped, and never before"))
    }

    fn stream(&mut self) -> &mut UnixStream {
        self.stream.as_mut().unwrap_or_else(|| unreachable!("taken out when it is dropped, and never before"))
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        // From here on nothing more gets into its queue. A descriptor comes with one byte at least.
        let shut = shutdown(&stream, Shutdown::Both);
        if shut.is_err() || ioctl_fionread(&stream) != Ok(0) {
            drop(Closing::new(stream));
        }
    }
}

/// Bytes into `buffer`, and the descriptors that came with them.
fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<Descriptor>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent.map(Descriptor::new));
        }
    }
    // Some found no room.
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(too_many());
    }
    Ok((message.bytes, descriptors))
}

impl AsyncRead for Taking {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream: Some(stream), waiting, pause } = self.get_mut() else { return Poll::Ready(Ok(())) };
        loop {
            // What would come with the bytes could not be closed, whoever is to blame for that.
            while closing::is_full() {
                ready!(pause.get_or_insert_with(|| Box::pin(sleep(BREATH))).as_mut().poll(cx));
                *pause = None;
            }
            ready!(stream.poll_read_ready(cx))?;
            let free = buffer.initialize_unfilled();
            match stream.try_io(Interest::READABLE, || receive(&*stream, free)) {
                Ok((bytes, descriptors)) => {
                    waiting.put(descriptors)?;
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsFd for Taking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.held().as_fd()
    }
}

impl Socket for Taking {
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held().poll_write_ready(cx)
    }

    fn try_write<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.held().try_io(Interest::WRITABLE, write)
    }

    /// What is held stays even when the connection is closed, until the peer goes.
    fn hold_little(&self) {
        // Where that fails it is more.
        let _ = set_socket_send_buffer_size(self.held(), LITTLE);
    }
}

impl AsyncWrite for Taking {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.stream()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.stream()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::IoSlice;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn send(socket: &UnixStream, bytes: &[u8], descriptors: usize) {
        send_with(socket, bytes, descriptors, SendFlags::empty()).unwrap();
    }

    fn send_with(
        socket: &UnixStream,
        bytes: &[u8],
        descriptors: usize,
        flags: SendFlags,
    ) -> Result<usize, rustix::io::Errno> {
        let own = socket.as_fd();
        let descriptors = vec![own; descriptors];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)
    }

    #[tokio::test]
    async fn bytes_and_descriptor_come_as_they_were_sent() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (mut taking, waiting) = Taking::new(ours).unwrap();
        let mut buffer = [0; 5];
        for descriptors in [0, 1, 0, 1] {
            send(&theirs, b"hello", descriptors);
            taking.read_exact(&mut buffer).await.unwrap();
            assert_eq!((&buffer, waiting.take().is_some()), (b"hello", descriptors == 1));
        }
        drop(theirs);
        assert_eq!(taking.read(&mut buffer).await.unwrap(), 0);
    }

    /// A TCP connection whose close waits for an hour, or until what was written to it is read at the other end.
    fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let hangs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, _) = listener.accept().unwrap();
        rustix::net::sockopt::set_socket_linger(&hangs, Some(std::time::Duration::from_secs(3600))).unwrap();
        hangs.set_nonblocking(true).unwrap();
        while io::Write::write(&mut &hangs, &[0; 64 << 10]).is_ok() {}
        (hangs, reader)
    }

    #[tokio::test]
    async fn what_nobody_read_is_not_closed_where_the_connection_is() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (hangs, reader) = lingering();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sent = [hangs.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&sent)));
        sendmsg(&theirs, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        drop(hangs);
        let (taking, _waiting) = Taking::new(ours).unwrap();
        let (done, is_done) = std::sync::mpsc::channel();
        let dropping = std::thread::spawn(move || {
            drop(taking);
            done.send(()).unwrap();
        });
        let dropped = is_done.recv_timeout(std::time::Duration::from_secs(60));
        io::copy(&mut &reader, &mut io::sink()).unwrap();
        dropping.join().unwrap();
        assert!(dropped.is_ok(), "the drop waited for what hangs");
    }

    /// The kernel drops the byte, and closes what came with it, where that is read, unless it was told not to.
    #[tokio::test]
    async fn what_comes_out_of_band_is_taken_as_all_else_is() {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let (mut taking, waiting) = Taking::new(ours).unwrap();
        match send_with(&theirs, b"!", 1, SendFlags::OOB) {
            // A kernel without that has nothing to protect from.
            Err(rustix::io::Errno::OPNOTSUPP) => return,
            sent => assert_eq!(sent.unwrap(), 1),
        }
        send(&theirs, b"x", 0);
        let mut byte = [0];
        taking.read_exact(&mut byte).await.unwrap();
        assert_eq!((byte, waiting.take().is_some()), (*b"!", true));
        taking.read_exact(&mut byte).await.unwrap();
        assert_eq!((byte, waiting.take().is_some()), (*b"x", false));
    }

    #[tokio::test]
    async fn more_than_one_waiting_ends_the_connection() {
        for messages in [&[2][..], &[3], &[64], &[1, 1], &[1, 0, 1]] {
            let (theirs, ours) = UnixStream::pair().unwrap();
            let (mut taking, _waiting) = Taking::new(ours).unwrap();
            let mut outcome = Ok(0);
            for descriptors in messages {
                send(&theirs, b"x", *descriptors);
                outcome = taking.read(&mut [0; 1]).await;
            }
            assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidData, "{messages:?}");
        }
    }
}
