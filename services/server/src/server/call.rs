//! A call and the layers that it passes through.

use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, OnceLock},
    task::{Context as Task, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Request};
use mesh::{Context, MethodPolicy};
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt};

use super::{
    Handlers, Response,
    methods::{Method, Methods},
};
use crate::Caller;

/// A request, with what the layers have added.
pub struct Call {
    /// When it arrived.
    pub(super) arrival: Instant,
    /// The called method; `None` for health, reflection, and unknown methods.
    pub(super) method: Option<Arc<Method>>,
    /// The caller's token and deadline.
    pub(super) context: Context,
    pub(super) request_id: Arc<OnceLock<String>>,
    /// The single message of a call, with its prefix, or the error while receiving it; `None` for client streams,
    /// and after the message is back in the request.
    pub(super) received: Option<Result<Bytes, Status>>,
    /// The request itself. The body of a unary one is complete below validation, and empty above.
    pub request: Request<Body>,
}

/// Which side sends more than one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) client_streams: bool,
    pub(super) server_streams: bool,
}

impl Call {
    /// The called method; `None` for health, reflection, and unknown methods.
    pub fn method(&self) -> Option<&Arc<Method>> {
        self.method.as_ref()
    }

    /// The caller; `None` before authentication, and for calls without it.
    pub fn caller(&self) -> Option<&Caller> {
        Caller::from_extensions(self.request.extensions())
    }

    /// Its `request_id`, once the message has been read: one line of at most 64 characters, also of an invalid one.
    pub fn request_id(&self) -> &Arc<OnceLock<String>> {
        &self.request_id
    }

    /// The same call with another request, to make it once more; for layers
    /// [before the handlers](super::Position::BeforeHandlers).
    pub fn repetition(&self, request: Request<Body>) -> Call {
        Call {
            arrival: self.arrival,
            method: self.method.clone(),
            context: self.context.clone(),
            request_id: self.request_id.clone(),
            received: None,
            request,
        }
    }

    pub(super) fn policy(&self) -> Option<&MethodPolicy> {
        self.method.as_ref().map(|method| &method.policy)
    }

    /// Anything that is neither a method nor health counts as a bidirectional stream.
    pub(super) fn shape(&self) -> Shape {
        let (client_streams, server_streams) = match (self.policy(), self.request.uri().path()) {
            (Some(policy), _) => (policy.client_streaming, policy.server_streaming),
            (None, "/grpc.health.v1.Health/Check") => (false, false),
            (None, "/grpc.health.v1.Health/Watch") => (false, true),
            (None, _) => (true, true),
        };
        Shape {
            client_streams,
            server_streams,
        }
    }

    /// Whether its method is in a contract, so that its shape is known.
    pub(super) fn is_described(&self) -> bool {
        self.method.as_ref().is_some_and(|method| method.input.is_some())
    }

    /// Whether it needs no token.
    pub(super) fn is_anonymous(&self) -> bool {
        self.policy().is_none_or(|policy| policy.anonymous)
    }
}

/// One step in handling every call.
pub trait Layer: Send + Sync {
    /// Handles the call, with or without calling `next`.
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response>;
}

/// Shortest interval of pings that clients may use, in milliseconds; equal to the mesh's own minimum.
const MIN_PING_INTERVAL_MS: &str = "50";

/// The layers and, behind them, the handlers: a tower service. Cheap to clone.
#[derive(Clone)]
pub struct Stack(Arc<Inner>);

struct Inner {
    layers: Vec<Arc<dyn Layer>>,
    handlers: Handlers,
    methods: Methods,
}

impl Stack {
    pub(super) fn new(layers: Vec<Arc<dyn Layer>>, handlers: Handlers, methods: Methods) -> Stack {
        Stack(Arc::new(Inner {
            layers,
            handlers,
            methods,
        }))
    }

    /// Handles one request.
    pub fn handle(&self, request: Request<Body>) -> BoxFuture<'static, Response> {
        let call = Call {
            arrival: Instant::now(),
            method: self.0.methods.find(request.uri().path()).cloned(),
            context: Context::new(),
            request_id: Arc::default(),
            received: None,
            request,
        };
        let stack = Arc::clone(&self.0);
        let answer = Next { stack, at: 0 }.run(call);
        Box::pin(answer.map(with_ping_interval))
    }
}

impl Service<Request<Body>> for Stack {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.handle(request).map(Ok))
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("layers", &self.0.layers.len())
            .finish_non_exhaustive()
    }
}

/// Announces the shortest ping interval to clients; this server does not count pings.
fn with_ping_interval(mut response: Response) -> Response {
    let least = HeaderValue::from_static(MIN_PING_INTERVAL_MS);
    response.headers_mut().insert(mesh::MIN_PING_INTERVAL, least);
    response
}

/// The layers below the current one, and the handlers. Cheap to clone.
#[derive(Clone)]
pub struct Next {
    stack: Arc<Inner>,
    at: usize,
}

impl Next {
    /// Handles the call by the rest of the layers and the handler.
    pub fn run(self, call: Call) -> BoxFuture<'static, Response> {
        Box::pin(async move {
            match self.stack.layers.get(self.at).cloned() {
                Some(layer) => {
                    layer
                        .handle(
                            call,
                            Next {
                                at: self.at + 1,
                                ..self
                            },
                        )
                        .await
                }
                None => self.handle(call.request).await,
            }
        })
    }

    async fn handle(self, request: Request<Body>) -> Response {
        match self.stack.handlers.clone().oneshot(request).await {
            Ok(response) => response.map(Body::new),
            Err(never) => match never {},
        }
    }
}

/// An error response.
pub fn refuse(status: Status) -> Response {
    status.into_http()
}
