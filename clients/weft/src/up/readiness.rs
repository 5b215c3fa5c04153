//! Waits until a child process is ready.

use std::{fs, path::Path, time::Duration};

use anyhow::bail;
use mesh::{Channel, ChannelOptions, Context, Policies};
use tokio::net::TcpStream;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::supervisor::Supervised;

/// How long a process may take to start; a database that recovers from a crash takes longest.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `ready` returns true.
///
/// # Errors
/// When the process ends first, or after a minute; the error has the end of its log.
pub(crate) async fn wait(
    name: &str,
    process: &Supervised,
    log: &Path,
    mut ready: impl AsyncFnMut() -> bool,
) -> anyhow::Result<()> {
    let polling = async {
        while !ready().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    tokio::select! {
        () = polling => Ok(()),
        end = process.ended() => bail!("{name} ended before it was ready ({end}); its log ends with\n{}", tail(log)),
        () = tokio::time::sleep(START_TIMEOUT) => bail!("{name} is not ready after a minute; its log ends with\n{}", tail(log)),
    }
}

/// Checks a service's `readiness` on its probe port.
pub(crate) struct Probe {
    port: u16,
    client: Option<HealthClient<Channel>>,
}

impl Probe {
    pub(crate) fn new(port: u16) -> Probe {
        Probe { port, client: None }
    }

    /// # Errors
    /// When the service is not ready: its status, or why it cannot be checked.
    pub(crate) async fn check(&mut self) -> Result<(), String> {
        if self.client.is_none() {
            // A channel that failed to connect would wait before it retries, so the port is tested first.
            let open = TcpStream::connect(("127.0.0.1", self.port)).await;
            open.map_err(|error| format!("port {}: {error}", self.port))?;
            let target = format!("static:http://127.0.0.1:{}", self.port);
            let channel = Channel::connect(
                ChannelOptions::new(target, "health", "weft-cli"),
                &Policies::default(),
            );
            self.client = Some(HealthClient::new(channel.map_err(|error| error.to_string())?));
        }
        let Some(client) = &mut self.client else {
            return Err("not connected".to_owned());
        };
        let request = HealthCheckRequest {
            service: "readiness".to_owned(),
        };
        let answer = client
            .check(
                Context::new()
                    .with_timeout(Duration::from_secs(2))
                    .request(request),
            )
            .await;
        match answer.map(|answer| answer.into_inner().status()) {
            Ok(ServingStatus::Serving) => Ok(()),
            Ok(status) => Err(status.as_str_name().to_owned()),
            Err(status) => Err(status.message().to_owned()),
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
