//! What travels down the stack: a [`Call`] above the retries, an [`Attempt`] below them.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};

use crate::{Context, failure::Failure, method::Method, telemetry::Running};

/// What a call ends with above the retries.
pub(crate) type Outcome = Result<Response<Body>, Status>;
/// What one attempt ends with.
pub(crate) type AttemptOutcome = Result<Response<Body>, Failure>;

/// One call of the application.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Arc<Method>,
    pub(crate) context: Context,
    /// The latest moment at which the answer is of use.
    pub(crate) deadline: Option<Instant>,
    pub(crate) request: Request<Body>,
}

/// One try at a call.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) method: Arc<Method>,
    pub(crate) context: Context,
    pub(crate) deadline: Option<Instant>,
    /// Attempts that were made before this one and may have reached a server.
    pub(crate) previous: u32,
    /// Shared by all attempts of a call.
    pub(crate) tried: Arc<Tried>,
    /// Books the attempt's end. Set when it starts.
    pub(crate) running: Option<Running>,
    pub(crate) request: Request<Body>,
}

impl Attempt {
    /// Books that the attempt ended without a response.
    pub(crate) fn end(&mut self, code: Code) {
        if let Some(running) = &mut self.running {
            running.end(code);
        }
    }

    /// Another try at the same call.
    pub(crate) fn again(&self, previous: u32, request: Request<Body>) -> Attempt {
        Attempt {
            method: Arc::clone(&self.method),
            context: self.context.clone(),
            deadline: self.deadline,
            previous,
            tried: Arc::clone(&self.tried),
            running: None,
            request,
        }
    }
}

/// The endpoints that a call was sent to, so that the next attempt goes elsewhere.
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
