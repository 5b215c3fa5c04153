//! Connections: accepted up to their bounds, aged, and drained.

pub(crate) mod opening;
mod slots;

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use opening::{Opening, Reopened};
use rand::Rng;
pub(crate) use slots::{Connection, Slots};
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
    held::hold,
    idleness::Idleness,
    notices::Notices,
    reset,
    tls::{Acceptor, Peer},
};
use crate::Process;

/// For how long a connection that is to go must have had no call: its last bytes are on their way.
const FLUSH: Duration = Duration::from_millis(250);
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
    let draining = CancellationToken::new();
    let server = Connections {
        http2: http2(settings, &draining),
        tracker: TaskTracker::new(),
        each: Arc::new(Each {
            acceptor,
            stack,
            settings: settings.clone(),
            notices: Notices::default(),
            draining: draining.clone(),
            ended: CancellationToken::new(),
        }),
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
    draining.cancel();
    server.tracker.close();
    if timeout(drain.grace(), server.tracker.wait()).await.is_err() {
        tracing::warn!(
            connections.open = server.tracker.len(),
            "the grace is over: connections are cut"
        );
        server.each.ended.cancel();
        server.tracker.wait().await;
    }
    process.drained.cancel();
}

fn http2(settings: &Settings, draining: &CancellationToken) -> http2::Builder<reset::Executor> {
    let mut http2 = http2::Builder::new(reset::Executor {
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
    http2: http2::Builder<reset::Executor>,
    tracker: TaskTracker,
    each: Arc<Each>,
}

/// What every connection needs.
struct Each {
    /// `None` when the port is plaintext.
    acceptor: Option<Acceptor>,
    stack: Arc<Stack>,
    settings: Settings,
    notices: Notices,
    /// Connections are asked to end.
    draining: CancellationToken,
    /// Connections are cut.
    ended: CancellationToken,
}

impl Connections {
    async fn accept(&self, listener: TcpListener) {
        let settings = &self.each.settings;
        let slots = Slots::new(settings.max_connections, settings.max_connections_per_address);
        loop {
            let (tcp, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error.message = %error, "a connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(slot) = slots.admit(address.ip()).await else {
                let detail = "its address has as many as grpc.max_connections_per_address allows";
                self.each.notices.refused(address, "too many", detail);
                continue;
            };
            let conversation = Conversation {
                each: self.each.clone(),
                http2: self.http2.clone(),
                connection: slot.connection.clone(),
                address,
            };
            self.tracker.spawn(async move {
                conversation.run(tcp).await;
                drop(slot);
            });
        }
    }
}

/// One connection from its first byte to its end.
struct Conversation {
    each: Arc<Each>,
    http2: http2::Builder<reset::Executor>,
    connection: Arc<Connection>,
    address: SocketAddr,
}

impl Conversation {
    async fn run(self, tcp: TcpStream) {
        // Nagle's algorithm would hold small answers back. A socket that refuses is closed already.
        let _ = tcp.set_nodelay(true);
        let (evicted, each) = (self.connection.evicted.clone(), self.each.clone());
        let stopped = async {
            each.draining.cancelled().await;
            sleep(each.settings.stream_grace()).await;
        };
        let opened = async {
            match &self.each.acceptor {
                None => self.open(tcp).await.map(Opened::Plain),
                Some(acceptor) => self.secure(acceptor, tcp).await,
            }
        };
        let handshake = Duration::from_millis(each.settings.handshake_timeout_ms);
        let opened = tokio::select! {
            opened = timeout(handshake, opened) => opened,
            () = stopped => return,
            () = evicted.cancelled() => return,
        };
        match opened {
            Ok(Some(Opened::Plain(tcp))) => self.hold(tcp, None).await,
            Ok(Some(Opened::Secured(tls, peer))) => self.hold(tls, peer).await,
            Ok(None) => {}
            // Load balancers open plaintext connections and say nothing, to see whether the port is open.
            Err(_) if each.acceptor.is_none() => {}
            Err(_) => self.refuse("handshake", "it did not shake hands in time"),
        }
    }

    /// The connection once it has begun HTTP/2.
    async fn open<IO>(&self, mut io: IO) -> Option<Reopened<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        match opening::read(&mut io).await.ok()? {
            Opening::Http2 => return Some(Reopened::new(io)),
            Opening::Closed => {}
            Opening::Http1 => {
                self.refuse_protocol(&Opening::Http1);
                let text = "This port speaks gRPC over HTTP/2 without an upgrade from HTTP/1.";
                let _ = opening::answer_http1(&mut io, text).await;
            }
            other => self.refuse_protocol(&other),
        }
        None
    }

    async fn secure(&self, acceptor: &Acceptor, mut tcp: TcpStream) -> Option<Opened> {
        if !opening::begins_tls(&tcp).await.ok()?? {
            let spoken = opening::read(&mut tcp).await.ok()?;
            self.refuse("plaintext", &format!("it speaks {} without TLS", spoken.name()));
            if spoken == Opening::Http1 {
                let text = "This port speaks gRPC over HTTP/2 with TLS.";
                let _ = opening::answer_http1(&mut tcp, text).await;
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
        let peer = Peer::of(&tls);
        // Whoever shakes hands and then says nothing keeps no slot.
        let tls = self.open(tls).await?;
        Some(Opened::Secured(Box::new(tls), peer))
    }

    fn refuse_protocol(&self, spoken: &Opening) {
        let detail = format!("it speaks {}; the port speaks HTTP/2", spoken.name());
        self.refuse("protocol", &detail);
    }

    fn refuse(&self, cause: &'static str, detail: &str) {
        self.each.notices.refused(self.address, cause, detail);
    }

    async fn hold<IO>(self, io: IO, peer: Option<Peer>)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Each {
            stack,
            settings,
            draining,
            ended,
            ..
        } = &*self.each;
        let (stack, idleness) = (stack.clone(), Idleness::new());
        let (calls, known) = (Arc::clone(&idleness), self.connection.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            known.called();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(known.clone());
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            let (answer, open) = (stack.clone().answer(request), calls.begin());
            async move { Ok::<_, Infallible>(hold(answer.await, open)) }
        });
        let mut connection = pin!(self.http2.serve_connection(TokioIo::new(io), service));
        let seconds = Duration::from_secs;
        let age = jittered(seconds(settings.max_connection_age_s));
        let idle = seconds(settings.max_connection_idle_s);
        let farewell = Duration::from_millis(settings.handshake_timeout_ms);
        let leaving = tokio::select! {
            // Errors are the peer's way to go: reset, broken, timed out. Calls that were lost are seen as such.
            _ = connection.as_mut() => return,
            () = self.gone() => return,
            () = draining.cancelled() => Leaving::Drain,
            () = sleep(age) => Leaving::Age,
            () = idleness.lasts(idle) => Leaving::Idle,
        };
        connection.as_mut().graceful_shutdown();
        // A peer that does not answer is not waited for, once what it has called for is finished.
        let stopped = async {
            draining.cancelled().await;
            sleep(settings.stream_grace()).await;
            idleness.lasts(FLUSH).await;
        };
        let idled = async {
            match leaving {
                Leaving::Idle => sleep(farewell).await,
                Leaving::Age | Leaving::Drain => std::future::pending().await,
            }
            // A call may have come at the last moment.
            idleness.lasts(FLUSH).await;
        };
        let aged = async {
            match leaving {
                Leaving::Age | Leaving::Idle => sleep(seconds(settings.max_connection_age_grace_s)).await,
                // The server's own grace counts.
                Leaving::Drain => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = connection => {}
            () = ended.cancelled() => {}
            () = self.connection.evicted.cancelled() => {}
            () = stopped => {}
            () = idled => {}
            () = aged => {}
        }
    }

    /// It is cut, or another one needs its slot.
    async fn gone(&self) {
        tokio::select! {
            () = self.each.ended.cancelled() => {}
            () = self.connection.evicted.cancelled() => {}
        }
    }
}

/// A connection that has begun HTTP/2.
enum Opened {
    Plain(Reopened<TcpStream>),
    Secured(Box<Reopened<TlsStream<TcpStream>>>, Option<Peer>),
}

/// Why a connection was asked to go.
#[derive(Clone, Copy)]
enum Leaving {
    Drain,
    Age,
    Idle,
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
