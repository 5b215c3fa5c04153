//! Counters and durations by OpenTelemetry's messaging conventions.

use std::time::Duration;

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Histogram},
};

/// Metrics of publishing.
pub(crate) struct Relay {
    sent: Counter<u64>,
}

/// Metrics of consuming.
pub(crate) struct Consumer {
    consumed: Counter<u64>,
    duration: Histogram<f64>,
    dead: Counter<u64>,
    new_fingerprint: Counter<u64>,
    consumer: String,
}

impl Relay {
    pub(crate) fn new() -> Self {
        let sent = global::meter("events")
            .u64_counter("messaging.client.sent.messages")
            .with_description("Messages that the broker acknowledged")
            .with_unit("{message}")
            .build();
        Self { sent }
    }

    pub(crate) fn record_published(&self, messages: usize) {
        let labels = [
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", "publish"),
        ];
        self.sent.add(messages as u64, &labels);
    }
}

impl Consumer {
    pub(crate) fn new(consumer: &str) -> Self {
        let meter = global::meter("events");
        let metrics = Self {
            consumed: meter
                .u64_counter("messaging.client.consumed.messages")
                .with_description("Deliveries, redeliveries and replays included")
                .with_unit("{message}")
                .build(),
            duration: meter
                .f64_histogram("messaging.process.duration")
                .with_description("From the start of handling a delivery to its outcome")
                .with_unit("s")
                .build(),
            dead: meter
                .u64_counter("weft.dead_letter.created")
                .with_description("Events that became dead letters, and replays that failed for good")
                .with_unit("{event}")
                .build(),
            new_fingerprint: meter
                .u64_counter("weft.dead_letter.new_fingerprint")
                .with_description("Dead letters with a new fingerprint")
                .with_unit("{event}")
                .build(),
            consumer: consumer.to_owned(),
        };
        // Starts at zero, so that an alert sees the first dead letter as an increase.
        metrics.dead.add(0, &metrics.labels());
        metrics.new_fingerprint.add(0, &metrics.labels());
        metrics
    }

    /// `error` is empty for an attempt that took effect.
    pub(crate) fn record_attempt(&self, redelivered: bool, took: Duration, error: &'static str) {
        let mut labels = self.labels();
        labels.push(KeyValue::new("weft.redelivered", redelivered));
        self.consumed.add(1, &labels);
        labels.pop();
        if !error.is_empty() {
            labels.push(KeyValue::new("error.type", error));
        }
        self.duration.record(took.as_secs_f64(), &labels);
    }

    /// `new_kind`: no dead letter has had this fingerprint before.
    pub(crate) fn record_dead_letter(&self, new_kind: bool) {
        self.dead.add(1, &self.labels());
        if new_kind {
            self.new_fingerprint.add(1, &self.labels());
        }
    }

    fn labels(&self) -> Vec<KeyValue> {
        vec![
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.consumer.group.name", self.consumer.clone()),
        ]
    }
}
