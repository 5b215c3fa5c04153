//! One HTTP/2 connection, over TCP, TLS or a Unix socket.
//!
//! Uses hyper's client connection directly instead of tonic's channel: the supervisor must learn at once that a
//! connection is lost, and a request that was never sent must be returned so that it can be sent elsewhere.

pub(crate) mod activity;
mod activity_io;
mod dial;
mod frames;
mod keepalive_timer;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::InvalidDnsNameError;
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
    proxy::{self, Proxy, TunnelError},
    tls::Credentials,
};
use activity::Activity;
use activity_io::ActivityIo;
use keepalive_timer::KeepaliveTimer;
pub(crate) use keepalive_timer::PingBackoff;

/// HTTP/2 flow-control windows of one stream and of the connection. Bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Maximum size of response headers. Bytes.
const HEADER_LIST: u32 = 32 * 1024;

/// Unanswered TCP keepalive probes after which the operating system closes a connection.
const TCP_PROBES: u32 = 3;

/// Opens connections.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) tuning: Arc<Tuning>,
    /// `None`: connections are made directly.
    pub(crate) proxy: Option<Proxy>,
    /// `None`: plaintext.
    pub(crate) credentials: Option<Credentials>,
    pub(crate) ping_backoff: PingBackoff,
}

/// Why a connection attempt failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within {0} ms")]
    Timeout(u64),
    #[error("cannot connect")]
    Socket(#[source] io::Error),
    #[error("cannot connect to the proxy {0}")]
    Proxy(Proxy, #[source] io::Error),
    #[error("no tunnel through the proxy {0}")]
    Tunnel(Proxy, #[source] TunnelError),
    #[error("`{0}` is not a host name")]
    Name(String, #[source] InvalidDnsNameError),
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the server does not support HTTP/2")]
    Protocol,
    #[error("the server closed the connection before sending anything")]
    Closed,
    #[error("HTTP/2 handshake failed")]
    Handshake(#[source] hyper::Error),
}

/// An open connection on which the server has sent its first bytes.
pub(crate) struct Connected {
    /// Sends requests.
    pub(crate) sender: SendRequest<Body>,
    pub(crate) activity: Arc<Activity>,
    /// The server's socket address.
    pub(crate) peer: Option<SocketAddr>,
    /// Drives the connection; completes when it accepts no more requests.
    pub(crate) driver: BoxFuture<'static, hyper::Result<()>>,
}

impl Connector {
    /// Connects within `Tuning::connect_timeout`. `allows_pings`: whether this address has announced before that
    /// it allows frequent pings.
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
        let activity = Arc::new(Activity::new(allows_pings || self.tuning.pings == Pings::Always));
        let Some(port) = address.port else {
            let stream = dial::unix(&address.host).await.map_err(ConnectError::Socket)?;
            return self.handshake(stream, activity, None).await;
        };
        if let Some(proxy) = &self.proxy {
            // Boxed, because few channels have a proxy, and all would keep room for its state.
            return Box::pin(self.connect_through(proxy, address, port, activity)).await;
        }
        let stream = self
            .connect_tcp(&address.host, port)
            .await
            .map_err(ConnectError::Socket)?;
        let peer = stream.peer_addr().ok();
        self.secure(stream, address, activity, peer).await
    }

    /// Connects through a proxy. The peer is unknown, because it is the proxy that has its address.
    async fn connect_through(
        &self,
        proxy: &Proxy,
        address: &Address,
        port: u16,
        activity: Arc<Activity>,
    ) -> Result<Connected, ConnectError> {
        let stream = self
            .connect_tcp(&proxy.host, proxy.port)
            .await
            .map_err(|error| ConnectError::Proxy(proxy.clone(), error))?;
        let tunnel = proxy::open_tunnel(stream, &address.host, port)
            .await
            .map_err(|error| ConnectError::Tunnel(proxy.clone(), error))?;
        self.secure(tunnel, address, activity, None).await
    }

    async fn connect_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let stream = dial::tcp(host, port).await?;
        stream.set_nodelay(true)?;
        self.set_tcp_keepalive_options(&stream)?;
        Ok(stream)
    }

    /// The handshakes of TLS, if the target is `https://`, and of HTTP/2.
    async fn secure<T>(
        &self,
        stream: T,
        address: &Address,
        activity: Arc<Activity>,
        peer: Option<SocketAddr>,
    ) -> Result<Connected, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(credentials) = &self.credentials else {
            return self.handshake(stream, activity, peer).await;
        };
        let host = address.authority_host();
        let name = credentials
            .server_name(host)
            .map_err(|error| ConnectError::Name(host.to_owned(), error))?;
        let tls = TlsConnector::from(credentials.current().await);
        let stream = tls.connect(name, stream).await.map_err(ConnectError::Tls)?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::Protocol);
        }
        self.handshake(stream, activity, peer).await
    }

    /// Enables TCP keepalive, which detects a dead host and which servers do not count as HTTP/2 pings.
    fn set_tcp_keepalive_options(&self, stream: &TcpStream) -> io::Result<()> {
        let (interval, timeout) = (self.tuning.keepalive_interval(), self.tuning.keepalive_timeout());
        let seconds = |time: Duration| Duration::from_secs(time.as_secs().max(1));
        let keepalive = TcpKeepalive::new()
            .with_time(seconds(interval))
            .with_interval(seconds(timeout / TCP_PROBES))
            .with_retries(TCP_PROBES);
        let socket = SockRef::from(stream);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(interval + timeout))?;
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
            // A dead idle connection must be detected before a call needs it.
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
