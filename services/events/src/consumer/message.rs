use async_nats::{Subject, jetstream};
use time::OffsetDateTime;
use uuid::Uuid;

use super::queue::Sequenced;
use crate::{
    Delivery, HandlerError,
    envelope::{DEAD_LETTER, Envelope, Headers, UNREADABLE, storable, storable_headers},
    stored_message::StoredMessage,
    streams,
};

/// A message as it was delivered by the broker, or as it was parked.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) stream: String,
    pub(super) sequence: u64,
    pub(super) consumer_sequence: u64,
    pub(super) delivered: i64,
    /// When the stream stored it.
    pub(super) published: OffsetDateTime,
    pub(super) subject: String,
    pub(super) message_id: String,
    pub(super) headers: Headers,
    pub(super) body: Vec<u8>,
    pub(super) envelope: Envelope,
    /// Why the envelope cannot be parsed. Such a message becomes a dead letter without being handled.
    pub(super) malformed: Option<String>,
    /// The subject for acknowledgements.
    pub(super) reply: Subject,
    /// The process may have crashed while it handled this message.
    pub(super) suspect: bool,
    /// It was handled in a batch that failed, and must be retried alone.
    pub(super) alone: bool,
    /// How often it has waited for the database or a lock.
    pub(super) waits: u32,
    /// How many events had taken effect in this process when it last began to wait.
    pub(super) effects_before: u64,
}

impl Message {
    /// `None` when the message is not a JetStream delivery.
    pub(super) fn from_jetstream(message: &jetstream::Message) -> Option<Self> {
        let info = message.info().ok()?;
        let (stream, sequence) = (info.stream.to_owned(), info.stream_sequence);
        let headers = storable_headers(message.headers.as_ref());
        let message_id = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Msg-Id"));
        let message_id = message_id.map(|id| storable(id.as_str())).unwrap_or_default();
        let (envelope, malformed) = match Envelope::parse_reference(&headers) {
            Some(envelope) => (envelope, None),
            None => Envelope::parse_or_placeholder(&headers, &stream, sequence),
        };
        Some(Self {
            stream,
            sequence,
            consumer_sequence: info.consumer_sequence,
            delivered: info.delivered,
            published: info.published,
            subject: message.subject.to_string(),
            message_id,
            body: message.payload.to_vec(),
            envelope,
            malformed,
            reply: message.reply.clone()?,
            suspect: info.delivered > 1,
            alone: false,
            waits: 0,
            effects_before: 0,
            headers,
        })
    }

    /// A message that was read from the stream and never delivered.
    pub(super) fn from_stored(message: StoredMessage, envelope: Envelope, malformed: &str) -> Self {
        Self {
            stream: streams::EVENTS.to_owned(),
            sequence: message.sequence,
            consumer_sequence: 0,
            delivered: 0,
            published: message.time.unwrap_or_else(OffsetDateTime::now_utc),
            subject: message.subject,
            message_id: message.message_id,
            headers: message.headers,
            body: message.body,
            envelope,
            malformed: Some(malformed.to_owned()),
            reply: Subject::from_static(""),
            suspect: false,
            alone: false,
            waits: 0,
            effects_before: 0,
        }
    }

    pub(super) fn key(&self) -> Uuid {
        self.envelope.aggregate_id
    }

    /// The dead letter that this message replays or continues after. `None` for a plain event.
    pub(super) fn dead_letter(&self) -> Option<Uuid> {
        self.headers.get(DEAD_LETTER)?.parse().ok()
    }

    /// Whether it only names a dead letter, which contains the event.
    pub(super) fn is_reference(&self) -> bool {
        Envelope::parse_reference(&self.headers).is_some()
    }

    /// The event as it is passed to the handler.
    ///
    /// # Errors
    /// When it cannot be parsed as an event.
    pub(super) fn delivery(&self) -> Result<Delivery, HandlerError> {
        if let Some(why) = self.headers.get(UNREADABLE) {
            return Err(HandlerError::schema("HEADERS_MALFORMED", why));
        }
        if let Some(malformed) = &self.malformed {
            return Err(HandlerError::schema("ENVELOPE_MALFORMED", malformed.as_str()));
        }
        Ok(Delivery::new(&self.envelope, self.body.clone()))
    }

    /// Whether it may share a transaction with others: an event without an earlier problem.
    pub(super) fn is_batchable(&self) -> bool {
        !self.suspect && !self.alone && self.malformed.is_none() && self.dead_letter().is_none()
    }
}

impl Sequenced for Message {
    fn sequence(&self) -> u64 {
        self.sequence
    }
}
