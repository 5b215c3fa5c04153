//! Connections: accepted up to a bound, aged, and drained.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;

use super::{
    Settings,
    call::Stack,
    idleness::{Held, Idleness},
    tls::{Acceptor, Peer},
};
use crate::Process;

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// After a failed accept: the process is out of file descriptors, as a rule, and trying at once does not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the process is to stop and what was taken is finished, or the grace is over.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: Option<Acceptor>,
    stack: Arc<Stack>,
    settings: &Settings,
    process: &Process,
) {
    let server = Connections {
        acceptor: acceptor.map(Arc::new),
        stack,
        http2: http2(settings),
        settings: settings.clone(),
        tracker: TaskTracker::new(),
        draining: CancellationToken::new(),
        ended: CancellationToken::new(),
    };
    let drain = &process.settings.drain;
    let announced = async {
        process.shutdown.cancelled().await;
        process.health.draining();
        tracing::info!("not serving any more: draining");
        sleep(drain.announce()).await;
    };
    tokio::select! {
        () = server.accept(listener) => {}
        () = announced => {}
    }
    // The listener is closed by now. Open health watches must not hold the connections.
    process.health.closed();
    server.draining.cancel();
    server.tracker.close();
    if timeout(drain.grace(), server.tracker.wait()).await.is_err() {
        tracing::warn!(
            connections.open = server.tracker.len(),
            "the grace is over: connections are cut"
        );
        server.ended.cancel();
        server.tracker.wait().await;
    }
    process.drained.cancel();
}

fn http2(settings: &Settings) -> http2::Builder<TokioExecutor> {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
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
    /// `None` when the port is plaintext.
    acceptor: Option<Arc<Acceptor>>,
    stack: Arc<Stack>,
    http2: http2::Builder<TokioExecutor>,
    settings: Settings,
    tracker: TaskTracker,
    /// Connections are asked to end.
    draining: CancellationToken,
    /// Connections are cut.
    ended: CancellationToken,
}

impl Connections {
    async fn accept(&self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.settings.max_connections));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return pending().await;
            };
            match listener.accept().await {
                Ok((tcp, _)) => {
                    let connection = self.connection(tcp);
                    self.tracker.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(error.message = %error, "a connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn connection(&self, tcp: TcpStream) -> impl Future<Output = ()> + Send + use<> {
        let handshake = Duration::from_millis(self.settings.handshake_timeout_ms);
        let acceptor = self.acceptor.clone();
        let conversation = Conversation {
            stack: self.stack.clone(),
            http2: self.http2.clone(),
            draining: self.draining.clone(),
            ended: self.ended.clone(),
            age: jittered(Duration::from_secs(self.settings.max_connection_age_s)),
            idle: Duration::from_secs(self.settings.max_connection_idle_s),
            farewell: handshake,
        };
        async move {
            // Nagle's algorithm would hold small answers back. A socket that refuses is closed already.
            let _ = tcp.set_nodelay(true);
            let Some(acceptor) = acceptor else {
                if matches!(timeout(handshake, begun(&tcp)).await, Ok(Ok(true))) {
                    conversation.hold(tcp, None).await;
                }
                return;
            };
            let address = tcp
                .peer_addr()
                .map(|address| address.to_string())
                .unwrap_or_default();
            let secured = async {
                let mut tls = acceptor.accept(tcp).await?;
                // Whoever shakes hands and then says nothing keeps no place.
                let spoken = !tls.fill_buf().await?.is_empty();
                Ok::<_, std::io::Error>((tls, spoken))
            };
            match timeout(handshake, secured).await {
                Ok(Ok((tls, true))) => {
                    let peer = Peer::of(&tls);
                    conversation.hold(tls, peer).await;
                }
                Ok(Ok((_, false))) => {}
                Ok(Err(error)) => tracing::warn!(
                    client.address = address,
                    error.message = %error,
                    "a connection was refused"
                ),
                Err(_) => tracing::warn!(
                    client.address = address,
                    "a connection was refused: it did not shake hands in time"
                ),
            }
        }
    }
}

/// One connection from its first request to its end.
struct Conversation {
    stack: Arc<Stack>,
    http2: http2::Builder<TokioExecutor>,
    draining: CancellationToken,
    ended: CancellationToken,
    age: Duration,
    /// How long it may be without a call.
    idle: Duration,
    /// How long an idle peer has for answering that it was asked to go.
    farewell: Duration,
}

impl Conversation {
    async fn hold<IO>(self, io: IO, peer: Option<Peer>)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (stack, idleness) = (self.stack, Idleness::new());
        let calls = Arc::clone(&idleness);
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let (answer, open) = (stack.clone().answer(request), calls.begin());
            async move { Ok::<_, Infallible>(answer.await.map(|body| Held { body, _open: open })) }
        });
        let mut connection = std::pin::pin!(self.http2.serve_connection(TokioIo::new(io), service));
        // Errors are the peer's way to go: reset, broken, timed out. Calls that were lost are seen as such.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = self.ended.cancelled() => return,
            () = self.draining.cancelled() => connection.as_mut().graceful_shutdown(),
            () = sleep(self.age) => connection.as_mut().graceful_shutdown(),
            () = idleness.lasts(self.idle) => {
                connection.as_mut().graceful_shutdown();
                // Nothing is lost with a peer that does not answer, unless a call came at the last moment.
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = self.ended.cancelled() => return,
                    () = sleep(self.farewell) => if idleness.now() {
                        return;
                    }
                }
            }
        }
        tokio::select! {
            _ = connection => {}
            () = self.ended.cancelled() => {}
        }
    }
}

/// Waits for the first bytes, so that a silent connection does not keep its place.
async fn begun(tcp: &TcpStream) -> std::io::Result<bool> {
    let mut preface = [0; PREFACE];
    loop {
        match tcp.peek(&mut preface).await? {
            0 => return Ok(false),
            PREFACE => return Ok(true),
            // The rest is on its way; peeking again at once would spin.
            _ => sleep(Duration::from_millis(5)).await,
        }
    }
}

/// A tenth more or less, so that connections made together do not end together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::rng().random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_one_moment_do_not_end_in_one() {
        let age = Duration::from_secs(100);
        let ages: std::collections::BTreeSet<_> = (0..100).map(|_| jittered(age)).collect();
        assert!(ages.len() > 90);
        assert!(
            ages.iter()
                .all(|age| (Duration::from_secs(90)..=Duration::from_secs(110)).contains(age))
        );
    }
}
