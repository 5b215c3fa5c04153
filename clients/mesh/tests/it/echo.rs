//! A service that answers as a test defines, with a contract of its own.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request as HttpRequest, Response as HttpResponse};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime::Runtime,
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{TcpListenerStream, UnixListenerStream},
};
use tonic::transport::{
    ServerTlsConfig,
    server::{Connected, Router},
};
use tonic::{Code, Request, Response, Status, body::Body, server::NamedService};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_prost::ProstCodec;
use weft_mesh::{
    Channel, ChannelOptions, MIN_PING_INTERVAL, MethodPolicy, Policies,
    policy::{Idempotency, Retry},
};

pub(crate) const READ: &str = "/mesh.test.v1.EchoService/Read";
pub(crate) const WRITE: &str = "/mesh.test.v1.EchoService/Write";
pub(crate) const WATCH: &str = "/mesh.test.v1.EchoService/Watch";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Text {
    #[prost(string, tag = "1")]
    pub(crate) text: String,
}

/// Read: safe and retried; Write: neither; Watch: a stream.
pub(crate) fn policies() -> Policies {
    let retry = Retry {
        max_attempts: 3,
        initial_backoff: Duration::from_millis(10),
        max_backoff: Duration::from_millis(50),
        backoff_multiplier: 2.0,
        retryable_codes: vec![Code::Unavailable],
        attempt_timeout: None,
    };
    let timeout = Duration::from_secs(5);
    let read = MethodPolicy {
        idempotency: Idempotency::NoSideEffects,
        retry: Some(retry),
        ..MethodPolicy::new(timeout)
    };
    let watch = MethodPolicy {
        server_streaming: true,
        ..read.clone()
    };
    Policies::from_methods([
        (READ.to_owned(), read),
        (WRITE.to_owned(), MethodPolicy::new(timeout)),
        (WATCH.to_owned(), watch),
    ])
}

pub(crate) fn channel(servers: &[SocketAddr]) -> Channel {
    Channel::connect(options(servers), &policies()).unwrap()
}

pub(crate) fn options(servers: &[SocketAddr]) -> ChannelOptions {
    let uris: Vec<_> = servers.iter().map(|server| format!("http://{server}")).collect();
    ChannelOptions::new(format!("static:{}", uris.join(",")), "echo", "test")
}

/// Calls a unary method.
pub(crate) async fn call(
    channel: &Channel,
    path: &'static str,
    request: Request<Text>,
) -> Result<Response<Text>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    client
        .unary(
            request,
            path.parse().unwrap(),
            ProstCodec::<Text, Text>::default(),
        )
        .await
}

/// Calls a unary method with an empty request.
pub(crate) async fn call_empty(channel: &Channel, path: &'static str) -> Result<String, Status> {
    call(channel, path, Request::new(Text::default()))
        .await
        .map(|answer| answer.into_inner().text)
}

pub(crate) async fn watch(
    channel: &Channel,
    request: Request<Text>,
) -> Result<tonic::Streaming<Text>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<Text, Text>::default();
    Ok(client
        .server_streaming(request, WATCH.parse().unwrap(), codec)
        .await?
        .into_inner())
}

type Answer = Result<String, Status>;
type Handler = Arc<dyn Fn(HeaderMap) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A server in its own runtime, so that dropping it cuts its connections like a killed process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    calls: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
}

