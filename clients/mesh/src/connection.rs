//! One HTTP/2 connection.
//!
//! The connection is hyper's, without tonic's channel around it: the supervisor has to learn at once that a
//! connection is lost, and a request that was never sent has to come back to be sent elsewhere.

use std::{future::Future, io};

use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};
use tonic::body::Body;

use crate::{discovery::Address, options::Tuning};

/// Received data the peer may send ahead on one stream, and on the connection. Bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Response headers may be this long. Bytes.
const HEADER_LIST: u32 = 32 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no connection within {0} ms")]
    Late(u64),
    #[error("cannot connect: {0}")]
    Tcp(#[source] io::Error),
    #[error("no HTTP/2 handshake: {0}")]
    Handshake(#[source] hyper::Error),
}

/// Connects. The future that comes with the sender drives the connection and ends when it takes no more
/// requests.
pub(crate) async fn open(
    address: &Address,
    tuning: &Tuning,
) -> Result<
    (
        SendRequest<Body>,
        impl Future<Output = hyper::Result<()>> + Send + use<>,
    ),
    ConnectError,
> {
    let connecting = async {
        let stream = TcpStream::connect((&*address.host, address.port))
            .await
            .map_err(ConnectError::Tcp)?;
        stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
        builder(tuning)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)
    };
    timeout(tuning.connect_timeout(), connecting)
        .await
        .unwrap_or(Err(ConnectError::Late(tuning.connect_timeout_ms)))
}

fn builder(tuning: &Tuning) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(tuning.keepalive_interval())
        .keep_alive_timeout(tuning.keepalive_timeout())
        // An idle connection must not turn out dead only when it is needed.
        .keep_alive_while_idle(true);
    builder
}
