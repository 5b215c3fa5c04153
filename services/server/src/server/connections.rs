//! Connections: limits on their number, age and idle time, and the drain.

mod connection_limit;
pub(crate) mod detect;

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

pub(crate) use connection_limit::{ConnectionInfo, ConnectionLimit};
use detect::{PrefixedIo, Protocol};
use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;

use super::{
    Settings,
    call::Stack,
    guarded_body::with_guard,
    idle_timeout::IdleTimer,
    log_throttle::LogThrottle,
    stream_timeout,
    tls::{Acceptor, Peer},
};
use crate::{Lifecycle, drain};

/// How long a closing connection must have been without calls, so that its last bytes are sent.
const FLUSH_TIME: Duration = Duration::from_millis(250);
/// Delay after a failed accept, which usually means that the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An open port.
pub(super) struct Port {
    pub(super) listener: TcpListener,
    /// `None` when it is plaintext.
    pub(super) acceptor: Option<Acceptor>,
}

/// Serves until the process stops and accepted calls are finished, or the grace period is over.
pub(super) async fn serve(
    port: Port,
    stack: Stack,
    settings: &Settings,
    drain: &drain::Settings,
    lifecycle: &Lifecycle,
) {
    let draining = CancellationToken::new();
    let server = Connections {
        http2: http2(settings, &draining),
        tracker: TaskTracker::new(),
        shared: Arc::new(Shared {
            acceptor: port.acceptor,
            stack,
            settings: settings.clone(),
            log_throttle: LogThrottle::default(),
            draining: draining.clone(),
            ended: CancellationToken::new(),
        }),
    };
    let announced = async {
        lifecycle.shutdown.cancelled().await;
        lifecycle.health.draining();
        tracing::info!("draining");
        sleep(drain.announce()).await;
    };
    tokio::select! {
        () = server.accept(port.listener) => {}
        () = announced => {}
    }
    // The listener is closed here. Open health watches must not keep connections open.
    lifecycle.health.closed();
    draining.cancel();
    server.tracker.close();
    if timeout(drain.grace(), server.tracker.wait()).await.is_err() {
        tracing::warn!(
            connections.open = server.tracker.len(),
            "grace period is over; closing connections"
        );
        server.shared.ended.cancel();
        server.tracker.wait().await;
    }
    lifecycle.drained.cancel();
}

fn http2(settings: &Settings, draining: &CancellationToken) -> http2::Builder<stream_timeout::Executor> {
    let mut http2 = http2::Builder::new(stream_timeout::Executor {
        draining: draining.clone(),
        stream_grace: settings.stream_grace(),
    });
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_header_list_size(settings.max_header_list_bytes)
        .max_frame_size(16 * 1024)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(256 * 1024)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(Duration::from_millis(settings.keepalive_interval_ms))
        .keep_alive_timeout(Duration::from_millis(settings.keepalive_timeout_ms));
    http2
}

struct Connections {
    http2: http2::Builder<stream_timeout::Executor>,
    tracker: TaskTracker,
    shared: Arc<Shared>,
}

/// Shared by all connections.
struct Shared {
    /// `None` when the port is plaintext.
    acceptor: Option<Acceptor>,
    stack: Stack,
    settings: Settings,
    log_throttle: LogThrottle,
    /// Cancelled when connections must close gracefully.
    draining: CancellationToken,
    /// Cancelled when connections must close at once.
    ended: CancellationToken,
}

impl Connections {
    async fn accept(&self, listener: TcpListener) {
        let settings = &self.shared.settings;
        let limit = ConnectionLimit::new(settings.max_connections, settings.max_connections_per_address);
        loop {
            let (tcp, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error.message = %error, "accepting a connection failed");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(permit) = limit.admit(address.ip()).await else {
                let detail = "its address has reached grpc.max_connections_per_address";
                self.shared
                    .log_throttle
                    .connection_refused(address, "too many", detail);
                continue;
            };
            let connection = Connection {
                shared: self.shared.clone(),
                http2: self.http2.clone(),
                info: permit.connection.clone(),
                address,
            };
            self.tracker.spawn(async move {
                connection.run(tcp).await;
                drop(permit);
            });
        }
    }
}

/// A connection, from its first byte to its end.
struct Connection {
    shared: Arc<Shared>,
    http2: http2::Builder<stream_timeout::Executor>,
    info: Arc<ConnectionInfo>,
    address: SocketAddr,
}

impl Connection {
    async fn run(self, tcp: TcpStream) {
        // Nagle's algorithm would delay small responses. It fails only if the socket is already closed.
        let _ = tcp.set_nodelay(true);
        let (evicted, shared) = (self.info.evicted.clone(), self.shared.clone());
        let stopped = async {
            shared.draining.cancelled().await;
            sleep(shared.settings.stream_grace()).await;
        };
        let negotiated = async {
            match &self.shared.acceptor {
                None => self.negotiate(tcp).await.map(Negotiated::Plain),
                Some(acceptor) => self.negotiate_tls(acceptor, tcp).await,
            }
        };
        let handshake = Duration::from_millis(shared.settings.handshake_timeout_ms);
        let negotiated = tokio::select! {
            negotiated = timeout(handshake, negotiated) => negotiated,
            () = stopped => return,
            () = evicted.cancelled() => return,
        };
        match negotiated {
            Ok(Some(Negotiated::Plain(tcp))) => self.serve(tcp, None).await,
            Ok(Some(Negotiated::Tls(tls, peer))) => self.serve(tls, peer).await,
            Ok(None) => {}
            // Load balancers open plaintext connections without sending anything, to check the port.
            Err(_) if shared.acceptor.is_none() => {}
            Err(_) => self.refuse("handshake", "the handshake timed out"),
        }
    }

