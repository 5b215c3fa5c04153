use prost::{Message, Name};
use uuid::Uuid;

use crate::{HandlerError, envelope::Envelope};

/// An event as it is passed to a handler.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event's id, the same on every delivery and every replay.
    pub id: Uuid,
    /// The full name of the message, `claims.v1.ClaimRemitted`.
    pub type_name: String,
    pub facility: String,
    /// The kind of aggregate, `claim`.
    pub aggregate: String,
    pub aggregate_id: Uuid,
    pub version: i64,
    pub saga_id: Option<Uuid>,
    pub causation_id: Option<Uuid>,
    pub body: Vec<u8>,
    /// W3C trace context of the publisher. The handler already runs in a span below it.
    pub traceparent: String,
}

impl Delivery {
    pub(crate) fn new(envelope: &Envelope, body: Vec<u8>) -> Self {
        let envelope = envelope.clone();
        Self {
            id: envelope.event_id,
            type_name: envelope.type_name,
            facility: envelope.facility,
            aggregate: envelope.aggregate,
            aggregate_id: envelope.aggregate_id,
            version: envelope.version,
            saga_id: envelope.saga_id,
            causation_id: envelope.causation_id,
            body,
            traceparent: envelope.traceparent,
        }
    }

    /// Whether the body is an `M`.
    pub fn is<M: Name>(&self) -> bool {
        self.type_name == M::full_name()
    }

    /// Decodes the body as an `M`.
    ///
    /// # Errors
    /// [`HandlerError::Schema`] when the event is of another type or its body is malformed. Return it with `?`,
    /// and the event becomes a dead letter.
    pub fn decode<M: Message + Name + Default>(&self) -> Result<M, HandlerError> {
        if !self.is::<M>() {
            let text = format!("expected {}, got {}", M::full_name(), self.type_name);
            return Err(HandlerError::schema("TYPE_UNEXPECTED", text));
        }
        M::decode(self.body.as_slice())
            .map_err(|error| HandlerError::schema("BODY_MALFORMED", error.to_string()))
    }
}
