use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};

use crate::Bus;

/// The broker's configuration of a consumer.
pub(crate) fn definition(bus: &Bus, name: &str, subjects: &[String]) -> pull::Config {
    let settings = &bus.settings().consumer;
    let retries = format!("retry.{}.{name}", bus.service());
    pull::Config {
        durable_name: Some(name.to_owned()),
        description: Some(format!("Consumer of the service {}", bus.service())),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_millis(settings.ack_wait_ms),
        max_deliver: settings.max_deliver,
        max_ack_pending: i64::try_from(settings.max_in_flight).unwrap_or(i64::MAX),
        filter_subjects: subjects.iter().cloned().chain([retries]).collect(),
        ..pull::Config::default()
    }
}
