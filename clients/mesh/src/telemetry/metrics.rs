//! The client's metrics: OpenTelemetry's RPC conventions for calls, gRFC A66 for attempts, gRFC A96 for retries
//! and hedges, gRFC A91 for ejections.

use std::{sync::Arc, time::Duration};

use opentelemetry::{
    KeyValue, StringValue, global,
    metrics::{Counter, Histogram},
};
use tonic::Code;

use super::{Repetitions, traffic::Traffic};
use crate::{code, endpoint::breaker::State};

/// A constant, because the conventions are still a release candidate.
const STATUS: &str = "rpc.response.status_code";

/// Bucket boundaries. Seconds.
const LATENCY: [f64; 16] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];
/// Bucket boundaries of gRFC A96.
const COUNT: [f64; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

/// One channel's instruments. They belong to the meter provider that is installed when the channel is created.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// The calls and attempts of the last ten seconds, for snapshots.
    pub(crate) traffic: Traffic,
    /// The called service.
    service: StringValue,
    /// The target as configured, which is an attribute of gRFC A66's metrics.
    target: StringValue,
    call_duration: Histogram<f64>,
    attempts_started: Counter<u64>,
    attempt_duration: Histogram<f64>,
    retries: Histogram<u64>,
    transparent_retries: Histogram<u64>,
    hedges: Histogram<u64>,
    retry_delay: Histogram<f64>,
    ejections: Counter<u64>,
    unenforced: Counter<u64>,
    throttled: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new(service: &str, target: &str) -> Metrics {
        let meter = global::meter("mesh");
        let seconds = |name, description| {
            let builder = meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description);
            builder.with_boundaries(LATENCY.to_vec()).build()
        };
        let counts = |name, unit, description| {
            let builder = meter
                .u64_histogram(name)
                .with_unit(unit)
                .with_description(description);
            builder.with_boundaries(COUNT.to_vec()).build()
        };
        let counter = |name, unit, description| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        Metrics {
            traffic: Traffic::new(),
            service: StringValue::from(Arc::<str>::from(service)),
            target: StringValue::from(Arc::<str>::from(target)),
            call_duration: seconds("rpc.client.call.duration", "Calls, to the end of the response"),
            attempts_started: counter("grpc.client.attempt.started", "{attempt}", "Attempts sent"),
            attempt_duration: seconds(
                "grpc.client.attempt.duration",
                "Attempts, to the end of the response",
            ),
            retries: counts("grpc.client.call.retries", "{retry}", "Retries of a call"),
            transparent_retries: counts(
                "grpc.client.call.transparent_retries",
                "{transparent_retry}",
                "Repetitions of requests that no server saw",
            ),
            hedges: counts("grpc.client.call.hedges", "{hedge}", "Hedges of a call"),
            retry_delay: seconds("grpc.client.call.retry_delay", "Time waited between attempts"),
            ejections: counter(
                "grpc.lb.outlier_detection.ejections_enforced",
                "{ejection}",
                "Endpoints taken out of rotation",
            ),
            unenforced: counter(
                "grpc.lb.outlier_detection.ejections_unenforced",
                "{ejection}",
                "Detected endpoints that stay in rotation: too many others are out, or a policy enforces only a part",
            ),
            throttled: counter(
                "mesh.client.throttled",
                "{call}",
                "Calls refused before they were sent",
            ),
        }
    }

    pub(crate) fn call_ended(&self, method: &StringValue, code: Code, duration: Duration) {
        self.traffic.call_ended(code, duration);
        let attributes = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method.clone()),
            KeyValue::new("server.address", self.service.clone()),
            KeyValue::new(STATUS, code::name(code)),
        ];
        self.call_duration.record(duration.as_secs_f64(), &attributes);
    }

    pub(crate) fn attempt_started(&self, method: &StringValue) {
        self.attempts_started.add(1, &self.labels(method));
    }

    /// `group` is the group of endpoints that a route has selected; the service config bounds their number.
    pub(crate) fn attempt_ended(
        &self,
        method: &StringValue,
        group: Option<&StringValue>,
        code: Code,
        duration: Duration,
    ) {
        self.traffic.attempt_ended(code);
        let [method, target] = self.labels(method);
        let status = KeyValue::new("grpc.status", code::name(code));
        let duration = duration.as_secs_f64();
        match group {
            None => self.attempt_duration.record(duration, &[method, target, status]),
            Some(group) => {
                let group = KeyValue::new("mesh.route.group", group.clone());
                self.attempt_duration
                    .record(duration, &[method, target, status, group]);
            }
        }
    }

    /// Records nothing for a call that was sent only once.
    pub(super) fn record_repetitions(&self, method: &StringValue, repetitions: &Repetitions) {
        let &Repetitions {
            retries,
            transparent,
            hedges,
            waited,
            ..
        } = repetitions;
        if retries + transparent + hedges == 0 {
            return;
        }
        let labels = self.labels(method);
        let counts = [
            (&self.retries, retries),
            (&self.transparent_retries, transparent),
            (&self.hedges, hedges),
        ];
        for (histogram, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            histogram.record(count, &labels);
        }
        self.retry_delay.record(waited.as_secs_f64(), &labels);
    }

    pub(crate) fn ejected(&self, state: &State) {
        if let State::Ejected { method, .. } = state {
            let attributes = [
                KeyValue::new("grpc.target", self.target.clone()),
                KeyValue::new("grpc.lb.outlier_detection.detection_method", *method),
            ];
            self.ejections.add(1, &attributes);
        }
    }

    /// `reason` is `max_ejection_overflow` or `enforcement_percentage`.
    pub(crate) fn unenforced(&self, method: &'static str, reason: &'static str) {
        let attributes = [
            KeyValue::new("grpc.target", self.target.clone()),
            KeyValue::new("grpc.lb.outlier_detection.detection_method", method),
            KeyValue::new("grpc.lb.outlier_detection.unenforced_reason", reason),
        ];
        self.unenforced.add(1, &attributes);
    }

    pub(crate) fn throttled(&self, method: &StringValue) {
        self.throttled.add(1, &self.labels(method));
    }

    fn labels(&self, method: &StringValue) -> [KeyValue; 2] {
        [
            KeyValue::new("grpc.method", method.clone()),
            KeyValue::new("grpc.target", self.target.clone()),
        ]
    }
}
