//! Limits the rate of calls of each tenant, by the method's class, so that one tenant's batch does not starve the
//! others. Callers without a tenant share one rate.
//!
//! The generic cell rate algorithm (ITU-T I.371): each tenant and class has a theoretical arrival time. A call
//! advances it by one interval, and is rejected when it is further ahead than the burst allows. A call for several
//! requests is accepted like a single one, and advances it by one interval for each request, so that the following
//! calls wait.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use mesh::policy::RateLimitClass;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tonic::{Status, metadata::MetadataValue};

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next, refuse},
    frames,
    rejected_calls::RejectedCalls,
};
use crate::{Tenant, Violations, status};

/// From this many entries on, tenants without recent calls are removed; they start again with a full burst. The
/// next sweep follows after the number of entries has doubled, so that the cost of a call does not depend on their
/// number.
const SWEEP_THRESHOLD: usize = 10_000;
/// Most requests counted for one call; no method accepts more.
const MAX_REQUESTS: u32 = 64;

/// The limits by class, for each tenant, in one process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimits {
    /// Reads.
    pub read: Rate,
    /// Writes.
    pub write: Rate,
    /// Long streams and bulk imports.
    pub bulk: Rate,
    /// Operators' tools.
    pub admin: Rate,
}

/// A rate of calls.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Rate {
    /// Calls per second, on average. Default 0: unlimited.
    pub per_second: u32,
    /// Calls at once after a pause, at least 1. Default 100.
    pub burst: u32,
}

impl Default for Rate {
    fn default() -> Rate {
        Rate {
            per_second: 0,
            burst: 100,
        }
    }
}

impl RateLimits {
    fn for_class(&self, class: RateLimitClass) -> Rate {
        match class {
            RateLimitClass::Read => self.read,
            RateLimitClass::Write => self.write,
            RateLimitClass::Bulk => self.bulk,
            RateLimitClass::Admin => self.admin,
        }
    }

    pub(super) fn check(&self, violations: &mut Violations) {
        for (class, rate) in [
            ("read", self.read),
            ("write", self.write),
            ("bulk", self.bulk),
            ("admin", self.admin),
        ] {
            violations.require(rate.burst >= 1, format!("{class}.burst"), "must be at least 1");
        }
    }
}

pub(super) struct Layer {
    limits: RateLimits,
    arrival_times: Mutex<ArrivalTimes>,
    rejected: RejectedCalls,
    /// The word for a tenant.
    tenant_name: &'static str,
}

struct ArrivalTimes {
    by_key: HashMap<(Option<Tenant>, i32), Instant>,
    /// The number of entries at which the next sweep starts.
    sweep_at: usize,
    #[cfg(test)]
    swept: usize,
}

impl ArrivalTimes {
    /// The theoretical arrival time of a tenant and class.
    fn entry(&mut self, key: (Option<Tenant>, i32), now: Instant) -> &mut Instant {
        if self.by_key.len() >= self.sweep_at && !self.by_key.contains_key(&key) {
            #[cfg(test)]
            {
                self.swept += self.by_key.len();
            }
            self.by_key.retain(|_, until| *until > now);
            self.sweep_at = (self.by_key.len() * 2).max(SWEEP_THRESHOLD);
        }
        self.by_key.entry(key).or_insert(now)
    }
}

impl Default for ArrivalTimes {
    fn default() -> ArrivalTimes {
        ArrivalTimes {
            by_key: HashMap::new(),
            sweep_at: SWEEP_THRESHOLD,
            #[cfg(test)]
            swept: 0,
        }
    }
}

impl Layer {
    pub(super) fn new(limits: RateLimits, tenant_name: &'static str) -> Layer {
        Layer {
            limits,
            arrival_times: Mutex::default(),
            rejected: RejectedCalls::new(),
            tenant_name,
        }
    }

    /// Counts a call with this many requests.
    ///
    /// # Errors
    /// The delay before a retry, when the rate is exceeded.
    fn acquire(&self, tenant: Option<&Tenant>, class: RateLimitClass, requests: u32) -> Result<(), Duration> {
        let rate = self.limits.for_class(class);
        if rate.per_second == 0 {
            return Ok(());
        }
        let interval = Duration::from_secs(1) / rate.per_second;
        let max_ahead = interval * (rate.burst - 1);
        let now = Instant::now();
        let mut arrival_times = self.arrival_times.lock().unwrap_or_else(PoisonError::into_inner);
        let until = arrival_times.entry((tenant.cloned(), class as i32), now);
        let ahead = until.saturating_duration_since(now);
        if ahead > max_ahead {
            return Err(ahead - max_ahead);
        }
        *until = now + ahead + interval * requests;
        Ok(())
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        let Some(policy) = call.policy().filter(|policy| !policy.anonymous) else {
            return next.run(call);
        };
        let tenant = call.caller().and_then(|caller| caller.tenant.as_ref());
        match self.acquire(tenant, policy.rate_limit_class, requests(&call)) {
            Ok(()) => next.run(call),
            Err(wait) => {
                let wait = jittered(wait);
                self.rejected.record(call.method.as_deref(), "RATE_LIMITED", wait);
                let name = tenant.map(|_| self.tenant_name);
                Box::pin(async move { refuse(rate_limited(name, wait)) })
            }
        }
    }
}

