//! The probe port: plaintext, health and its reflection only, because kubelets use neither TLS nor a token.

use std::{convert::Infallible, pin::pin, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tonic::{body::Body, service::Routes};
use tower::ServiceExt;

use crate::server::{
    ConnectionLimit,
    detect::{self, PrefixedIo, Protocol},
};

/// Longest lifetime of a connection.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3600);
/// How long a peer may take to send the HTTP/2 preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Open connections at once. A further one replaces the oldest that has sent no request, or else the oldest: a
/// probe sends its request at once and disconnects.
const MAX_CONNECTIONS: usize = 64;

/// Answers probes with `routes`, also during the drain, until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, routes: Routes) {
    // No lower limit per address: all probes come from the node's address.
    let limit = ConnectionLimit::new(MAX_CONNECTIONS, MAX_CONNECTIONS + 1);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (tcp, address) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        // No connection is authenticated, so one can always be evicted.
        let Some(permit) = limit.admit(address.ip()).await else {
            continue;
        };
        let routes = routes.clone();
        connections.spawn(async move {
            let evicted = permit.connection.evicted.clone();
            let connection = permit.connection.clone();
            let served = serve_connection(tcp, routes, move || connection.mark_called());
            tokio::select! {
                _ = timeout(MAX_CONNECTION_AGE, served) => {}
                () = evicted.cancelled() => {}
            }
            drop(permit);
        });
    }
}

async fn serve_connection(mut tcp: TcpStream, routes: Routes, called: impl Fn()) {
    if !matches!(
        timeout(PREFACE_TIMEOUT, detect::detect(&mut tcp)).await,
        Ok(Ok(Protocol::Http2))
    ) {
        return;
    }
    let service = service_fn(|request: Request<Incoming>| {
        called();
        let routes = routes.clone();
        async move {
            Ok::<_, Infallible>(
                routes
                    .oneshot(request.map(Body::new))
                    .await
                    .unwrap_or_else(|never| match never {}),
            )
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(16)
        .max_header_list_size(8 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(PrefixedIo::new(tcp)), service);
    // An error means that the peer has disconnected.
    let _ = pin!(connection).await;
}
