//! Messages with headers that the client cannot parse. The client closes its connection over one, so it can never
//! be delivered.

use std::str::FromStr as _;

use async_nats::{HeaderMap, HeaderName, HeaderValue, header::NATS_MESSAGE_ID};

use super::{Worker, message::Message};
use crate::{
    Error, HandlerError,
    envelope::{BODY_OMITTED, Envelope, SEQUENCE, STREAM, UNREADABLE},
    failure::Class,
    stored_message::{self, StoredMessage},
    streams,
};

/// Bytes of the original headers that a copy keeps at most.
const MAX_COPIED_HEADER_BYTES: usize = 16 << 10;

/// Bytes reserved for the headers that a copy is given.
const ADDED_HEADER_BYTES: usize = 4 << 10;

impl Worker {
    /// Makes dead letters of such messages among those delivered and not acknowledged, and replaces them by copies
    /// with readable headers. Without that no consumer of the stream could get past them, and each of the others
    /// must decide for itself.
    pub(super) async fn dead_letter_unreadable(
        &self,
        subjects: &[String],
        epoch: i64,
        acknowledged: u64,
        delivered: u64,
    ) -> Result<(), Error> {
        let jetstream = self.bus.jetstream();
        for subject in subjects {
            let mut from = acknowledged + 1;
            while from <= delivered {
                let next = stored_message::next(&jetstream, streams::EVENTS, subject, from).await?;
                let Some(message) = next.filter(|message| message.sequence <= delivered) else {
                    break;
                };
                from = message.sequence + 1;
                if let Some(why) = message.unreadable {
                    self.dead_letter_stored(message, why, epoch).await?;
                }
            }
        }
        Ok(())
    }

    async fn dead_letter_stored(&self, message: StoredMessage, why: &str, epoch: i64) -> Result<(), Error> {
        let sequence = message.sequence;
        let error = HandlerError::schema("HEADERS_MALFORMED", why);
        let (envelope, _) = Envelope::parse_or_placeholder(&message.headers, streams::EVENTS, sequence);
        let message = Message::from_stored(message, envelope, why);
        self.create_dead_letter(&message, epoch, Class::Schema, &error, None)
            .await?;
        self.replace(&message, why).await?;
        tracing::error!(
            consumer = self.name,
            stream.sequence = sequence,
            error = why,
            "a message has unreadable headers; it became a dead letter and was replaced by a readable copy"
        );
        Ok(())
    }

    /// The copy is published first. After a crash in between, or with another consumer at the same time, the same
    /// copy is published again, and the broker or the inbox recognises it.
    async fn replace(&self, message: &Message, why: &str) -> Result<(), Error> {
        let jetstream = self.bus.jetstream();
        let max_payload = self.bus.client().max_payload();
        let room = max_payload.saturating_sub(MAX_COPIED_HEADER_BYTES + ADDED_HEADER_BYTES);
        let mut headers = copy_headers(message);
        let body = if message.body.len() > room {
            headers.insert(BODY_OMITTED, message.body.len().to_string());
            Vec::new()
        } else {
            message.body.clone()
        };
        headers.insert(UNREADABLE, why);
        headers.insert(STREAM, message.stream.as_str());
        headers.insert(SEQUENCE, message.sequence.to_string());
        let id = format!("readable:{}:{}", message.stream, message.sequence);
        headers.insert(NATS_MESSAGE_ID, id);
        let published = jetstream.publish_with_headers(message.subject.clone(), headers, body.into());
        let acknowledged = published.await.map_err(Error::broker)?;
        acknowledged.await.map_err(Error::broker)?;
        let stream = jetstream.get_stream(streams::EVENTS).await;
        let stream = stream.map_err(Error::broker)?;
        if let Err(error) = stream.delete_message(message.sequence).await {
            // Another consumer may have deleted it first.
            let there = stored_message::get(&jetstream, streams::EVENTS, message.sequence).await?;
            if there.is_some() {
                return Err(Error::broker(error));
            }
        }
        Ok(())
    }
}

/// The headers that can be sent, within the bound. The dead letter has all of them.
fn copy_headers(message: &Message) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut room = MAX_COPIED_HEADER_BYTES;
    for (name, value) in &message.headers {
        let value = value.replace(char::is_control, "\u{fffd}");
        let (Ok(known), Ok(value)) = (HeaderName::from_str(name), HeaderValue::from_str(&value)) else {
            continue;
        };
        let size = name.len() + value.as_str().len() + 4;
        if size <= room {
            room -= size;
            headers.insert(known, value);
        }
    }
    headers
}
