use opentelemetry::trace::TraceContextExt as _;
use prost::{Message, Name};
use time::OffsetDateTime;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use uuid::Uuid;

/// Something that happened, ready to be appended in the transaction that made it happen.
#[derive(Clone, Debug)]
pub struct Event {
    /// A UUID version 7; the message id under which the broker and every consumer know it.
    pub id: Uuid,
    /// The full name of the message, `order.v1.OrderPlaced`.
    pub type_name: String,
    pub meta: Meta,
    pub occurred_at: OffsetDateTime,
    /// The trace in which it happened, as a W3C `traceparent`. Empty: none.
    pub traceparent: String,
    /// The encoded message.
    pub body: Vec<u8>,
}

/// What an event belongs to.
#[derive(Clone, Debug)]
pub struct Meta {
    pub facility: String,
    pub aggregate_id: Uuid,
    /// The aggregate's version, counted up under its row lock: the order of events within the aggregate.
    pub version: i64,
    pub saga_id: Option<Uuid>,
    /// The event that this one follows from.
    pub causation_id: Option<Uuid>,
}

impl Event {
    /// An event that happened now, in the current span. Its message must carry `(events.v1.event)`, or
    /// [`append`](crate::append) refuses it.
    pub fn of<M: Message + Name>(message: &M, meta: Meta) -> Self {
        Self {
            id: Uuid::now_v7(),
            type_name: M::full_name(),
            meta,
            occurred_at: OffsetDateTime::now_utc(),
            traceparent: current_traceparent(),
            body: message.encode_to_vec(),
        }
    }
}

/// The current span as a W3C `traceparent`; empty outside of any trace.
pub(crate) fn current_traceparent() -> String {
    let context = tracing::Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return String::new();
    }
    format!(
        "00-{}-{}-{:02x}",
        span.trace_id(),
        span.span_id(),
        span.trace_flags().to_u8()
    )
}
