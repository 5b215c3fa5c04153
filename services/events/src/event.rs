use prost::{Message, Name};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::trace;

/// A domain event, to be appended in the transaction of its change.
#[derive(Clone, Debug)]
pub struct Event {
    /// A UUID version 7. The broker and all consumers use it as the message id.
    pub id: Uuid,
    /// The full name of the message, `order.v1.OrderPlaced`.
    pub type_name: String,
    pub meta: Meta,
    pub occurred_at: OffsetDateTime,
    /// The trace of the change, as a W3C `traceparent`. Empty: none.
    pub traceparent: String,
    /// The encoded message.
    pub body: Vec<u8>,
}

/// The identity and the context of an event.
#[derive(Clone, Debug)]
pub struct Meta {
    pub facility: String,
    pub aggregate_id: Uuid,
    /// The aggregate's version, incremented under its row lock. It orders the events of the aggregate.
    pub version: i64,
    pub saga_id: Option<Uuid>,
    /// The event that caused this one.
    pub causation_id: Option<Uuid>,
}

impl Event {
    /// An event that happened now, in the current span. Its message must have the option `(events.v1.event)`, or
    /// [`append`](crate::append) refuses it.
    pub fn new<M: Message + Name>(message: &M, meta: Meta) -> Self {
        Self {
            id: Uuid::now_v7(),
            type_name: M::full_name(),
            meta,
            occurred_at: OffsetDateTime::now_utc(),
            traceparent: trace::traceparent(&tracing::Span::current()),
            body: message.encode_to_vec(),
        }
    }
}
