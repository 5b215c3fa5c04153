//! The stream as it grows.

use std::{pin::Pin, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
};
use futures_util::{Stream, StreamExt as _};
use proto::ops::v1 as ops;
use time::OffsetDateTime;
use tonic::Status;

use super::{Caller, failure::Failure, letters};
use crate::{
    Bus, Error, contract,
    envelope::{Envelope, stored},
    streams,
};

/// How soon the broker forgets a tail whose reader has gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

pub(super) type Tail = Pin<Box<dyn Stream<Item = Result<ops::TailEventsResponse, Status>> + Send>>;

/// The events of the caller's facility. What names no facility is shown too: those who may call are administrators.
pub(super) async fn follow(
    bus: &Bus,
    caller: &Caller,
    request: &ops::TailEventsRequest,
) -> Result<Tail, Failure> {
    let own = format!("evt.{}.", bus.service());
    let subject = match request.subject.as_str() {
        "" => format!("{own}>"),
        subject if subject.starts_with(&own) => subject.to_owned(),
        _ => {
            return Err(Failure::Invalid {
                field: "subject",
                problem: "must be one of this service's own",
            });
        }
    };
    let deliver_policy = match request.since {
        None => DeliverPolicy::New,
        Some(since) => {
            let since = Duration::try_from(since).map_err(|_| Failure::Invalid {
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
        inactive_threshold: FORGOTTEN_AFTER,
        ..pull::Config::default()
    };
    let jetstream = bus.jetstream();
    let consumer = jetstream.create_consumer_on_stream(config, streams::EVENTS).await;
    let consumer: PullConsumer = consumer.map_err(broker)?;
    let messages = consumer.messages().await.map_err(broker)?;
    let facility = caller.facility.clone();
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
    let headers = stored(message.headers.as_ref());
    let info = message.info().ok();
    let sequence = info.as_ref().map_or(0, |info| info.stream_sequence);
    let (envelope, _) = Envelope::read(&headers, streams::EVENTS, sequence);
    ops::TailEventsResponse {
        event_id: envelope.event_id.to_string(),
        subject: message.subject.to_string(),
        stream_sequence: sequence,
        aggregate_id: envelope.aggregate_id.to_string(),
        aggregate_version: envelope.version,
        publish_time: info.map(|info| letters::timestamp(info.published)),
        body_json: contract::to_json(&envelope.type_name, &message.payload).unwrap_or_default(),
        trace_id: envelope.trace_id().to_owned(),
        event_type: envelope.type_name,
        facility: envelope.facility,
        aggregate: envelope.aggregate,
    }
}

fn broker(error: impl std::fmt::Display) -> Failure {
    Failure::Broker(Error::broker(error).to_string())
}
