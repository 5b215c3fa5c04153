//! A row as it is sent: its headers, and whether the broker can accept it.

use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use tracing::Span;

use super::Pending;
use crate::{Bus, envelope::BODY_OMITTED, trace};

/// The broker stores the length of the headers in sixteen bits.
const MAX_HEADER_BYTES: usize = u16::MAX as usize;

/// The most bytes that a batch adds to the headers of a message.
const BATCH_HEADER_BYTES: usize = 160;

/// Characters kept of each header of a copy that had to be shortened.
const MAX_TRUNCATED_VALUE: usize = 500;

/// A row to be sent, and the span of its publication.
pub(super) struct Outgoing<'a> {
    pub(super) row: &'a Pending,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    _span: Span,
}

/// Whether a message fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// Also with the headers of a batch.
    Batched,
    Single,
    TooLarge(String),
}

impl<'a> Outgoing<'a> {
    /// A message without a trace is published without a span. A copy for DEAD_LETTERS that is larger than `limit`
    /// omits its body: the dead letter itself is in the database.
    pub(super) fn new(bus: &Bus, row: &'a Pending, limit: usize) -> Self {
        let parent = row.header("traceparent");
        let span = if parent.is_empty() {
            Span::none()
        } else {
            tracing::info_span!(
                "publish",
                otel.name = format!("publish {}", row.subject),
                otel.kind = "producer",
                messaging.system = "nats",
                messaging.operation.name = "publish",
                messaging.operation.type = "send",
                messaging.destination.name = row.subject,
                messaging.message.id = row.message_id,
            )
        };
        trace::set_parent(&span, parent);
        let mut outgoing = Self {
            row,
            headers: headers(bus, row, &span),
            body: row.body.clone(),
            _span: span,
        };
        if row.is_copy() {
            outgoing.shrink_to(limit);
        }
        outgoing
    }

    /// Whether the broker accepts it.
    pub(super) fn size(&self, limit: usize) -> Size {
        let (headers, total) = (header_bytes(&self.headers), self.bytes());
        if headers > MAX_HEADER_BYTES {
            return Size::TooLarge(format!(
                "the headers have {headers} bytes; the broker takes {MAX_HEADER_BYTES}"
            ));
        }
        if total > limit {
            return Size::TooLarge(format!(
                "the message has {total} bytes; the broker takes {limit} (max_payload)"
            ));
        }
        if total + BATCH_HEADER_BYTES > limit || headers + BATCH_HEADER_BYTES > MAX_HEADER_BYTES {
            Size::Single
        } else {
            Size::Batched
        }
    }

    /// Headers and body in bytes, as the broker counts them.
    pub(super) fn bytes(&self) -> usize {
        header_bytes(&self.headers) + self.body.len()
    }

    fn shrink_to(&mut self, limit: usize) {
        if matches!(self.size(limit), Size::TooLarge(_)) && !self.body.is_empty() {
            self.headers.insert(BODY_OMITTED, self.body.len().to_string());
            self.body = Bytes::new();
        }
        if matches!(self.size(limit), Size::TooLarge(_)) {
            let names = |name: &str| {
                name.starts_with("ce-") || name.starts_with("weft-") || name.starts_with("Nats-")
            };
            self.headers = self
                .headers
                .iter()
                .filter(|(name, _)| names(name.as_ref()))
                .filter_map(|(name, values)| {
                    let value: String = values
                        .first()?
                        .as_str()
                        .chars()
                        .take(MAX_TRUNCATED_VALUE)
                        .collect();
                    Some((name.clone(), header_value(&value)))
                })
                .collect();
        }
    }
}

impl Pending {
    /// A dead letter's copy, for the stream DEAD_LETTERS.
    pub(super) fn is_copy(&self) -> bool {
        self.subject.starts_with("dlq.")
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }
}

fn headers(bus: &Bus, row: &Pending, span: &Span) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", header_value(&row.message_id));
    // A message that is published again keeps its original source.
    headers.insert("ce-source", format!("/weft/{}", bus.service()));
    for (name, value) in &row.headers {
        // A foreign message may have a name that the protocol does not allow.
        if let Ok(name) = name.parse::<async_nats::HeaderName>() {
            headers.insert(name, header_value(value));
        }
    }
    // The consumer's span becomes a child of the publication.
    let traceparent = trace::traceparent(span);
    if !traceparent.is_empty() {
        headers.insert("traceparent", traceparent);
    }
    headers
}

/// A header is one line; an error message may have several.
fn header_value(text: &str) -> HeaderValue {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.parse().unwrap_or_else(|_| HeaderValue::new())
}

/// The bytes of `NATS/1.0`, of a line for each value, and of the empty line.
fn header_bytes(headers: &HeaderMap) -> usize {
    let lines = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(move |value| name.len() + value.as_str().len() + 4)
    });
    lines.sum::<usize>() + 12
}
