//! One HTTP/2 connection.
//!
//! The connection is hyper's, without tonic's channel around it: the supervisor has to learn at once that a
//! connection is lost, and a request that was never sent has to come back to be sent elsewhere.

pub(crate) mod activity;
mod activity_io;
mod frames;
mod keepalive_timer;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use crate::{
    discovery::Address,
    options::{Pings, Tuning},
    tls::Credentials,
};
use activity::Activity;
use activity_io::ActivityIo;
use keepalive_timer::KeepaliveTimer;
pub(crate) use keepalive_timer::PingBackoff;

/// Received data the peer may send ahead on one stream, and on the connection. Bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Response headers may be this long. Bytes.
const HEADER_LIST: u32 = 32 * 1024;

/// Unanswered probes after which the operating system gives a connection up.
const TCP_PROBES: u32 = 3;

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) tuning: Arc<Tuning>,
    /// `None`: in the clear.
    pub(crate) credentials: Option<Credentials>,
    pub(crate) ping_backoff: PingBackoff,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within {0} ms")]
    Timeout(u64),
    #[error("cannot connect")]
    Tcp(#[source] io::Error),
    #[error("`{0}` is no host name")]
    Name(Arc<str>),
    #[error("no TLS handshake")]
    Tls(#[source] io::Error),
    #[error("the server speaks no HTTP/2")]
    Protocol,
    #[error("the server closed the connection without a word")]
    Closed,
    #[error("no HTTP/2 handshake")]
    Handshake(#[source] hyper::Error),
}

/// A connection over which the server has spoken.
pub(crate) struct Connected {
    /// What requests are sent on.
    pub(crate) sender: SendRequest<Body>,
    pub(crate) activity: Arc<Activity>,
    /// The other end.
    pub(crate) peer: Option<SocketAddr>,
    /// Drives the connection, and ends when no more requests are taken.
    pub(crate) driver: BoxFuture<'static, hyper::Result<()>>,
}

impl Connector {
    /// Connects, within the time that the tuning gives. `allows_pings`: what the address has announced before.
    pub(crate) async fn open(
        &self,
        address: &Address,
        allows_pings: bool,
    ) -> Result<Connected, ConnectError> {
        let limit = self.tuning.connect_timeout();
        timeout(limit, self.connect(address, allows_pings))
            .await
            .unwrap_or(Err(ConnectError::Timeout(self.tuning.connect_timeout_ms)))
    }

    async fn connect(&self, address: &Address, allows_pings: bool) -> Result<Connected, ConnectError> {
        let stream = TcpStream::connect((&*address.host, address.port))
            .await
            .map_err(ConnectError::Tcp)?;
        stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
        self.set_tcp_keepalive_options(&stream)
            .map_err(ConnectError::Tcp)?;
        let activity = Arc::new(Activity::new(allows_pings || self.tuning.pings == Pings::Always));
        let peer = stream.peer_addr().ok();
        let Some(credentials) = &self.credentials else {
            return self.handshake(stream, activity, peer).await;
        };
        let name = ServerName::try_from(address.host.to_string())
            .map_err(|_| ConnectError::Name(Arc::clone(&address.host)))?;
        let tls = TlsConnector::from(credentials.current().await);
        let stream = tls.connect(name, stream).await.map_err(ConnectError::Tls)?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::Protocol);
        }
        self.handshake(stream, activity, peer).await
    }

    /// Has the operating system find out that the other host is gone, which no server counts as a ping.
    fn set_tcp_keepalive_options(&self, stream: &TcpStream) -> io::Result<()> {
        let (quiet, answer) = (self.tuning.keepalive_interval(), self.tuning.keepalive_timeout());
        let seconds = |time: Duration| Duration::from_secs(time.as_secs().max(1));
        let keepalive = TcpKeepalive::new()
            .with_time(seconds(quiet))
            .with_interval(seconds(answer / TCP_PROBES))
            .with_retries(TCP_PROBES);
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(quiet + answer))?;
        Ok(())
    }

    async fn handshake<T>(
        &self,
        stream: T,
        activity: Arc<Activity>,
        peer: Option<SocketAddr>,
    ) -> Result<Connected, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let timer = KeepaliveTimer::new(Arc::clone(&activity), &self.tuning, &self.ping_backoff);
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .keep_alive_interval(timer.interval())
            .keep_alive_timeout(timer.timeout())
            // An idle connection must not turn out dead only when it is needed.
            .keep_alive_while_idle(true)
            .timer(timer);
        let (stream, first_read) = ActivityIo::new(stream, Arc::clone(&activity));
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        let mut driver = Box::pin(connection);
        tokio::select! {
            biased;
            Ok(()) = first_read => Ok(Connected { sender, activity, peer, driver }),
            ended = &mut driver => match ended {
                Ok(()) => Err(ConnectError::Closed),
                Err(error) => Err(ConnectError::Handshake(error)),
            }
        }
    }
}
