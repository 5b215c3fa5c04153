//! A request that can be sent more than once.
//!
//! HTTP bodies cannot be cloned. A unary request is one message, so its bytes are buffered up to a limit; a client
//! stream is not buffered and can be sent once.

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use tonic::{Status, body::Body};

use crate::origin;

/// The parts of a request that are the same in every attempt.
#[derive(Debug)]
pub(crate) struct Replay {
    uri: Uri,
    headers: HeaderMap,
    payload: Payload,
}

#[derive(Debug)]
enum Payload {
    Buffered(Bytes),
    Stream(Option<Body>),
}

impl Replay {
    /// Takes a request that can be sent once.
    pub(crate) fn pass_through(request: Request<Body>) -> Replay {
        let (parts, body) = request.into_parts();
        Replay {
            uri: parts.uri,
            headers: parts.headers,
            payload: Payload::Stream(Some(body)),
        }
    }

    /// Buffers a unary request's message; one longer than `limit` bytes can be sent once.
    pub(crate) async fn buffer(request: Request<Body>, limit: usize) -> Result<Replay, Status> {
        let (parts, mut body) = request.into_parts();
        let mut buffered = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(frame) = body.frame().await {
            // Nothing was sent: the message could not be encoded, or exceeds the client's own limit.
            let Ok(data) = frame.map_err(origin::not_sent)?.into_data() else {
                continue;
            };
            // A message usually is one frame, which is kept without copying.
            if buffered.is_empty() && joined.is_empty() {
                buffered = data;
            } else {
                if joined.is_empty() {
                    joined.extend_from_slice(&buffered);
                }
                joined.extend_from_slice(&data);
            }
            if buffered.len().max(joined.len()) > limit {
                let read = if joined.is_empty() {
                    buffered
                } else {
                    joined.freeze()
                };
                let payload = Payload::Stream(Some(prefixed(read, body)));
                return Ok(Replay {
                    uri: parts.uri,
                    headers: parts.headers,
                    payload,
                });
            }
        }
        let payload = Payload::Buffered(if joined.is_empty() {
            buffered
        } else {
            joined.freeze()
        });
        Ok(Replay {
            uri: parts.uri,
            headers: parts.headers,
            payload,
        })
    }

    /// Buffers a request that may be unary or a stream if all of it is available already, as a unary request is; a
    /// stream that is still being written can be sent once.
    pub(crate) async fn buffer_if_complete(request: Request<Body>, limit: usize) -> Result<Replay, Status> {
        let (parts, mut body) = request.into_parts();
        let mut read = BytesMut::new();
        let complete = loop {
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
        let payload = if complete {
            Payload::Buffered(read)
        } else {
            Payload::Stream(Some(prefixed(read, body)))
        };
        Ok(Replay {
            uri: parts.uri,
            headers: parts.headers,
            payload,
        })
    }

    /// Takes back a request that the transport returned unsent.
    pub(crate) fn put_back(&mut self, request: Request<Body>) {
        if let Payload::Stream(slot) = &mut self.payload {
            *slot = Some(request.into_body());
        }
    }

    /// Whether [`Replay::request`] can return another request.
    pub(crate) fn available(&self) -> bool {
        !matches!(self.payload, Payload::Stream(None))
    }

    /// The request for the next attempt; `None` if it was a stream and has been sent.
    pub(crate) fn request(&mut self) -> Option<Request<Body>> {
        let body = match &mut self.payload {
            Payload::Buffered(bytes) => Body::new(Full::new(bytes.clone())),
            Payload::Stream(body) => body.take()?,
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
    async fn a_message_within_the_limit_can_be_sent_repeatedly() {
        for chunks in [&["abcdef"][..], &["ab", "cd", "ef"]] {
            let mut replay = Replay::buffer(request_of(chunks), 6).await.unwrap();
            for _ in 0..3 {
                assert_eq!(text(&mut replay).await.unwrap(), "abcdef");
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_still_being_written_is_not_buffered() {
        let first = Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(b"ab")));
        let open = futures_util::stream::iter([first]).chain(futures_util::stream::pending());
        let request = Request::new(Body::new(StreamBody::new(open)));
        let mut replay = Replay::buffer_if_complete(request, 64).await.unwrap();
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

        let mut replay = Replay::buffer_if_complete(request_of(&["ab", "cd"]), 64)
            .await
            .unwrap();
        for _ in 0..2 {
            assert_eq!(text(&mut replay).await.unwrap(), "abcd");
        }
    }

    #[tokio::test]
    async fn a_message_beyond_the_limit_is_sent_complete_and_once() {
        for chunks in [&["abcdefg"][..], &["ab", "cde", "fg"]] {
            let mut replay = Replay::buffer(request_of(chunks), 4).await.unwrap();
            assert_eq!(text(&mut replay).await.unwrap(), "abcdefg");
            assert!(!replay.available() && replay.request().is_none());
        }
    }
}
