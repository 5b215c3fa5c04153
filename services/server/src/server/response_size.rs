//! Limits responses to what callers can read: messages and trailers that gRPC libraries would reject are not sent.

use std::{
    pin::Pin,
    task::{Context as Task, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use tonic::{Status, body::Body, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next},
};
use crate::{
    contract::{grouped, text::sanitized},
    status,
};

/// Default limit of gRPC libraries.
const DEFAULT_MAX_BYTES: usize = 4 * 1024 * 1024;
const PREFIX_BYTES: usize = 5;
/// gRPC libraries reject trailers beyond 8 KiB, including names and 32 bytes for each field; the rest is reserved
/// for other trailers.
const MAX_STATUS_BYTES: usize = 8 * 1024 - 512;
/// How much of an oversized status is kept; halved until the encoded status fits.
const MAX_KEPT_CHARS: usize = 500;
const MAX_KEPT_VIOLATION_BYTES: usize = 3 * 1024;

const MESSAGE_HEADER: &str = "grpc-message";
const DETAILS_HEADER: &str = "grpc-status-details-bin";

pub(super) struct Layer {
    max_bytes: usize,
}

impl Layer {
    /// Callers that need larger requests than the default are assumed to accept larger responses.
    pub(super) fn new(max_message_bytes: usize) -> Layer {
        Layer {
            max_bytes: max_message_bytes.max(DEFAULT_MAX_BYTES),
        }
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        let method = call.method.as_ref().map(|method| method.name.clone());
        Box::pin(async move {
            let mut response = next.run(call).await;
            shorten(response.headers_mut());
            let max_bytes = self.max_bytes;
            response.map(|body| {
                Body::new(LimitedBody {
                    body,
                    method,
                    max_bytes,
                    remaining: 0,
                    prefix: Vec::with_capacity(PREFIX_BYTES),
                    end: End::Open,
                })
            })
        })
    }
}

/// Truncates an oversized status: it keeps the reason and the beginning of its texts. The encoded size of a
/// character depends on its script, so the limits are halved until the status fits.
fn shorten(headers: &mut HeaderMap) {
    if status_bytes(headers) <= MAX_STATUS_BYTES {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    let (mut chars, mut violation_bytes) = (MAX_KEPT_CHARS, MAX_KEPT_VIOLATION_BYTES);
    loop {
        headers.remove(DETAILS_HEADER);
        // The code and the message are always headers.
        let _ = truncate(&status, chars, violation_bytes).add_header(headers);
        if status_bytes(headers) <= MAX_STATUS_BYTES || chars == 1 {
            return;
        }
        (chars, violation_bytes) = (chars / 2, violation_bytes / 2);
    }
}

/// The size of a status in headers, including percent-encoding and base64.
fn status_bytes(headers: &HeaderMap) -> usize {
    let size = |name| headers.get(name).map_or(0, http::HeaderValue::len);
    size(MESSAGE_HEADER) + size(DETAILS_HEADER)
}

/// The status with texts of at most `chars` characters, and violations of at most `violation_bytes` in total.
fn truncate(status: &Status, chars: usize, violation_bytes: usize) -> Status {
    let details = status.get_error_details();
    let mut kept = ErrorDetails::new();
    if let Some(info) = details.error_info() {
        let (reason, domain) = (sanitized(&info.reason, chars), sanitized(&info.domain, chars));
        kept.set_error_info(reason, domain, std::collections::HashMap::new());
    }
    if let Some(retry) = details.retry_info() {
        kept.set_retry_info(retry.retry_delay);
    }
    let mut bytes = 0;
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        let field = sanitized(&violation.field, chars);
        let description = sanitized(&violation.description, chars);
        bytes += field.len() + description.len();
        if bytes > violation_bytes {
            break;
        }
        kept.add_bad_request_violation(field, description);
    }
    Status::with_error_details(status.code(), sanitized(status.message(), chars), kept)
}

enum End {
    Open,
    /// The status to send after the part that fits.
    Refused(Box<Status>),
    Sent,
}

/// A response body whose messages are measured by their prefixes.
struct LimitedBody {
    body: Body,
    method: Option<String>,
    max_bytes: usize,
    /// Bytes left in the current message.
    remaining: usize,
    /// The received part of the next message's prefix.
    prefix: Vec<u8>,
    end: End,
}

impl LimitedBody {
    /// The length of `data` before an oversized message, and the size of that message.
    fn find_oversized(&mut self, data: &Bytes) -> Option<(usize, usize)> {
        let mut at = 0;
        while at < data.len() {
            if self.remaining > 0 {
                let step = self.remaining.min(data.len() - at);
                self.remaining -= step;
                at += step;
                continue;
            }
            self.prefix.push(data[at]);
            at += 1;
            if let [_, length @ ..] = self.prefix.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.remaining = u32::from_be_bytes(length) as usize;
                self.prefix.clear();
                if self.remaining > self.max_bytes {
                    return Some((at.saturating_sub(PREFIX_BYTES), self.remaining));
                }
            }
        }
        None
    }

    fn refuse(&mut self, bytes: usize) {
        let method = self.method.as_deref().unwrap_or("_OTHER");
        tracing::error!(
            rpc.method = method,
            bytes,
            max_bytes = self.max_bytes,
            "response too large"
        );
        let text = format!(
            "the response has {} bytes, at most {} are sent; request less at once",
            grouped(bytes),
            grouped(self.max_bytes)
        );
        let mut refusal = status::too_large("ANSWER_TOO_LARGE", text);
        // A retry would have the same size.
        refusal
            .metadata_mut()
            .insert("grpc-retry-pushback-ms", MetadataValue::from_static("-1"));
        self.body = Body::empty();
        self.end = End::Refused(Box::new(refusal));
    }
}

