//! Streams new events to an operator.

use std::{pin::Pin, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
};
use futures_util::{Stream, StreamExt as _};
use proto::ops::v1 as ops;
use time::OffsetDateTime;
use tonic::Status;

use super::{Operator, dead_letters, error::Error};
use crate::{
    Bus, contract,
    envelope::{Envelope, storable_headers},
    streams,
};

/// The broker deletes the consumer of a tail this long after its reader has gone.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(30);

pub(super) type Tail = Pin<Box<dyn Stream<Item = Result<ops::TailEventsResponse, Status>> + Send>>;

/// The events of the operator's facility. Events without a facility are included, since only administrators may
/// call this.
pub(super) async fn start(
    bus: &Bus,
    operator: &Operator,
    request: &ops::TailEventsRequest,
) -> Result<Tail, Error> {
    let own = format!("evt.{}.", bus.service());
    let subject = match request.subject.as_str() {
        "" => format!("{own}>"),
        subject if subject.starts_with(&own) => subject.to_owned(),
        _ => {
            return Err(Error::Invalid {
                field: "subject",
                problem: "must be one of this service's own",
            });
        }
    };
    let deliver_policy = match request.since {
        None => DeliverPolicy::New,
        Some(since) => {
            let since = Duration::try_from(since).map_err(|_| Error::Invalid {
                field: "since",
                problem: "must not be negative",
            })?;
            let start_time = OffsetDateTime::now_utc() - since.min(bus.settings().stream_age());
            DeliverPolicy::ByStartTime { start_time }
        }
    };
    let config = pull::Config {
        deliver_policy,
        ack_policy: AckPolicy::None,
        filter_subject: subject,
        inactive_threshold: INACTIVE_THRESHOLD,
        ..pull::Config::default()
    };
    let jetstream = bus.jetstream();
    let consumer = jetstream.create_consumer_on_stream(config, streams::EVENTS).await;
    let consumer: PullConsumer = consumer.map_err(broker)?;
    let messages = consumer.messages().await.map_err(broker)?;
    let facility = operator.facility.clone();
    let events = messages.filter_map(move |message| {
        let event = match message {
            Ok(message) => Some(event(&message))
                .filter(|event| event.facility.is_empty() || event.facility == facility)
                .map(Ok),
            Err(error) => Some(Err(broker(error).into())),
        };
        std::future::ready(event)
    });
    Ok(Box::pin(events))
}

fn event(message: &jetstream::Message) -> ops::TailEventsResponse {
    let headers = storable_headers(message.headers.as_ref());
    let info = message.info().ok();
    let sequence = info.as_ref().map_or(0, |info| info.stream_sequence);
    let (envelope, _) = Envelope::parse_or_placeholder(&headers, streams::EVENTS, sequence);
    ops::TailEventsResponse {
        event_id: envelope.event_id.to_string(),
        subject: message.subject.to_string(),
        stream_sequence: sequence,
        aggregate_id: envelope.aggregate_id.to_string(),
        aggregate_version: envelope.version,
        publish_time: info.map(|info| dead_letters::timestamp(info.published)),
        body_json: contract::to_json(&envelope.type_name, &message.payload).unwrap_or_default(),
        trace_id: envelope.trace_id().to_owned(),
        event_type: envelope.type_name,
        facility: envelope.facility,
        aggregate: envelope.aggregate,
    }
}

fn broker(error: impl std::fmt::Display) -> Error {
    Error::Broker(crate::Error::broker(error).to_string())
}