    /// The connection, once it has started HTTP/2; `None` if it was rejected.
    async fn negotiate<IO>(&self, mut io: IO) -> Option<PrefixedIo<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        match detect::detect(&mut io).await.ok()? {
            Protocol::Http2 => return Some(PrefixedIo::new(io)),
            Protocol::Closed => {}
            Protocol::Http1 => {
                self.refuse_protocol(&Protocol::Http1);
                let text = "This port speaks gRPC over HTTP/2 without an upgrade from HTTP/1.";
                let _ = detect::respond_http1(&mut io, text).await;
            }
            other => self.refuse_protocol(&other),
        }
        None
    }

    async fn negotiate_tls(&self, acceptor: &Acceptor, mut tcp: TcpStream) -> Option<Negotiated> {
        if !detect::is_tls(&tcp).await.ok()?? {
            let spoken = detect::detect(&mut tcp).await.ok()?;
            self.refuse("plaintext", &format!("it speaks {} without TLS", spoken.name()));
            if spoken == Protocol::Http1 {
                let text = "This port speaks gRPC over HTTP/2 with TLS.";
                let _ = detect::respond_http1(&mut tcp, text).await;
            }
            return None;
        }
        let tls = match acceptor.accept(tcp).await {
            Ok(tls) => tls,
            Err(error) => {
                self.refuse("handshake", &error.to_string());
                return None;
            }
        };
        let peer = Peer::from_stream(&tls);
        // A peer that is silent after the handshake is also subject to the timeout.
        let tls = self.negotiate(tls).await?;
        Some(Negotiated::Tls(Box::new(tls), peer))
    }

    fn refuse_protocol(&self, spoken: &Protocol) {
        let detail = format!("it speaks {}; the port speaks HTTP/2", spoken.name());
        self.refuse("protocol", &detail);
    }

    fn refuse(&self, cause: &'static str, detail: &str) {
        self.shared
            .log_throttle
            .connection_refused(self.address, cause, detail);
    }

    async fn serve<IO>(self, io: IO, peer: Option<Peer>)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Shared {
            stack,
            settings,
            draining,
            ended,
            ..
        } = &*self.shared;
        let (stack, idle) = (stack.clone(), IdleTimer::new());
        let (calls, known) = (Arc::clone(&idle), self.info.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            known.mark_called();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(known.clone());
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let (answer, open) = (stack.handle(request), calls.start_call());
            async move { Ok::<_, Infallible>(with_guard(answer.await, open)) }
        });
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(io), service));
        let seconds = Duration::from_secs;
        let age = jittered(seconds(settings.max_connection_age_s));
        let max_idle = seconds(settings.max_connection_idle_s);
        let close_timeout = Duration::from_millis(settings.handshake_timeout_ms);
        let reason = tokio::select! {
            // An error means that the peer has disconnected or timed out. Lost calls are recorded as such.
            _ = connection.as_mut() => return,
            () = self.closed_or_evicted() => return,
            () = draining.cancelled() => CloseReason::Drain,
            () = sleep(age) => CloseReason::Age,
            () = idle.wait_idle_for(max_idle) => CloseReason::Idle,
        };
        connection.as_mut().graceful_shutdown();
        // Does not wait for a peer that does not respond, once its calls are finished.
        let stopped = async {
            draining.cancelled().await;
            sleep(settings.stream_grace()).await;
            idle.wait_idle_for(FLUSH_TIME).await;
        };
        let idled = async {
            match reason {
                CloseReason::Idle => sleep(close_timeout).await,
                CloseReason::Age | CloseReason::Drain => std::future::pending().await,
            }
            // A call may have started at the last moment.
            idle.wait_idle_for(FLUSH_TIME).await;
        };
        let aged = async {
            match reason {
                CloseReason::Age | CloseReason::Idle => {
                    sleep(seconds(settings.max_connection_age_grace_s)).await;
                }
                // The drain's own grace period applies.
                CloseReason::Drain => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = connection => {}
            () = ended.cancelled() => {}
            () = self.info.evicted.cancelled() => {}
            () = stopped => {}
            () = idled => {}
            () = aged => {}
        }
    }

    /// Completes when the server ends all connections, or this one is evicted.
    async fn closed_or_evicted(&self) {
        tokio::select! {
            () = self.shared.ended.cancelled() => {}
            () = self.info.evicted.cancelled() => {}
        }
    }
}

/// A connection that has started HTTP/2.
enum Negotiated {
    Plain(PrefixedIo<TcpStream>),
    Tls(Box<PrefixedIo<TlsStream<TcpStream>>>, Option<Peer>),
}

/// Why a connection is closed.
#[derive(Clone, Copy)]
enum CloseReason {
    Drain,
    Age,
    Idle,
}

/// Ten per cent more or less, so that connections of the same age do not end together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::rng().random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_the_same_age_do_not_end_together() {
        let age = Duration::from_secs(100);
        let ages: std::collections::BTreeSet<_> = (0..100).map(|_| jittered(age)).collect();
        assert!(ages.len() > 90);
        assert!(
            ages.iter()
                .all(|age| (Duration::from_secs(90)..=Duration::from_secs(110)).contains(age))
        );
    }
}
