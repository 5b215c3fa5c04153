//! Binds the gRPC port and the probe port.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::Serialize;
use tokio::net::TcpListener;

pub(super) struct Listeners {
    pub(super) grpc: TcpListener,
    pub(super) probe: TcpListener,
}

#[derive(Serialize)]
struct Addresses {
    grpc: SocketAddr,
    probe: SocketAddr,
}

/// Binds both ports, logs the addresses, and writes them to `address_file`.
pub(super) async fn bind(
    grpc: SocketAddr,
    probe: SocketAddr,
    address_file: Option<&Path>,
) -> anyhow::Result<Listeners> {
    let grpc = listen("grpc.listen", grpc).await?;
    let probe = listen("probe.listen", probe).await?;
    let addresses = Addresses {
        grpc: grpc.local_addr()?,
        probe: probe.local_addr()?,
    };
    if let Some(path) = address_file {
        write_addresses(path, &addresses)
            .with_context(|| format!("address_file {} cannot be written", path.display()))?;
    }
    tracing::info!(grpc.address = %addresses.grpc, probe.address = %addresses.probe, "listening");
    Ok(Listeners { grpc, probe })
}

async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{setting}: cannot listen on {address}"))
}

/// Replaces the file atomically.
fn write_addresses(path: &Path, addresses: &Addresses) -> anyhow::Result<()> {
    let mut temporary: PathBuf = path.to_owned();
    temporary
        .as_mut_os_string()
        .push(format!(".{}", std::process::id()));
    std::fs::write(&temporary, serde_json::to_vec(addresses)?)?;
    std::fs::rename(&temporary, path)?;
    Ok(())
}