impl HttpBody for LimitedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match std::mem::replace(&mut self.end, End::Sent) {
            End::Open => self.end = End::Open,
            End::Sent => return Poll::Ready(None),
            End::Refused(refusal) => {
                let mut trailers = HeaderMap::new();
                return Poll::Ready(Some(
                    refusal
                        .add_header(&mut trailers)
                        .map(|()| Frame::trailers(trailers)),
                ));
            }
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(task)) else {
            return Poll::Ready(None);
        };
        let frame = match frame?.into_data() {
            Ok(data) => match self.find_oversized(&data) {
                Some((fitting, bytes)) => {
                    self.refuse(bytes);
                    Frame::data(data.slice(..fitting))
                }
                None => Frame::data(data),
            },
            Err(frame) => frame.into_trailers().map_or_else(
                |frame| frame,
                |mut trailers| {
                    shorten(&mut trailers);
                    Frame::trailers(trailers)
                },
            ),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self.end {
            End::Open => self.body.is_end_stream(),
            End::Refused(_) => false,
            End::Sent => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;
    use http_body_util::{BodyExt as _, StreamBody};
    use tonic::Code;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.put_u32(u32::try_from(length).unwrap());
        message.resize(PREFIX_BYTES + length, 7);
        message
    }

    /// The number of bytes sent of a response in these pieces, and the status if it was rejected.
    async fn sent(pieces: Vec<Vec<u8>>) -> (usize, Option<Status>) {
        let frames = pieces
            .into_iter()
            .map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))));
        let mut body = LimitedBody {
            body: Body::new(StreamBody::new(futures_util::stream::iter(
                frames.collect::<Vec<_>>(),
            ))),
            method: None,
            max_bytes: 10,
            remaining: 0,
            prefix: Vec::new(),
            end: End::Open,
        };
        let (mut bytes, mut status) = (0, None);
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(data) => bytes += data.len(),
                Err(frame) => status = Status::from_header_map(&frame.into_trailers().unwrap()),
            }
        }
        (bytes, status)
    }

    #[tokio::test]
    async fn messages_within_the_limit_pass_in_any_chunks() {
        let all = [message(10), message(0), message(3)].concat();
        let length = all.len();
        assert_eq!(sent(vec![all.clone()]).await.0, length);
        let bytes = all.into_iter().map(|byte| vec![byte]).collect();
        let (passed, status) = sent(bytes).await;
        assert!(passed == length && status.is_none());
    }

    #[tokio::test]
    async fn an_oversized_message_ends_the_response_with_a_reason() {
        let (passed, status) = sent(vec![[message(3), message(11), message(1)].concat()]).await;
        let status = status.unwrap();
        assert_eq!((passed, status.code()), (8, Code::ResourceExhausted));
        assert_eq!(
            status.get_error_details().error_info().unwrap().reason,
            "ANSWER_TOO_LARGE"
        );
        assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
    }

    #[test]
    fn an_oversized_status_is_truncated_and_keeps_its_reason() {
        let mut details = ErrorDetails::with_error_info("BODY_MALFORMED", "weft", []);
        details.add_bad_request_violation("body_json", "x".repeat(100_000));
        let long = Status::with_error_details(Code::InvalidArgument, "y".repeat(100_000), details);
        let mut headers = HeaderMap::new();
        long.add_header(&mut headers).unwrap();
        shorten(&mut headers);
        let size: usize = headers.values().map(http::HeaderValue::len).sum();
        assert!(size < MAX_STATUS_BYTES, "{size}");
        let short = Status::from_header_map(&headers).unwrap();
        assert!(short.code() == Code::InvalidArgument && short.message().ends_with('…'));
        let details = short.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "BODY_MALFORMED");
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            "body_json"
        );
    }

    #[test]
    fn a_status_in_any_script_is_truncated_to_the_limit() {
        for text in ["محمد بن زايد ", "漢字", "😀", "a \"b\" {c}"] {
            let mut details = ErrorDetails::with_error_info("INVALID_REQUEST", "weft", []);
            for number in 0..100 {
                details.add_bad_request_violation(format!("lines[{number}]"), text.repeat(100));
            }
            let long = Status::with_error_details(Code::InvalidArgument, text.repeat(1_000), details);
            let mut headers = HeaderMap::new();
            long.add_header(&mut headers).unwrap();
            shorten(&mut headers);
            // The size of a header list in RFC 9113.
            let size: usize = headers
                .iter()
                .map(|(name, value)| name.as_str().len() + value.len() + 32)
                .sum();
            assert!(size < 8 * 1024 - 256, "{text}: {size}");
            let short = Status::from_header_map(&headers).unwrap();
            assert!(short.message().starts_with(text) && short.message().ends_with('…'));
            let details = short.get_error_details();
            assert_eq!(details.error_info().unwrap().reason, "INVALID_REQUEST");
            assert_eq!(
                details.bad_request().unwrap().field_violations[0].field,
                "lines[0]"
            );
        }
    }
}
