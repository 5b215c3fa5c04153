//! An IO wrapper that signals the first received byte and records every read in [`Activity`].
//!
//! An HTTP/2 client may send requests before it has received anything, so that a listener that accepts and then
//! hangs looks like a working server. A connection counts as established when the server's preface begins to
//! arrive.

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
    activity::Activity,
    frames::{FrameEvent, FrameReader},
};

/// A stream that signals its first received byte, and passes all received bytes to the frame reader.
#[derive(Debug)]
pub(super) struct ActivityIo<T> {
    stream: T,
    first_read: Option<oneshot::Sender<()>>,
    frames: FrameReader,
    activity: Arc<Activity>,
}

impl<T> ActivityIo<T> {
    pub(super) fn new(stream: T, activity: Arc<Activity>) -> (ActivityIo<T>, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (
            ActivityIo {
                stream,
                first_read: Some(sender),
                frames: FrameReader::default(),
                activity,
            },
            receiver,
        )
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ActivityIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.activity.record_read();
            let ActivityIo { frames, activity, .. } = &mut *self;
            frames.read(&buffer.filled()[before..], |event: FrameEvent| {
                activity.apply(event);
            });
            if let Some(sender) = self.first_read.take() {
                // The receiver is gone if connecting timed out.
                let _ = sender.send(());
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ActivityIo<T> {
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
