//! CloudEvents 1.0 in NATS binary mode: the attributes are lowercase `ce-*` headers, the Protobuf message is the
//! body.

use std::{collections::BTreeMap, str::FromStr};

use async_nats::HeaderMap;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::error::Error;

/// Header names and values, as they are stored.
pub(crate) type Headers = BTreeMap<String, String>;

/// The dead letter that a message replays or continues after.
pub(crate) const DEAD_LETTER: &str = "weft-dead-letter";

/// The aggregate and the facility of the dead letter that a message refers to.
pub(crate) const KEY: &str = "weft-key";
pub(crate) const FACILITY: &str = "weft-facility";

/// The original stream and sequence of a message that is sent again.
pub(crate) const STREAM: &str = "weft-stream";
pub(crate) const SEQUENCE: &str = "weft-sequence";

/// The size in bytes of a body that a copy omits.
pub(crate) const BODY_OMITTED: &str = "weft-body-omitted";

/// Why the headers of the original cannot be read. Set on the copy that replaces it.
pub(crate) const UNREADABLE: &str = "weft-unreadable";

/// The attributes of one event message.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) event_id: Uuid,
    pub(crate) type_name: String,
    pub(crate) facility: String,
    pub(crate) aggregate: String,
    pub(crate) aggregate_id: Uuid,
    pub(crate) version: i64,
    pub(crate) saga_id: Option<Uuid>,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) traceparent: String,
}

/// The headers that an event is published with. The relay adds `ce-source`, which the log does not store.
pub(crate) fn encode(envelope: Envelope, occurred_at: OffsetDateTime) -> Headers {
    let time = occurred_at.format(&Rfc3339).unwrap_or_default();
    let correlation = envelope
        .saga_id
        .or(envelope.causation_id)
        .unwrap_or(envelope.event_id);
    let mut headers = Headers::from([
        ("ce-specversion".into(), "1.0".into()),
        ("ce-id".into(), envelope.event_id.to_string()),
        ("ce-type".into(), envelope.type_name),
        ("ce-time".into(), time),
        ("ce-subject".into(), envelope.aggregate_id.to_string()),
        ("ce-datacontenttype".into(), "application/protobuf".into()),
        ("ce-partitionkey".into(), envelope.aggregate_id.to_string()),
        ("ce-sequence".into(), envelope.version.to_string()),
        ("ce-correlationid".into(), correlation.to_string()),
        ("ce-aggregate".into(), envelope.aggregate),
        ("ce-facility".into(), envelope.facility),
    ]);
    if let Some(saga) = envelope.saga_id {
        headers.insert("ce-sagaid".into(), saga.to_string());
    }
    if let Some(cause) = envelope.causation_id {
        headers.insert("ce-causationid".into(), cause.to_string());
    }
    if !envelope.traceparent.is_empty() {
        headers.insert("traceparent".into(), envelope.traceparent);
    }
    headers
}

/// The headers of a message without the broker's own `Nats-*` control headers, as text that the database accepts.
pub(crate) fn storable_headers(headers: Option<&HeaderMap>) -> Headers {
    let Some(headers) = headers else {
        return Headers::new();
    };
    let entries = headers.iter().map(|(name, values)| {
        let value = values
            .iter()
            .map(|value| value.as_str())
            .collect::<Vec<_>>()
            .join(",");
        (storable(name.as_ref()), storable(&value))
    });
    entries
        .filter(|(name, _)| !name.to_ascii_lowercase().starts_with("nats-"))
        .collect()
}

/// Replaces the only character that PostgreSQL's text cannot hold.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

impl Envelope {
    /// The attributes; or, when they cannot be parsed, a placeholder and the reason.
    pub(crate) fn parse_or_placeholder(
        headers: &Headers,
        stream: &str,
        sequence: u64,
    ) -> (Self, Option<String>) {
        match Self::parse(headers) {
            Ok(envelope) => (envelope, headers.get(UNREADABLE).cloned()),
            Err(error) => (
                Self::placeholder(headers, stream, sequence),
                Some(error.to_string()),
            ),
        }
    }

    /// Parses the attributes. An error names the first one that is missing or malformed.
    pub(crate) fn parse(headers: &Headers) -> Result<Self, Error> {
        Ok(Self {
            event_id: required(headers, "ce-id")?,
            type_name: required(headers, "ce-type")?,
            facility: required::<Facility>(headers, "ce-facility")?.0,
            aggregate: headers.get("ce-aggregate").cloned().unwrap_or_default(),
            aggregate_id: required(headers, "ce-partitionkey")?,
            version: required(headers, "ce-sequence")?,
            saga_id: optional(headers, "ce-sagaid")?,
            causation_id: optional(headers, "ce-causationid")?,
            traceparent: headers.get("traceparent").cloned().unwrap_or_default(),
        })
    }