impl Server {
    /// Answers every call with the result of `handler` for its headers; a stream repeats it every 20 ms.
    pub(crate) fn start<F, R>(handler: F) -> Server
    where
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Server::start_at("127.0.0.1:0".parse().unwrap(), handler)
    }

    pub(crate) fn start_at<F, R>(address: SocketAddr, handler: F) -> Server
    where
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Server::run(address, handler, |echo| {
            tonic::transport::Server::builder().add_service(echo)
        })
    }

    /// A server with a health service.
    pub(crate) fn with_health<H, F, R>(health: HealthServer<H>, handler: F) -> Server
    where
        H: Health,
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Server::run("127.0.0.1:0".parse().unwrap(), handler, |echo| {
            tonic::transport::Server::builder()
                .add_service(echo)
                .add_service(health)
        })
    }

    pub(crate) fn with_tls<F, R>(tls: ServerTlsConfig, handler: F) -> Server
    where
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Server::with_tls_at("127.0.0.1:0".parse().unwrap(), tls, handler)
    }

    pub(crate) fn with_tls_at<F, R>(address: SocketAddr, tls: ServerTlsConfig, handler: F) -> Server
    where
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        Server::run(address, handler, |echo| {
            tonic::transport::Server::builder()
                .tls_config(tls)
                .unwrap()
                .add_service(echo)
        })
    }

    /// A TLS server with settings that tonic's servers do not have.
    pub(crate) fn with_rustls<F, R>(tls: rustls::ServerConfig, handler: F) -> Server
    where
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let listener = bind("127.0.0.1:0".parse().unwrap());
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let incoming = move || {
            let sockets = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let accept = move |socket: io::Result<_>| {
                let acceptor = acceptor.clone();
                async move { acceptor.accept(socket?).await }
            };
            // A failed handshake does not end the server.
            sockets.then(accept).filter(Result::is_ok)
        };
        Server::run_on(address, incoming, handler, |echo| {
            tonic::transport::Server::builder().add_service(echo)
        })
    }

    /// A server on a Unix socket, without an address.
    pub(crate) fn on_unix_socket<F, R>(path: &Path, handler: F) -> Server
    where
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        // The socket of a former server.
        let _ = std::fs::remove_file(path);
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let incoming = || UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
        let address = "0.0.0.0:0".parse().unwrap();
        Server::run_on(address, incoming, handler, |echo| {
            tonic::transport::Server::builder().add_service(echo)
        })
    }

    fn run<F, R>(
        address: SocketAddr,
        handler: F,
        mount: impl FnOnce(Echo) -> Router + Send + 'static,
    ) -> Server
    where
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let listener = bind(address);
        let address = listener.local_addr().unwrap();
        let incoming = || TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
        Server::run_on(address, incoming, handler, mount)
    }

    /// Serves the connections of `incoming`, which is called in the server's runtime.
    fn run_on<F, R, I, S>(
        address: SocketAddr,
        incoming: impl FnOnce() -> I + Send + 'static,
        handler: F,
        mount: impl FnOnce(Echo) -> Router + Send + 'static,
    ) -> Server
    where
        F: Fn(HeaderMap) -> R + Send + Sync + 'static,
        R: Future<Output = Answer> + Send + 'static,
        I: Stream<Item = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let echo = Echo {
            handler: Arc::new(move |headers| Box::pin(handler(headers))),
            calls: Arc::clone(&calls),
        };
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(async move {
            mount(echo)
                .serve_with_incoming_shutdown(incoming(), async { drop(stopped.await) })
                .await
                .unwrap();
        });
        Server {
            address,
            calls,
            runtime: Some(runtime),
            stop: Some(stop),
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Shuts down gracefully: sends GOAWAY and finishes the calls in progress.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The runtime is stopped first, because dropping the sender would shut the server down gracefully.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// An address without a listener.
pub(crate) fn unused_address() -> SocketAddr {
    bind("127.0.0.1:0".parse().unwrap()).local_addr().unwrap()
}

fn bind(address: SocketAddr) -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

#[derive(Clone)]
struct Echo {
    handler: Handler,
    calls: Arc<AtomicUsize>,
}

impl NamedService for Echo {
    const NAME: &'static str = "mesh.test.v1.EchoService";
}

impl tower::Service<HttpRequest<Body>> for Echo {
    type Response = HttpResponse<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let echo = self.clone();
        Box::pin(async move {
            let streams = request.uri().path() == WATCH;
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Text, Text>::default());
            let mut response = if streams {
                grpc.server_streaming(echo, request).await
            } else {
                grpc.unary(echo, request).await
            };
            // As Weft's servers do.
            let least = HeaderValue::from_static("50");
            response.headers_mut().insert(MIN_PING_INTERVAL, least);
            Ok(response)
        })
    }
}

impl tonic::server::UnaryService<Text> for Echo {
    type Response = Text;
    type Future = BoxFuture<'static, Result<Response<Text>, Status>>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let answer = (self.handler)(request.metadata().clone().into_headers());
        Box::pin(async move { Ok(Response::new(Text { text: answer.await? })) })
    }
}

impl tonic::server::ServerStreamingService<Text> for Echo {
    type Response = Text;
    type ResponseStream = std::pin::Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        let answer = (self.handler)(request.metadata().clone().into_headers());
        Box::pin(async move {
            let text = answer.await?;
            let ticks =
                tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(Duration::from_millis(20)));
            let stream: Self::ResponseStream = Box::pin(ticks.map(move |_| Ok(Text { text: text.clone() })));
            Ok(Response::new(stream))
        })
    }
}
