//! Reads stored messages by the broker's API, which returns the headers as bytes. The client closes its connection
//! over headers that it cannot parse, so a message that may have such headers is read this way.

use std::str::FromStr as _;

use async_nats::{
    HeaderName,
    jetstream::{Context, context::RequestErrorKind, response::Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    Error,
    envelope::{Headers, storable},
};

/// The broker has no such message.
const MESSAGE_NOT_FOUND: u64 = 10037;

pub(crate) struct StoredMessage {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    /// As text; invalid UTF-8 is replaced.
    pub(crate) headers: Headers,
    pub(crate) message_id: String,
    pub(crate) body: Vec<u8>,
    pub(crate) time: Option<OffsetDateTime>,
    /// Why the client cannot parse the headers. `None`: it can.
    pub(crate) unreadable: Option<&'static str>,
}

#[derive(Deserialize)]
struct MessageResponse {
    message: RawMessage,
}

#[derive(Deserialize)]
struct RawMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    time: String,
}

/// The message of this sequence. `None`: there is none.
pub(crate) async fn get(
    jetstream: &Context,
    stream: &str,
    sequence: u64,
) -> Result<Option<StoredMessage>, Error> {
    request_message(jetstream, stream, &json!({ "seq": sequence })).await
}

/// The first message on a subject, wildcards allowed, that has this sequence or a later one.
pub(crate) async fn next(
    jetstream: &Context,
    stream: &str,
    subject: &str,
    sequence: u64,
) -> Result<Option<StoredMessage>, Error> {
    let request = json!({ "seq": sequence, "next_by_subj": subject });
    request_message(jetstream, stream, &request).await
}

async fn request_message(
    jetstream: &Context,
    stream: &str,
    request: &Value,
) -> Result<Option<StoredMessage>, Error> {
    let response = jetstream
        .request(format!("STREAM.MSG.GET.{stream}"), request)
        .await;
    let response: Response<MessageResponse> = response.map_err(|error| match error.kind() {
        RequestErrorKind::TimedOut => Error::Broker("it does not answer in time".into()),
        _ => Error::broker(error),
    })?;
    match response {
        Response::Ok(response) => Ok(Some(response.message.into())),
        Response::Err { error } if error.error_code().0 == MESSAGE_NOT_FOUND => Ok(None),
        Response::Err { error } => Err(Error::broker(error)),
    }
}

impl From<RawMessage> for StoredMessage {
    fn from(raw: RawMessage) -> Self {
        let bytes = STANDARD.decode(raw.hdrs).unwrap_or_default();
        let unreadable = header_error(&bytes);
        let (headers, message_id) = parse_headers(&bytes);
        Self {
            subject: raw.subject,
            sequence: raw.seq,
            headers,
            message_id,
            body: STANDARD.decode(raw.data).unwrap_or_default(),
            time: OffsetDateTime::parse(&raw.time, &Rfc3339).ok(),
            unreadable,
        }
    }
}

/// Why the client would fail to parse the headers. `None`: it would not.
fn header_error(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Some("the headers are no UTF-8");
    };
    let mut lines = text.lines().peekable();
    if lines.next().is_none_or(|line| !line.starts_with("NATS/1.0")) {
        return Some("the headers do not begin with NATS/1.0");
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let Some((name, _)) = line.split_once(':') else {
            return Some("a header has no colon");
        };
        if HeaderName::from_str(name).is_err() {
            return Some("a header's name holds a character that none may have");
        }
        while lines
            .next_if(|line| line.starts_with(char::is_whitespace))
            .is_some()
        {}
    }
    None
}

/// The headers without the broker's own, and the message id, which is one of those.
fn parse_headers(bytes: &[u8]) -> (Headers, String) {
    let text = String::from_utf8_lossy(bytes);
    let mut message_id = String::new();
    let mut headers = Headers::new();
    for line in text.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = storable(value.trim());
        if name.eq_ignore_ascii_case("nats-msg-id") {
            message_id = value;
        } else if !name.to_ascii_lowercase().starts_with("nats-") {
            headers.insert(storable(name), value);
        }
    }
    (headers, message_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_the_client_cannot_parse_are_detected_and_kept_as_text() {
        let fine = b"NATS/1.0\r\nce-id: 7\r\nNats-Msg-Id: m\r\n\r\n";
        assert_eq!(header_error(fine), None);
        assert_eq!(
            parse_headers(fine),
            ([("ce-id".into(), "7".into())].into(), "m".into())
        );
        for broken in [
            &b"NATS/1.0\r\nce-id: \xff\r\n\r\n"[..],
            b"NATS/1.0\r\nce id: 7\r\n\r\n",
            b"NATS/1.0\r\nce-id\r\n\r\n",
            b"HTTP/1.1\r\nce-id: 7\r\n\r\n",
        ] {
            assert!(header_error(broken).is_some(), "{broken:?}");
        }
        let (kept, _) = parse_headers(b"NATS/1.0\r\nce-id: a\xff\r\n\r\n");
        assert_eq!(kept["ce-id"], "a\u{fffd}");
        assert_eq!(header_error(b""), None, "a message without headers");
    }
}
