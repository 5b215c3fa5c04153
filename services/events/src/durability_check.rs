//! The check of the broker at the start. A broker that acknowledges before it syncs loses acknowledged events when
//! its machine fails. One without atomic batches stores their messages one by one and acknowledges only the last.

use std::time::Duration;

use async_nats::Client;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Error, Settings};

const TIMEOUT: Duration = Duration::from_secs(3);
const MAX_RESPONSE_BYTES: u64 = 1 << 20;

/// The first server version with atomic batches.
const MIN_VERSION: (i64, i64, i64) = (2, 12, 0);

#[derive(Deserialize)]
struct JetStream {
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    sync_always: bool,
}

/// Checks the server's version, as its greeting gives it. The client is certain to have it once the server has
/// answered a request.
///
/// # Errors
/// [`Error::TooOld`] when the version is below 2.12.
pub(crate) fn check_version(client: &Client) -> Result<(), Error> {
    let (major, minor, patch) = MIN_VERSION;
    if client.is_server_compatible(major, minor, patch) {
        Ok(())
    } else {
        Err(Error::TooOld {
            version: client.server_info().version,
        })
    }
}

/// Reads from the server's monitoring page whether it syncs before it acknowledges.
///
/// # Errors
/// [`Error::RelaxedSync`] when it does not, [`Error::Monitoring`] when the page cannot be read. Neither when the
/// settings allow a relaxed server.
pub(crate) async fn check_sync(settings: &Settings) -> Result<(), Error> {
    if settings.allow_relaxed_sync {
        return Ok(());
    }
    let Some(url) = &settings.monitor_url else {
        return Err(Error::Monitoring(
            "monitor_url is not set, so sync_interval cannot be checked".into(),
        ));
    };
    let body = tokio::time::timeout(TIMEOUT, get(url.expose())).await;
    let body = body.map_err(|_| Error::Monitoring(format!("{url}/jsz does not answer")))?;
    let body = body.map_err(|error| Error::Monitoring(format!("{url}/jsz cannot be read: {error}")))?;
    let state: JetStream =
        serde_json::from_slice(&body).map_err(|error| Error::Monitoring(error.to_string()))?;
    match state.config {
        Some(config) if config.sync_always => Ok(()),
        Some(_) => Err(Error::RelaxedSync { url: url.to_string() }),
        None => Err(Error::Broker(format!("{url}/jsz says that JetStream is off"))),
    }
}

/// Uses HTTP 1.0, so that the response is not chunked and ends with the connection.
async fn get(url: &str) -> std::io::Result<Vec<u8>> {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(host).await?;
    stream
        .write_all(format!("GET /jsz?config=true HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes())
        .await?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
    let end = response.windows(4).position(|window| window == b"\r\n\r\n");
    let start = end.ok_or_else(|| std::io::Error::other("no HTTP answer"))? + 4;
    Ok(response.split_off(start))
}
