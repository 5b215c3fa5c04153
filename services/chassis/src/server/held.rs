//! Answers that hold something until they have ended, and are handed to HTTP/2 in pieces.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

use super::Response;

/// The largest piece that HTTP/2 gets at once: one frame. It takes a piece as soon as the peer's window has room for
/// one byte, and buffers the rest of it however long the peer does not read.
const PIECE: usize = 16 * 1024;

/// Gives `held` back when the answer has ended or is dropped.
pub(super) fn hold<T: Send + Unpin + 'static>(response: Response, held: T) -> Response {
    response.map(|body| {
        Body::new(Held {
            body,
            rest: Bytes::new(),
            _held: held,
        })
    })
}

struct Held<T> {
    body: Body,
    /// What is left of the frame that came last.
    rest: Bytes,
    _held: T,
}

impl<T> Held<T> {
    fn piece(&mut self) -> Frame<Bytes> {
        let length = self.rest.len().min(PIECE);
        Frame::data(self.rest.split_to(length))
    }
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        Poll::Ready(Some(Ok(match frame.into_data() {
            Ok(data) => {
                self.rest = data;
                self.piece()
            }
            Err(frame) => frame,
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        // The upper bound first: it must never be below the lower one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn a_large_answer_goes_out_in_pieces_and_gives_back_what_it_held() {
        let place = Arc::new(());
        let message: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        let response = http::Response::new(Body::new(Full::new(Bytes::from(message.clone()))));
        let mut body = hold(response, place.clone()).into_body();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        let sizes: Vec<_> = pieces.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [PIECE, PIECE, 40_000 - 2 * PIECE]);
        assert_eq!(pieces.concat(), message);
        assert_eq!(Arc::strong_count(&place), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&place), 1);
    }
}
