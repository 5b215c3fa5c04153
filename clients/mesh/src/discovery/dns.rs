//! `dns:` targets: every address of a name, such as a headless Service, is an endpoint.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};

use super::{Address, Update};

/// The minimum interval between two resolutions, however many connections are lost.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// Timeout of one resolution.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A name and how often it is resolved.
#[derive(Debug)]
pub(crate) struct Dns {
    name: Address,
    refresh: Duration,
}

impl Dns {
    pub(super) fn new(name: Address, refresh: Duration) -> Dns {
        Dns { name, refresh }
    }

    pub(super) fn name(&self) -> &Address {
        &self.name
    }

    /// Resolves the name periodically and sends the result, until the receiver is dropped.
    pub(super) async fn watch(&self, updates: &mpsc::Sender<Update>, connection_lost: &Notify) {
        let min_refresh = MIN_REFRESH.min(self.refresh);
        loop {
            let update = match timeout(RESOLVE_TIMEOUT, self.resolve()).await {
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(error)) => Err(Arc::from(format!("name resolution: {error}"))),
                Err(_) => Err(Arc::from(format!(
                    "name resolution: no answer within {} s",
                    RESOLVE_TIMEOUT.as_secs()
                ))),
            };
            let rest = match update {
                Ok(_) => self.refresh - min_refresh,
                Err(_) => Duration::ZERO,
            };
            if updates.send(update).await.is_err() {
                return;
            }
            sleep(min_refresh).await;
            // After a lost connection the name may have other addresses.
            let _ = timeout(rest, connection_lost.notified()).await;
        }
    }

    /// The current addresses of the name, in a stable order. An empty answer is an error, because a temporary
    /// failure of the name server must not remove all endpoints.
    async fn resolve(&self) -> io::Result<Vec<Address>> {
        // A URI always has a port.
        let port = self.name.port.unwrap_or_default();
        let found: BTreeSet<SocketAddr> = tokio::net::lookup_host((&*self.name.host, port)).await?.collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found.into_iter().map(|socket| self.address_at(socket)).collect())
    }

    /// The authority stays the name, to which certificates and virtual hosts refer.
    fn address_at(&self, socket: SocketAddr) -> Address {
        Address {
            host: Arc::from(socket.ip().to_string()),
            port: Some(socket.port()),
            ..self.name.clone()
        }
    }
}
