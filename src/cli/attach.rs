//! A connection that hands a descriptor to the daemon with the first bytes it sends.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// A stream to the daemon's Unix socket; the descriptor goes out once.
#[derive(Debug)]
pub(super) struct Attaching {
    stream: UnixStream,
    /// Until it was sent.
    descriptor: Option<OwnedFd>,
}

impl Attaching {
    pub(super) fn new(stream: UnixStream, descriptor: Option<OwnedFd>) -> Self {
        Self { stream, descriptor }
    }

    /// Sends the first bytes of `slices` and the descriptor in one message.
    fn send(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Some(descriptor) = &self.descriptor else {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        };
        // A message without bytes carries nothing over a stream.
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let descriptors = [descriptor.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                    unreachable!("the buffer has room for one descriptor");
                }
                Ok(sendmsg(&self.stream, slices, &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Ok(sent) => {
                    self.descriptor = None;
                    return Poll::Ready(Ok(sent));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Attaching {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Attaching {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.send(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.send(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::IoSliceMut;
    use std::os::fd::AsRawFd as _;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn received(socket: &UnixStream) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let (mut control, mut bytes) = (RecvAncillaryBuffer::new(&mut space), vec![0; 100]);
        let message = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
        bytes.truncate(message.unwrap().bytes);
        let descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        });
        (bytes, descriptors.collect())
    }

    #[tokio::test]
    async fn the_descriptor_goes_with_the_first_bytes_and_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        let sent = rustix::fs::fstat(&file).unwrap().st_ino;
        let mut attaching = Attaching::new(ours, Some(file));
        attaching.write_all(b"first").await.unwrap();
        theirs.readable().await.unwrap();
        let (bytes, descriptors) = received(&theirs);
        assert_eq!((&*bytes, descriptors.len()), (&b"first"[..], 1));
        assert!(descriptors[0].as_raw_fd() > 2);
        assert_eq!(rustix::fs::fstat(&descriptors[0]).unwrap().st_ino, sent);
        attaching.write_all(b"second").await.unwrap();
        let (bytes, descriptors) = received(&theirs);
        assert_eq!((&*bytes, descriptors.len()), (&b"second"[..], 0));
    }
}
