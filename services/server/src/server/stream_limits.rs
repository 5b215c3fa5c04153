//! Limits open streams: of methods, for the process, for each method and for each tenant; and anonymous calls
//! (health, reflection), for the process, for each address and for each connection. A permit is held until the
//! response has ended.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rand::Rng;
use tonic::{Status, metadata::MetadataValue};

use super::{
    Response, Settings,
    call::{Call, Layer as CallLayer, Next, refuse},
    connections::ConnectionInfo,
    guarded_body::with_guard,
    rejected_calls::RejectedCalls,
};
use crate::{Tenant, status};

/// Anonymous calls at once on one connection.
const MAX_ANONYMOUS_PER_CONNECTION: usize = 16;
/// One address may have one part in this many of all anonymous calls.
const ANONYMOUS_SHARE: usize = 4;

/// What is limited.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Process,
    Method(String),
    Tenant(Tenant),
    Anonymous,
    Address(IpAddr),
    Connection(u64),
}

pub(super) struct Layer {
    max_streams: usize,
    max_streams_per_tenant: usize,
    max_anonymous: usize,
    open: Arc<OpenStreams>,
    rejected: RejectedCalls,
    /// The word for a tenant.
    tenant_name: &'static str,
}

impl Layer {
    pub(super) fn new(settings: &Settings, tenant_name: &'static str) -> Layer {
        Layer {
            max_streams: settings.max_streams,
            max_streams_per_tenant: settings.max_streams_per_facility,
            max_anonymous: settings.max_anonymous_calls,
            open: Arc::default(),
            rejected: RejectedCalls::new(),
            tenant_name,
        }
    }

    /// The limits that apply to the call. Empty for an authenticated unary call.
    fn limits(&self, call: &Call) -> Vec<(Scope, usize)> {
        let extensions = call.request.extensions();
        if call.is_anonymous() {
            let mut limits = vec![(Scope::Anonymous, self.max_anonymous)];
            if let Some(connection) = extensions.get::<Arc<ConnectionInfo>>() {
                let for_address = (self.max_anonymous / ANONYMOUS_SHARE).max(1);
                limits.push((Scope::Address(connection.address), for_address));
                limits.push((Scope::Connection(connection.id), MAX_ANONYMOUS_PER_CONNECTION));
            }
            return limits;
        }
        let shape = call.shape();
        if !(shape.client_streams || shape.server_streams) {
            return Vec::new();
        }
        let mut limits = vec![(Scope::Process, self.max_streams)];
        if let Some(method) = &call.method
            && let Some(max) = method.policy.max_streams
        {
            limits.push((Scope::Method(method.name.clone()), max as usize));
        }
        if let Some(tenant) = call.caller().and_then(|caller| caller.tenant.clone()) {
            limits.push((Scope::Tenant(tenant), self.max_streams_per_tenant));
        }
        limits
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        let permit = match OpenStreams::acquire(&self.open, self.limits(&call)) {
            Ok(permit) => permit,
            Err(scope) => {
                let wait = Duration::from_millis(rand::rng().random_range(500..1_500));
                self.rejected
                    .record(call.method.as_deref(), "TOO_MANY_STREAMS", wait);
                return Box::pin(async move { refuse(too_many(&scope, self.tenant_name, wait)) });
            }
        };
        Box::pin(async move {
            let response = next.run(call).await;
            match permit {
                Some(permit) => with_guard(response, permit),
                None => response,
            }
        })
    }
}

fn too_many(scope: &Scope, tenant: &str, wait: Duration) -> Status {
    let owner = match scope {
        Scope::Process => "the process",
        Scope::Method(_) => "the method",
        Scope::Tenant(_) => &format!("the {tenant}"),
        Scope::Anonymous => "callers without a token",
        Scope::Address(_) => "the address",
        Scope::Connection(_) => "the connection",
    };
    let text = format!("{owner} has reached its limit of open streams; nothing was started");
    let mut refusal = status::resource_exhausted("TOO_MANY_STREAMS", text, wait);
    let pushback = MetadataValue::from(wait.as_millis() as u64);
    refusal.metadata_mut().insert("grpc-retry-pushback-ms", pushback);
    refusal
}

/// The number of open streams in each scope.
#[derive(Default)]
struct OpenStreams(Mutex<HashMap<Scope, usize>>);

impl OpenStreams {
    /// # Errors
    /// The first scope that is at its limit.
    fn acquire(open: &Arc<OpenStreams>, limits: Vec<(Scope, usize)>) -> Result<Option<Permit>, Scope> {
        if limits.is_empty() {
            return Ok(None);
        }
        let mut counts = open.lock();
        for (scope, max) in &limits {
            if counts.get(scope).is_some_and(|count| count >= max) {
                return Err(scope.clone());
            }
        }
        let scopes: Vec<Scope> = limits.into_iter().map(|(scope, _)| scope).collect();
        for scope in &scopes {
            *counts.entry(scope.clone()).or_default() += 1;
        }
        drop(counts);
        Ok(Some(Permit {
            open: open.clone(),
            scopes,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Released when dropped.
struct Permit {
    open: Arc<OpenStreams>,
    scopes: Vec<Scope>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.open.lock();
        for scope in &self.scopes {
            if let Some(count) = counts.get_mut(scope) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(scope);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_applies_by_itself_and_a_rejection_counts_for_none() {
        let open = Arc::new(OpenStreams::default());
        let tenant = |name: &str| Scope::Tenant(Tenant::new(name).unwrap());
        let acquire = |name: &str| OpenStreams::acquire(&open, vec![(Scope::Process, 3), (tenant(name), 2)]);
        let mut permits: Vec<_> = (0..2).map(|_| acquire("F1").unwrap()).collect();
        assert_eq!(acquire("F1").err(), Some(tenant("F1")));
        permits.push(acquire("F2").unwrap());
        assert_eq!(acquire("F3").err(), Some(Scope::Process));
        drop(permits);
        assert!(open.lock().is_empty());
    }
}