    /// The identity of the dead letter that a message refers to. `None`: the message contains the event itself, as
    /// earlier builds send it.
    pub(crate) fn parse_reference(headers: &Headers) -> Option<Self> {
        let dead_letter = valid_or_none(headers, DEAD_LETTER)?;
        Some(Self {
            event_id: dead_letter,
            type_name: String::new(),
            facility: headers.get(FACILITY).cloned().unwrap_or_default(),
            aggregate: String::new(),
            aggregate_id: valid_or_none(headers, KEY)?,
            version: 0,
            saga_id: None,
            causation_id: None,
            traceparent: String::new(),
        })
    }

    /// What can be read of a message with malformed attributes: enough to store it as a dead letter. A missing
    /// event or aggregate id is derived from the position in the stream, so that a redelivery is the same event.
    /// Without a valid facility both ids are derived from the position, so that the message cannot block another
    /// facility's aggregate.
    fn placeholder(headers: &Headers, stream: &str, sequence: u64) -> Self {
        let text = |name: &str| headers.get(name).cloned().unwrap_or_default();
        let position = match (headers.get(STREAM), headers.get(SEQUENCE)) {
            (Some(stream), Some(sequence)) => format!("{stream}/{sequence}"),
            _ => format!("{stream}/{sequence}"),
        };
        let position = Uuid::new_v5(&Uuid::NAMESPACE_URL, position.as_bytes());
        let facility = valid_or_none(headers, "ce-facility").map(|Facility(name)| name);
        let named = |name| {
            facility
                .as_ref()
                .and_then(|_| valid_or_none(headers, name))
                .unwrap_or(position)
        };
        Self {
            event_id: named("ce-id"),
            type_name: text("ce-type"),
            aggregate: text("ce-aggregate"),
            aggregate_id: named("ce-partitionkey"),
            version: valid_or_none(headers, "ce-sequence").unwrap_or_default(),
            saga_id: None,
            causation_id: None,
            traceparent: text("traceparent"),
            facility: facility.unwrap_or_default(),
        }
    }

    /// The trace's id, 32 hexadecimal digits; empty when there is none.
    pub(crate) fn trace_id(&self) -> &str {
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }
}

/// A facility's identifier: 1 to 64 of `A-Z a-z 0-9 . _ -`.
struct Facility(String);

impl FromStr for Facility {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if (1..=64).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.to_owned()))
        } else {
            Err(())
        }
    }
}

fn required<T: FromStr>(headers: &Headers, name: &str) -> Result<T, Error> {
    optional(headers, name)?.ok_or_else(|| Error::Envelope(format!("the header {name} is missing")))
}

fn optional<T: FromStr>(headers: &Headers, name: &str) -> Result<Option<T>, Error> {
    let Some(text) = headers.get(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|_| Error::Envelope(format!("the header {name} cannot be {text:?}")))
}

fn valid_or_none<T: FromStr>(headers: &Headers, name: &str) -> Option<T> {
    optional(headers, name).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(facility: &str) -> Headers {
        let key = Uuid::nil().to_string();
        [
            ("ce-facility", facility),
            ("ce-partitionkey", &key),
            ("ce-id", &key),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn a_message_without_a_facility_is_identified_by_its_stream_position_alone() {
        for invalid in ["", "two words", "'; drop table", &"x".repeat(65)] {
            let (envelope, malformed) = Envelope::parse_or_placeholder(&headers(invalid), "EVENTS", 7);
            assert!(malformed.is_some() && envelope.facility.is_empty(), "{invalid}");
            assert_ne!(envelope.aggregate_id, Uuid::nil());
            let mut resent = headers(invalid);
            resent.insert(STREAM.into(), "EVENTS".into());
            resent.insert(SEQUENCE.into(), "7".into());
            let (resent, _) = Envelope::parse_or_placeholder(&resent, "EVENTS", 99);
            assert_eq!(
                (resent.event_id, resent.aggregate_id),
                (envelope.event_id, envelope.aggregate_id)
            );
        }
        let (envelope, malformed) = Envelope::parse_or_placeholder(&headers("al-noor"), "EVENTS", 7);
        assert!(malformed.is_some(), "it names no type");
        assert_eq!(
            (envelope.facility.as_str(), envelope.aggregate_id),
            ("al-noor", Uuid::nil())
        );
    }
}