/// The number of requests in a call; one, unless its method takes several.
fn requests(call: &Call) -> u32 {
    let field = call.method.as_ref().and_then(|method| method.requests);
    match (field, &call.received) {
        (Some(field), Some(Ok(frame))) => {
            occurrences(frames::message(frame.clone()), field).clamp(1, MAX_REQUESTS)
        }
        _ => 1,
    }
}

/// Counts a field in an encoded message, as far as it can be decoded.
fn occurrences(mut message: Bytes, field: u32) -> u32 {
    let mut count = 0;
    while message.has_remaining()
        && let Ok((tag, wire_type)) = decode_key(&mut message)
        && skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_ok()
    {
        count += u32::from(tag == field);
    }
    count
}

/// Adds up to a half, or up to 100 ms if that is more, so that callers that were rejected together do not return
/// together.
fn jittered(wait: Duration) -> Duration {
    let most = (wait / 2).max(Duration::from_millis(100));
    wait + most.mul_f64(rand::rng().random_range(0.0..1.0))
}

/// `tenant` is the word for one, if the caller has one.
fn rate_limited(tenant: Option<&str>, wait: Duration) -> Status {
    let text = match tenant {
        Some(tenant) => format!("the {tenant} exceeds its rate limit; nothing was started"),
        None => "the callers exceed their rate limit; nothing was started".to_owned(),
    };
    let mut refusal = status::resource_exhausted("RATE_LIMITED", text, wait);
    let pushback = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    refusal
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", MetadataValue::from(pushback));
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).unwrap()
    }

    fn layer(limits: RateLimits) -> Layer {
        Layer::new(limits, "tenant")
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_burst_the_rate_applies_to_each_tenant_and_class() {
        let rate = Rate {
            per_second: 10,
            burst: 3,
        };
        let layer = layer(RateLimits {
            write: rate,
            ..RateLimits::default()
        });
        let write = |name: &str| layer.acquire(Some(&tenant(name)), RateLimitClass::Write, 1);
        for _ in 0..3 {
            assert_eq!(write("F1"), Ok(()));
        }
        assert_eq!(write("F1"), Err(Duration::from_millis(100)));
        assert_eq!(write("F2"), Ok(()));
        // Callers without a tenant share one rate.
        let without = || layer.acquire(None, RateLimitClass::Write, 1);
        assert_eq!([without(), without(), without()], [Ok(()); 3]);
        assert!(without().is_err());
        assert_eq!(
            layer.acquire(Some(&tenant("F1")), RateLimitClass::Read, 1),
            Ok(())
        );
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(write("F1"), Ok(()));
        assert!(write("F1").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_costs_the_same_however_many_tenants_are_active() {
        let rate = Rate {
            per_second: 1,
            burst: 1,
        };
        let layer = layer(RateLimits {
            read: rate,
            ..RateLimits::default()
        });
        // All entries are still in use when the last one is added.
        let calls = 3 * SWEEP_THRESHOLD;
        for n in 0..calls {
            layer
                .acquire(Some(&tenant(&format!("F{n}"))), RateLimitClass::Read, 1)
                .unwrap();
        }
        let swept = layer.arrival_times.lock().unwrap().swept;
        assert!(
            swept <= 2 * calls,
            "{swept} entries were looked at for {calls} calls"
        );
        tokio::time::advance(Duration::from_secs(2)).await;
        for n in 0..2 * SWEEP_THRESHOLD {
            layer
                .acquire(Some(&tenant(&format!("G{n}"))), RateLimitClass::Read, 1)
                .unwrap();
        }
        let remembered = layer.arrival_times.lock().unwrap().by_key.len();
        assert!(remembered <= 2 * SWEEP_THRESHOLD, "{remembered} are remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_for_several_requests_counts_as_so_many() {
        let write = Rate {
            per_second: 10,
            burst: 1,
        };
        let layer = layer(RateLimits {
            write,
            ..RateLimits::default()
        });
        let write = |requests| layer.acquire(Some(&tenant("F1")), RateLimitClass::Write, requests);
        assert_eq!(write(20), Ok(()));
        assert_eq!(write(1), Err(Duration::from_secs(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(write(1), Ok(()));
    }

    #[test]
    fn the_requests_of_a_call_are_counted() {
        let message = proto::order::v1::PlaceOrdersRequest {
            requests: vec![proto::order::v1::PlaceOrderRequest::default(); 3],
        };
        let encoded = Bytes::from(prost::Message::encode_to_vec(&message));
        assert_eq!(occurrences(encoded.clone(), 1), 3);
        assert_eq!(occurrences(encoded, 2), 0);
        // Two fields, and a truncated one.
        assert_eq!(occurrences(Bytes::from_static(&[10, 0, 10, 0, 10, 9]), 1), 2);
    }

    #[test]
    fn callers_rejected_together_do_not_return_together() {
        let waits: std::collections::BTreeSet<_> = (0..100)
            .map(|_| jittered(Duration::from_millis(10)).as_micros())
            .collect();
        assert!(waits.len() > 90);
        assert!(waits.iter().all(|wait| (10_000..=110_000).contains(wait)));
    }
}
