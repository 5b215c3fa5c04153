//! A request that can be sent more than once.
//!
//! HTTP bodies cannot be cloned. A unary request is one message, so its bytes are kept up to a limit; a
//! client's stream is never held back and passes through once.

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use tonic::{Status, body::Body};

use crate::origin;

/// A request taken apart into what stays the same in every attempt.
#[derive(Debug)]
pub(crate) struct Replay {
    uri: Uri,
    headers: HeaderMap,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    Kept(Bytes),
    Once(Option<Body>),
}

impl Replay {
    /// Takes a request that passes through once.
    pub(crate) fn once(request: Request<Body>) -> Replay {
        let (parts, body) = request.into_parts();
        Replay {
            uri: parts.uri,
            headers: parts.headers,
            payload: Payload::Once(Some(body)),
        }
    }

    /// Reads a unary request's message; one that is longer than `limit` bytes passes through once.
    pub(crate) async fn keep(request: Request<Body>, limit: usize) -> Result<Replay, Status> {
        let (parts, mut body) = request.into_parts();
        let mut kept = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // Nothing was sent: the message could not be encoded, or is larger than the client's own limit.
            let Ok(data) = frame.map_err(origin::not_sent)?.into_data() else {
                continue;
            };
            // The usual message is one frame, which is kept as it is.
            if kept.is_empty() && more.is_empty() {
                kept = data;
            } else {
                if more.is_empty() {
                    more.extend_from_slice(&kept);
                }
                more.extend_from_slice(&data);
            }
            if kept.len().max(more.len()) > limit {
                let read = if more.is_empty() { kept } else { more.freeze() };
                let payload = Payload::Once(Some(prefixed(read, body)));
                return Ok(Replay {
                    uri: parts.uri,
                    headers: parts.headers,
                    payload,
                });
            }
        }
        let payload = Payload::Kept(if more.is_empty() { kept } else { more.freeze() });
        Ok(Replay {
            uri: parts.uri,
            headers: parts.headers,
            payload,
        })
    }

    /// Keeps a request of which nobody knows whether it is one message, if all of it is there already, as one message
    /// is; a stream that is still being written passes through.
    pub(crate) async fn keep_if_whole(request: Request<Body>, limit: usize) -> Result<Replay, Status> {
        let (parts, mut body) = request.into_parts();
        let mut read = BytesMut::new();
        let whole = loop {
            match body.frame().now_or_never() {
                Some(None) => break true,
                Some(Some(frame)) => {
                    if let Ok(data) = frame.map_err(origin::not_sent)?.into_data() {
                        read.extend_from_slice(&data);
                    }
                    if read.len() > limit {
                        break false;
                    }
                }
                None => break false,
            }
        };
        let read = read.freeze();
        let payload = match whole {
            true => Payload::Kept(read),
            false => Payload::Once(Some(prefixed(read, body))),
        };
        Ok(Replay {
            uri: parts.uri,
            headers: parts.headers,
            payload,
        })
    }

    /// Puts back a request that the transport returned unsent.
    pub(crate) fn put_back(&mut self, request: Request<Body>) {
        if let Payload::Once(slot) = &mut self.payload {
            *slot = Some(request.into_body());
        }
    }

    /// Whether [`Replay::request`] has another request to give.
    pub(crate) fn available(&self) -> bool {
        !matches!(self.payload, Payload::Once(None))
    }

    /// The request for the next attempt, `None` when it has passed through.
    pub(crate) fn request(&mut self) -> Option<Request<Body>> {
        let body = match &mut self.payload {
            Payload::Kept(bytes) => Body::new(Full::new(bytes.clone())),
            Payload::Once(body) => body.take()?,
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }
}

fn prefixed(read: Bytes, rest: Body) -> Body {
    let first = futures_util::stream::once(async { Ok::<_, Status>(http_body::Frame::data(read)) });
    Body::new(StreamBody::new(first.chain(BodyStream::new(rest))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_of(chunks: &[&'static str]) -> Request<Body> {
        let frames: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(chunk.as_bytes()))))
            .collect();
        Request::new(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
    }

    async fn text(replay: &mut Replay) -> Option<Bytes> {
        Some(replay.request()?.into_body().collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn a_message_within_the_limit_is_given_again_and_again() {
        for chunks in [&["abcdef"][..], &["ab", "cd", "ef"]] {
            let mut replay = Replay::keep(request_of(chunks), 6).await.unwrap();
            for _ in 0..3 {
                assert_eq!(text(&mut replay).await.unwrap(), "abcdef");
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_still_being_written_is_not_waited_for() {
        let first = Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(b"ab")));
        let open = futures_util::stream::iter([first]).chain(futures_util::stream::pending());
        let request = Request::new(Body::new(StreamBody::new(open)));
        let mut replay = Replay::keep_if_whole(request, 64).await.unwrap();
        let sent = replay
            .request()
            .unwrap()
            .into_body()
            .frame()
            .await
            .unwrap()
            .unwrap();
        assert_eq!(sent.into_data().unwrap(), "ab");
        assert!(!replay.available());

        let mut replay = Replay::keep_if_whole(request_of(&["ab", "cd"]), 64)
            .await
            .unwrap();
        for _ in 0..2 {
            assert_eq!(text(&mut replay).await.unwrap(), "abcd");
        }
    }

    #[tokio::test]
    async fn a_message_beyond_the_limit_passes_whole_and_once() {
        for chunks in [&["abcdefg"][..], &["ab", "cde", "fg"]] {
            let mut replay = Replay::keep(request_of(chunks), 4).await.unwrap();
            assert_eq!(text(&mut replay).await.unwrap(), "abcdefg");
            assert!(!replay.available() && replay.request().is_none());
        }
    }
}
