//! Response bodies that keep a guard until they end, and pass data to HTTP/2 in chunks.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

use super::Response;

/// Largest chunk passed to HTTP/2: one frame. HTTP/2 takes a chunk as soon as the peer's window allows one byte,
/// and buffers the rest for as long as the peer does not read.
const MAX_CHUNK: usize = 16 * 1024;

/// Drops `guard` when the response has ended or is dropped.
pub(super) fn with_guard<T: Send + Unpin + 'static>(response: Response, guard: T) -> Response {
    response.map(|body| {
        Body::new(GuardedBody {
            body,
            remaining: Bytes::new(),
            _guard: guard,
        })
    })
}

struct GuardedBody<T> {
    body: Body,
    /// The rest of the last frame.
    remaining: Bytes,
    _guard: T,
}

impl<T> GuardedBody<T> {
    fn next_chunk(&mut self) -> Frame<Bytes> {
        let length = self.remaining.len().min(MAX_CHUNK);
        Frame::data(self.remaining.split_to(length))
    }
}

impl<T: Unpin> HttpBody for GuardedBody<T> {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if !self.remaining.is_empty() {
            return Poll::Ready(Some(Ok(self.next_chunk())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => {
                self.remaining = data;
                self.next_chunk()
            }
            Err(frame) => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let remaining = self.remaining.len() as u64;
        // The upper bound first: it must never be below the lower one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + remaining);
        }
        hint.set_lower(hint.lower() + remaining);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn a_large_response_is_sent_in_chunks_and_drops_its_guard() {
        let guard = Arc::new(());
        let message: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        let response = http::Response::new(Body::new(Full::new(Bytes::from(message.clone()))));
        let mut body = with_guard(response, guard.clone()).into_body();
        let mut chunks = Vec::new();
        while let Some(frame) = body.frame().await {
            chunks.push(frame.unwrap().into_data().unwrap());
        }
        let sizes: Vec<_> = chunks.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [MAX_CHUNK, MAX_CHUNK, 40_000 - 2 * MAX_CHUNK]);
        assert_eq!(chunks.concat(), message);
        assert_eq!(Arc::strong_count(&guard), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&guard), 1);
    }
}
