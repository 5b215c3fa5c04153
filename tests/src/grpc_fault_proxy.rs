//! A gRPC proxy before the order service that rejects or ignores calls, to observe how gRPC clients of any
//! language react.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Status,
    body::Body,
    codegen::{Service as _, http},
    transport::{Channel, Endpoint},
};

/// Accepts calls of `order.v1.OrderService` until it is dropped.
#[derive(Debug)]
pub struct GrpcFaultProxy {
    address: SocketAddr,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    _server: AbortOnDropHandle<()>,
}

/// One attempt of a call, as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The method, such as `PlaceOrder`.
    pub method: String,
    /// Number of attempts that the client made before this one (`grpc-previous-rpc-attempts`); 0 if it says none.
    pub previous: u32,
    /// The remaining time that the client sent (`grpc-timeout`).
    pub timeout: Option<Duration>,
}

/// What the proxy does with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultAction {
    /// Forwards it to the service.
    Forward,
    /// Ends it at once with UNAVAILABLE.
    Reject,
    /// Never answers it.
    Ignore,
}

impl GrpcFaultProxy {
    /// Starts a proxy at `listen` (`127.0.0.1:0`) for the service at `service` (`127.0.0.1:7101`). `action`
    /// decides about each attempt.
    ///
    /// # Errors
    /// When one of the addresses is invalid, or `listen` is in use.
    pub async fn start(
        listen: &str,
        service: &str,
        action: impl Fn(&Attempt) -> FaultAction + Send + Sync + 'static,
    ) -> anyhow::Result<GrpcFaultProxy> {
        let upstream = Endpoint::from_shared(format!("http://{service}"))?.connect_lazy();
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let attempts = Arc::default();
        let handler = Handler {
            upstream,
            attempts: Arc::clone(&attempts),
            action: Arc::new(action),
        };
        let server = tokio::spawn(serve(listener, handler));
        Ok(GrpcFaultProxy {
            address,
            attempts,
            _server: AbortOnDropHandle::new(server),
        })
    }

    /// Its address: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The attempts so far, oldest first.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Serves without tonic's server, which would answer a call whose deadline has passed: an ignored call must stay
/// unanswered.
async fn serve(listener: TcpListener, handler: Handler) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        let handler = handler.clone();
        let service =
            service_fn(move |request: http::Request<Incoming>| handler.answer(request.map(Body::new)));
        let http2 = http2::Builder::new(TokioExecutor::new());
        connections.spawn(http2.serve_connection(TokioIo::new(connection), service));
    }
}

#[derive(Clone)]
struct Handler {
    upstream: Channel,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    action: Arc<dyn Fn(&Attempt) -> FaultAction + Send + Sync>,
}

impl fmt::Debug for Handler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handler").finish_non_exhaustive()
    }
}

impl Handler {
    fn answer(
        &self,
        request: http::Request<Body>,
    ) -> impl Future<Output = Result<http::Response<Body>, Infallible>> + Send + use<> {
        // Health checks get UNIMPLEMENTED, which clients count as healthy.
        let is_order_call = request.uri().path().starts_with("/order.v1.OrderService/");
        let action = is_order_call.then(|| self.record(Attempt::from_request(&request)));
        let upstream = self.upstream.clone();
        async move {
            Ok(match action {
                None => Status::unimplemented("this proxy forwards only order.v1.OrderService").into_http(),
                Some(FaultAction::Forward) => forward(upstream, request).await,
                Some(FaultAction::Reject) => Status::unavailable("rejected by the test proxy").into_http(),
                Some(FaultAction::Ignore) => std::future::pending().await,
            })
        }
    }
}

impl Handler {
    fn record(&self, attempt: Attempt) -> FaultAction {
        let action = (self.action)(&attempt);
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.push(attempt);
        action
    }
}

impl Attempt {
    fn from_request(request: &http::Request<Body>) -> Attempt {
        let path = request.uri().path();
        let previous = request.headers().get("grpc-previous-rpc-attempts");
        Attempt {
            method: path.rsplit('/').next().unwrap_or(path).to_owned(),
            previous: previous
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .unwrap_or(0),
            timeout: mesh::grpc_timeout::decode(request.headers()).ok().flatten(),
        }
    }
}

async fn forward(mut upstream: Channel, request: http::Request<Body>) -> http::Response<Body> {
    let ready = std::future::poll_fn(|task| upstream.poll_ready(task)).await;
    let answer = match ready {
        Ok(()) => upstream.call(request).await,
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| Status::from_error(error.into()).into_http())
}
