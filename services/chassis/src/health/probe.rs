//! The probe port: plaintext, health and its reflection only, for kubelets that speak no TLS and carry no token.

use std::{convert::Infallible, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tonic::{body::Body, service::Routes};
use tower::ServiceExt;

/// A probe that takes longer is over.
const LONGEST: Duration = Duration::from_secs(3600);
const MAX_CONNECTIONS: usize = 64;

/// Answers probes by `routes`, through the drain too, until it is dropped.
pub(crate) async fn serve(listener: TcpListener, routes: Routes) {
    let connections = TaskTracker::new();
    loop {
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Nobody has a reason to open many; an excess is refused rather than left waiting.
        if connections.len() >= MAX_CONNECTIONS {
            continue;
        }
        let routes = routes.clone();
        let service = service_fn(move |request: Request<Incoming>| {
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
            .serve_connection(TokioIo::new(tcp), service);
        connections.spawn(tokio::time::timeout(LONGEST, connection));
    }
}
