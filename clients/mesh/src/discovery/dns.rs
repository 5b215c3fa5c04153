//! `dns:` targets: every address behind a name, such as a headless Service, is an endpoint.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};

use super::{Address, Update};

/// A name is resolved no more often than this, however many connections are lost.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// How long a name server may take.
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

    /// Tells what is behind the name, again and again, until nobody listens.
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
            // A lost connection may mean that the name has moved.
            let _ = timeout(rest, connection_lost.notified()).await;
        }
    }

    /// The addresses behind the name now, in a stable order. An empty answer is an error, because a name
    /// server that forgets for a moment must not take all endpoints away.
    async fn resolve(&self) -> io::Result<Vec<Address>> {
        let found: BTreeSet<SocketAddr> = tokio::net::lookup_host((&*self.name.host, self.name.port))
            .await?
            .collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found.into_iter().map(|socket| self.address_at(socket)).collect())
    }

    /// The authority stays the name, which is what certificates and virtual hosts are made for.
    fn address_at(&self, socket: SocketAddr) -> Address {
        Address {
            host: Arc::from(socket.ip().to_string()),
            port: socket.port(),
            ..self.name.clone()
        }
    }
}
