//! What travels down the stack: a [`Call`] above the retries, an [`Attempt`] below them.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use opentelemetry::StringValue;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};

use crate::{
    Context, endpoint::slowness::Typical, failure::Failure, hedge::Observed, message_size::Bound,
    methods::Sources, policy::MethodPolicy, telemetry::Running,
};

/// What a call ends with above the retries.
pub(crate) type Outcome = Result<Response<Body>, Status>;
/// What one attempt ends with.
pub(crate) type AttemptOutcome = Result<Response<Body>, Failure>;

/// A method as the channel knows it.
#[derive(Debug)]
pub(crate) struct Method {
    /// `package.Service/Method`; `_OTHER` for a method that no policy names.
    pub(crate) name: Arc<str>,
    /// The name as metrics carry it.
    pub(crate) label: StringValue,
    /// `None`: a foreign method, which is balanced and bounded by its caller's deadline, and no more.
    pub(crate) policy: Option<Arc<MethodPolicy>>,
    /// How long its calls take, which hedging goes by.
    pub(crate) observed: Observed,
    /// What slow endpoints are told by; `None` for what is not one method, but many.
    pub(crate) typical: Option<Arc<Typical>>,
    /// Whether calls wait for a connection while every endpoint is known to be down.
    pub(crate) wait_for_ready: bool,
    /// The service config's bounds on messages.
    pub(crate) largest_request: Option<Bound>,
    pub(crate) largest_response: Option<Bound>,
    pub(crate) sources: Sources,
}

impl Method {
    pub(crate) fn new(name: &str, policy: Option<MethodPolicy>) -> Method {
        let name: Arc<str> = Arc::from(name);
        let label = StringValue::from(Arc::clone(&name));
        let policy = policy.map(Arc::new);
        let typical = Some(Arc::default());
        let (observed, sources) = (Observed::default(), Sources::default());
        Method {
            name,
            label,
            policy,
            observed,
            typical,
            wait_for_ready: false,
            largest_request: None,
            largest_response: None,
            sources,
        }
    }
}

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

/// The code a response was committed with: `grpc-status` in its headers, or what its HTTP status means to gRPC.
/// `None` while the code is still to come in the trailers, which is how a success looks.
pub(crate) fn early_code(response: &Response<Body>) -> Option<Code> {
    if let Some(code) = response.headers().get("grpc-status") {
        return Some(Code::from_bytes(code.as_bytes()));
    }
    match response.status().as_u16() {
        200 => None,
        400 => Some(Code::Internal),
        401 => Some(Code::Unauthenticated),
        403 => Some(Code::PermissionDenied),
        404 => Some(Code::Unimplemented),
        429 | 502 | 503 | 504 => Some(Code::Unavailable),
        _ => Some(Code::Unknown),
    }
}
