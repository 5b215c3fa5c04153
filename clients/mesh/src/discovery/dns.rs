//! `dns:` targets: every address behind a name, such as a headless Service, is an endpoint.

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use super::Address;

/// A name and how often it is resolved.
#[derive(Debug)]
pub(crate) struct Dns {
    name: Address,
    pub(crate) refresh: Duration,
}

impl Dns {
    pub(crate) fn new(name: Address, refresh: Duration) -> Dns {
        Dns { name, refresh }
    }

    pub(crate) fn name(&self) -> &Address {
        &self.name
    }

    /// The addresses behind the name now, in a stable order. An empty answer is an error, because a name
    /// server that forgets for a moment must not take all endpoints away.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<Address>> {
        let found: BTreeSet<SocketAddr> = tokio::net::lookup_host((&*self.name.host, self.name.port))
            .await?
            .collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found.into_iter().map(|socket| self.at(socket)).collect())
    }

    /// The authority stays the name, which is what certificates and virtual hosts are made for.
    fn at(&self, socket: SocketAddr) -> Address {
        Address {
            host: Arc::from(socket.ip().to_string()),
            port: socket.port(),
            ..self.name.clone()
        }
    }
}
