//! One HTTP/2 connection.
//!
//! The connection is hyper's, without tonic's channel around it: the supervisor has to learn at once that a
//! connection is lost, and a request that was never sent has to come back to be sent elsewhere.

mod heard;
mod pace;
pub(crate) mod pulse;

use std::{io, sync::Arc};

use futures_util::future::BoxFuture;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::body::Body;

use crate::{discovery::Address, options::Tuning, tls::Credentials};
use heard::Heard;
use pace::Pace;
use pulse::Pulse;

/// Received data the peer may send ahead on one stream, and on the connection. Bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Response headers may be this long. Bytes.
const HEADER_LIST: u32 = 32 * 1024;

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) tuning: Arc<Tuning>,
    /// `None`: in the clear.
    pub(crate) credentials: Option<Credentials>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within {0} ms")]
    Late(u64),
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
    pub(crate) pulse: Arc<Pulse>,
    /// Drives the connection, and ends when no more requests are taken.
    pub(crate) driver: BoxFuture<'static, hyper::Result<()>>,
}

impl Connector {
    /// Connects, within the time that the tuning gives.
    pub(crate) async fn open(&self, address: &Address) -> Result<Connected, ConnectError> {
        let limit = self.tuning.connect_timeout();
        timeout(limit, self.connect(address))
            .await
            .unwrap_or(Err(ConnectError::Late(self.tuning.connect_timeout_ms)))
    }

    async fn connect(&self, address: &Address) -> Result<Connected, ConnectError> {
        let stream = TcpStream::connect((&*address.host, address.port))
            .await
            .map_err(ConnectError::Tcp)?;
        stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
        let Some(credentials) = &self.credentials else {
            return self.handshake(stream).await;
        };
        let name = ServerName::try_from(address.host.to_string())
            .map_err(|_| ConnectError::Name(Arc::clone(&address.host)))?;
        let tls = TlsConnector::from(credentials.current().await);
        let stream = tls.connect(name, stream).await.map_err(ConnectError::Tls)?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::Protocol);
        }
        self.handshake(stream).await
    }

    async fn handshake<T>(&self, stream: T) -> Result<Connected, ConnectError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let pulse = Arc::new(Pulse::new());
        let pace = Pace::new(Arc::clone(&pulse), &self.tuning);
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .keep_alive_interval(pace.interval())
            .keep_alive_timeout(pace.timeout())
            // An idle connection must not turn out dead only when it is needed.
            .keep_alive_while_idle(true)
            .timer(pace);
        let (stream, heard) = Heard::new(stream, Arc::clone(&pulse));
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        let mut driver = Box::pin(connection);
        tokio::select! {
            biased;
            Ok(()) = heard => Ok(Connected { sender, pulse, driver }),
            ended = &mut driver => match ended {
                Ok(()) => Err(ConnectError::Closed),
                Err(error) => Err(ConnectError::Handshake(error)),
            }
        }
    }
}
