//! Bounds on what stays open: streams of methods, for the process, for each method and for each facility; and calls of
//! strangers (health, reflection), for the process, for each address and for each connection. A place is held until the
//! answer has ended.

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
    connections::Connection,
    held::hold,
    refusals::Refusals,
};
use crate::{Facility, Identity, status};

/// Calls of strangers at once on one connection.
const ANONYMOUS_ON_A_CONNECTION: usize = 16;
/// One address may have this share of all strangers' calls: 1 in so many.
const ANONYMOUS_SHARE: usize = 4;

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    Process,
    Method(String),
    Facility(Facility),
    Strangers,
    Address(IpAddr),
    Connection(u64),
}

pub(super) struct Layer {
    max_streams: usize,
    max_streams_per_facility: usize,
    max_anonymous: usize,
    open: Arc<Open>,
    refusals: Refusals,
}

impl Layer {
    pub(super) fn new(settings: &Settings) -> Layer {
        Layer {
            max_streams: settings.max_streams,
            max_streams_per_facility: settings.max_streams_per_facility,
            max_anonymous: settings.max_anonymous_calls,
            open: Arc::default(),
            refusals: Refusals::new(),
        }
    }

    /// What the call counts for, and the bound on each. Nothing for a single answer to somebody known.
    fn bounds(&self, call: &Call) -> Vec<(Of, usize)> {
        let extensions = call.request.extensions();
        if call.is_anonymous() {
            let mut bounds = vec![(Of::Strangers, self.max_anonymous)];
            if let Some(connection) = extensions.get::<Arc<Connection>>() {
                let for_address = (self.max_anonymous / ANONYMOUS_SHARE).max(1);
                bounds.push((Of::Address(connection.address), for_address));
                bounds.push((Of::Connection(connection.id), ANONYMOUS_ON_A_CONNECTION));
            }
            return bounds;
        }
        let shape = call.shape();
        if !(shape.client_streams || shape.server_streams) {
            return Vec::new();
        }
        let mut bounds = vec![(Of::Process, self.max_streams)];
        if let Some(method) = &call.method
            && let Some(most) = method.policy.max_streams
        {
            bounds.push((Of::Method(method.name.clone()), most as usize));
        }
        if let Some(identity) = extensions.get::<Identity>() {
            let facility = Of::Facility(identity.facility.clone());
            bounds.push((facility, self.max_streams_per_facility));
        }
        bounds
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        let place = match Open::enter(&self.open, self.bounds(&call)) {
            Ok(place) => place,
            Err(full) => {
                let wait = Duration::from_millis(rand::rng().random_range(500..1_500));
                self.refusals
                    .tell(call.method.as_deref(), "TOO_MANY_STREAMS", wait);
                return Box::pin(async move { refuse(too_many(&full, wait)) });
            }
        };
        Box::pin(async move {
            let response = next.run(call).await;
            match place {
                Some(place) => hold(response, place),
                None => response,
            }
        })
    }
}

fn too_many(full: &Of, wait: Duration) -> Status {
    let whose = match full {
        Of::Process => "the process",
        Of::Method(_) => "the method",
        Of::Facility(_) => "the facility",
        Of::Strangers => "callers without a token",
        Of::Address(_) => "the address",
        Of::Connection(_) => "the connection",
    };
    let text = format!("{whose} has as many open streams as it may have; nothing was started");
    let mut refusal = status::exhausted("TOO_MANY_STREAMS", text, wait);
    let pushback = MetadataValue::from(wait.as_millis() as u64);
    refusal.metadata_mut().insert("grpc-retry-pushback-ms", pushback);
    refusal
}

/// How many are open.
#[derive(Default)]
struct Open(Mutex<HashMap<Of, usize>>);

impl Open {
    /// # Errors
    /// The first one that is full.
    fn enter(open: &Arc<Open>, bounds: Vec<(Of, usize)>) -> Result<Option<Place>, Of> {
        if bounds.is_empty() {
            return Ok(None);
        }
        let mut counts = open.lock();
        for (of, most) in &bounds {
            if counts.get(of).is_some_and(|count| count >= most) {
                return Err(of.clone());
            }
        }
        let taken: Vec<Of> = bounds.into_iter().map(|(of, _)| of).collect();
        for of in &taken {
            *counts.entry(of.clone()).or_default() += 1;
        }
        drop(counts);
        Ok(Some(Place {
            open: open.clone(),
            taken,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Of, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Given back when dropped.
struct Place {
    open: Arc<Open>,
    taken: Vec<Of>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock();
        for of in &self.taken {
            if let Some(count) = counts.get_mut(of) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(of);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_holds_by_itself_and_nothing_is_counted_for_a_refusal() {
        let open = Arc::new(Open::default());
        let facility = |name: &str| Of::Facility(Facility::new(name).unwrap());
        let enter = |name: &str| Open::enter(&open, vec![(Of::Process, 3), (facility(name), 2)]);
        let mut places: Vec<_> = (0..2).map(|_| enter("F1").unwrap()).collect();
        assert_eq!(enter("F1").err(), Some(facility("F1")));
        places.push(enter("F2").unwrap());
        assert_eq!(enter("F3").err(), Some(Of::Process));
        drop(places);
        assert!(open.lock().is_empty());
    }
}
