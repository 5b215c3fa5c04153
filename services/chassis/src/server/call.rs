//! A call and the layers that it passes through.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Request};
use mesh::{Context, MethodPolicy};
use prost_reflect::{FieldDescriptor, MessageDescriptor, MethodDescriptor};
use tokio::time::Instant;
use tonic::{Status, body::Body};
use tower::ServiceExt;

use super::{Handlers, Response};

/// A method that the process serves.
#[derive(Debug)]
pub(super) struct Method {
    /// `package.Service/Method`, as the semantic conventions write `rpc.method`.
    pub(super) name: String,
    pub(super) policy: MethodPolicy,
    pub(super) input: MessageDescriptor,
    /// The number of the field with the requests, for a method that takes several at once.
    pub(super) requests: Option<u32>,
}

impl Method {
    pub(super) fn new(method: &MethodDescriptor, policy: MethodPolicy) -> Method {
        let name = format!("{}/{}", method.parent_service().full_name(), method.name());
        let input = method.input();
        let requests = input
            .get_field_by_name("requests")
            .filter(FieldDescriptor::is_list);
        Method {
            name,
            policy,
            requests: requests.map(|field| field.number()),
            input,
        }
    }
}

/// A request, with what the layers have added.
pub(super) struct Call {
    /// When it arrived.
    pub(super) arrival: Instant,
    /// The called method; `None` for health, reflection, and unknown methods.
    pub(super) method: Option<Arc<Method>>,
    /// The caller's token and deadline.
    pub(super) context: Context,
    /// Its `request_id`, once the message has been read.
    pub(super) request_id: Arc<OnceLock<String>>,
    /// The single message of a call, with its prefix, or the error while receiving it; `None` for client streams,
    /// and after the message is back in the request.
    pub(super) received: Option<Result<Bytes, Status>>,
    pub(super) request: Request<Body>,
}

/// Which side sends more than one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) client_streams: bool,
    pub(super) server_streams: bool,
}

impl Call {
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

    /// Whether it needs no token.
    pub(super) fn is_anonymous(&self) -> bool {
        self.policy().is_none_or(|policy| policy.anonymous)
    }
}

/// One step in handling every call.
pub(super) trait Layer: Send + Sync {
    /// Handles the call, with or without calling `next`.
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response>;
}

/// Shortest interval of pings that clients may use, in milliseconds; equal to the mesh's own minimum.
const MIN_PING_INTERVAL_MS: &str = "50";

/// The layers and, behind them, the handlers.
pub(super) struct Stack {
    layers: Vec<Arc<dyn Layer>>,
    handlers: Handlers,
    methods: HashMap<String, Arc<Method>>,
}

impl Stack {
    pub(super) fn new(
        layers: Vec<Arc<dyn Layer>>,
        handlers: Handlers,
        methods: HashMap<String, Arc<Method>>,
    ) -> Stack {
        Stack {
            layers,
            handlers,
            methods,
        }
    }

    /// Handles one request.
    pub(super) fn handle(self: Arc<Stack>, request: Request<Body>) -> BoxFuture<'static, Response> {
        let call = Call {
            arrival: Instant::now(),
            method: self.methods.get(request.uri().path()).cloned(),
            context: Context::new(),
            request_id: Arc::default(),
            received: None,
            request,
        };
        let answer = Next { stack: self, at: 0 }.run(call);
        Box::pin(answer.map(with_ping_interval))
    }
}

/// Announces the shortest ping interval to clients; this server does not count pings.
fn with_ping_interval(mut response: Response) -> Response {
    let least = HeaderValue::from_static(MIN_PING_INTERVAL_MS);
    response.headers_mut().insert(mesh::MIN_PING_INTERVAL, least);
    response
}

/// The layers below the current one, and the handlers.
#[derive(Clone)]
pub(super) struct Next {
    stack: Arc<Stack>,
    at: usize,
}

impl Next {
    pub(super) fn run(self, call: Call) -> BoxFuture<'static, Response> {
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
pub(super) fn refuse(status: Status) -> Response {
    status.into_http()
}
