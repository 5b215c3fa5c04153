//! Tells when the peer has said its first word, and notes when it has said its last.
//!
//! An HTTP/2 client may send requests before it has heard anything, so that a listener that accepts and then
//! hangs looks like a working server. A connection counts as made when the server's preface begins to arrive.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use super::{
    frames::{Frames, Said},
    pulse::Pulse,
};

/// A stream that reports its first received byte, and tells the pulse of all.
#[derive(Debug)]
pub(super) struct Heard<T> {
    stream: T,
    first: Option<oneshot::Sender<()>>,
    frames: Frames,
    pulse: Arc<Pulse>,
}

impl<T> Heard<T> {
    pub(super) fn new(stream: T, pulse: Arc<Pulse>) -> (Heard<T>, oneshot::Receiver<()>) {
        let (first, heard) = oneshot::channel();
        (
            Heard {
                stream,
                first: Some(first),
                frames: Frames::default(),
                pulse,
            },
            heard,
        )
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.pulse.heard();
            let Heard { frames, pulse, .. } = &mut *self;
            frames.read(&buffer.filled()[before..], |said: Said| pulse.said(said));
            if let Some(first) = self.first.take() {
                // Nobody waits any more when connecting took too long.
                let _ = first.send(());
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Heard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
