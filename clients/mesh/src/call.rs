//! The requests of the layers: a [`Call`] above the retries, an [`Attempt`] below them.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};

use crate::{Context, failure::Failure, method::Method, route::Destination, telemetry::Running};

/// The result of a call.
pub(crate) type Outcome = Result<Response<Body>, Status>;
/// The result of one attempt.
pub(crate) type AttemptOutcome = Result<Response<Body>, Failure>;

/// One call of the application.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Arc<Method>,
    pub(crate) context: Context,
    /// When the call ends with DEADLINE_EXCEEDED.
    pub(crate) deadline: Option<Instant>,
    /// The endpoints that a route selects; `None`: all of them.
    pub(crate) destination: Option<Destination>,
    pub(crate) request: Request<Body>,
}

/// One attempt of a call.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) method: Arc<Method>,
    pub(crate) context: Context,
    pub(crate) deadline: Option<Instant>,
    /// The destination of the call.
    pub(crate) destination: Option<Destination>,
    /// Number of earlier attempts that may have reached a server.
    pub(crate) previous: u32,
    /// The endpoints tried so far. Shared by all attempts of a call.
    pub(crate) tried: Arc<Tried>,
    /// Measures the attempt. Set when it starts.
    pub(crate) running: Option<Running>,
    pub(crate) request: Request<Body>,
}

impl Attempt {
    /// Records that the attempt ended without a response.
    pub(crate) fn end(&mut self, code: Code) {
        if let Some(running) = &mut self.running {
            running.end(code);
        }
    }

    /// Another attempt of the same call.
    pub(crate) fn again(&self, previous: u32, request: Request<Body>) -> Attempt {
        Attempt {
            method: Arc::clone(&self.method),
            context: self.context.clone(),
            deadline: self.deadline,
            destination: self.destination.clone(),
            previous,
            tried: Arc::clone(&self.tried),
            running: None,
            request,
        }
    }
}

/// The endpoints to which a call was sent, so that the next attempt uses another one.
#[derive(Debug, Default)]
pub(crate) struct Tried(Mutex<Vec<u64>>);

impl Tried {
    pub(crate) fn add(&self, endpoint: u64) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(endpoint);
    }

    pub(crate) fn contains(&self, endpoint: u64) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&endpoint)
    }
}
