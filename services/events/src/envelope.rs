//! CloudEvents 1.0 in NATS binary mode: the attributes travel as lowercase `ce-*` headers beside the Protobuf body.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::{contract::Declaration, error::Error, event::Event};

/// Header names and values, as they are stored.
pub(crate) type Headers = BTreeMap<String, String>;

/// Names the dead letter that a message replays or continues after.
pub(crate) const DEAD_LETTER: &str = "weft-dead-letter";

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

/// The headers that an event is published with. The relay adds `ce-source`, which the transaction does not know.
pub(crate) fn headers(event: &Event, declaration: &Declaration) -> Headers {
    let meta = &event.meta;
    let time = event.occurred_at.format(&Rfc3339).unwrap_or_default();
    let correlation = meta.saga_id.or(meta.causation_id).unwrap_or(event.id);
    let mut headers = Headers::from([
        ("ce-specversion".into(), "1.0".into()),
        ("ce-id".into(), event.id.to_string()),
        ("ce-type".into(), event.type_name.clone()),
        ("ce-time".into(), time),
        ("ce-subject".into(), meta.aggregate_id.to_string()),
        ("ce-datacontenttype".into(), "application/protobuf".into()),
        ("ce-partitionkey".into(), meta.aggregate_id.to_string()),
        ("ce-sequence".into(), meta.version.to_string()),
        ("ce-correlationid".into(), correlation.to_string()),
        ("ce-aggregate".into(), declaration.aggregate.clone()),
        ("ce-facility".into(), meta.facility.clone()),
    ]);
    if let Some(saga) = meta.saga_id {
        headers.insert("ce-sagaid".into(), saga.to_string());
    }
    if let Some(cause) = meta.causation_id {
        headers.insert("ce-causationid".into(), cause.to_string());
    }
    if !event.traceparent.is_empty() {
        headers.insert("traceparent".into(), event.traceparent.clone());
    }
    headers
}

/// The headers of a message without the broker's own `Nats-*` control headers.
pub(crate) fn stored(headers: Option<&HeaderMap>) -> Headers {
    let Some(headers) = headers else {
        return Headers::new();
    };
    let entries = headers.iter().map(|(name, values)| {
        let value = values
            .iter()
            .map(|value| value.as_str())
            .collect::<Vec<_>>()
            .join(",");
        (name.to_string(), value)
    });
    entries
        .filter(|(name, _)| !name.to_ascii_lowercase().starts_with("nats-"))
        .collect()
}

impl Envelope {
    /// Reads the attributes. An error names the first one that is missing or malformed.
    pub(crate) fn parse(headers: &Headers) -> Result<Self, Error> {
        Ok(Self {
            event_id: required(headers, "ce-id")?,
            type_name: required(headers, "ce-type")?,
            facility: required(headers, "ce-facility")?,
            aggregate: headers.get("ce-aggregate").cloned().unwrap_or_default(),
            aggregate_id: required(headers, "ce-partitionkey")?,
            version: required(headers, "ce-sequence")?,
            saga_id: optional(headers, "ce-sagaid")?,
            causation_id: optional(headers, "ce-causationid")?,
            traceparent: headers.get("traceparent").cloned().unwrap_or_default(),
        })
    }

    /// What can be known of a message whose attributes cannot be read: enough to keep it as a dead letter. Its id
    /// follows from its place in the stream, so that a second delivery is the same event.
    pub(crate) fn unreadable(headers: &Headers, stream: &str, sequence: u64) -> Self {
        let place = format!("{stream}/{sequence}");
        Self {
            event_id: optional(headers, "ce-id")
                .ok()
                .flatten()
                .unwrap_or_else(|| named(&place)),
            type_name: headers.get("ce-type").cloned().unwrap_or_default(),
            facility: headers.get("ce-facility").cloned().unwrap_or_default(),
            aggregate: headers.get("ce-aggregate").cloned().unwrap_or_default(),
            aggregate_id: optional(headers, "ce-partitionkey")
                .ok()
                .flatten()
                .unwrap_or_else(|| named(&place)),
            version: optional(headers, "ce-sequence")
                .ok()
                .flatten()
                .unwrap_or_default(),
            saga_id: None,
            causation_id: None,
            traceparent: headers.get("traceparent").cloned().unwrap_or_default(),
        }
    }

    /// The trace's id, 32 hexadecimal digits; empty when there is none.
    pub(crate) fn trace_id(&self) -> &str {
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }
}

fn named(place: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, place.as_bytes())
}

fn required<T: std::str::FromStr>(headers: &Headers, name: &str) -> Result<T, Error> {
    optional(headers, name)?.ok_or_else(|| Error::Envelope(format!("the header {name} is missing")))
}

fn optional<T: std::str::FromStr>(headers: &Headers, name: &str) -> Result<Option<T>, Error> {
    let Some(text) = headers.get(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|_| Error::Envelope(format!("the header {name} cannot be {text:?}")))
}
