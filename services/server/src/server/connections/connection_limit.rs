//! Limits connections in total and per address; connections without calls are evicted first.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionInfo {
    /// Increases, so that the smallest is the oldest.
    pub(crate) id: u64,
    /// The address, or the /64 network of an IPv6 address, which is assigned to one host as a whole.
    pub(crate) address: IpAddr,
    /// Cancelled when the connection must end at once, to make room for another.
    pub(crate) evicted: CancellationToken,
    called: AtomicBool,
    authenticated: AtomicBool,
}

impl ConnectionInfo {
    /// Records that it has made a call.
    pub(crate) fn mark_called(&self) {
        self.called.store(true, Ordering::Relaxed);
    }

    /// Records that it has made a call with a valid token.
    pub(crate) fn mark_authenticated(&self) {
        self.authenticated.store(true, Ordering::Relaxed);
    }

    fn is_unused(&self) -> bool {
        !self.called.load(Ordering::Relaxed)
    }

    fn is_unauthenticated(&self) -> bool {
        !self.authenticated.load(Ordering::Relaxed)
    }
}

/// The open connections and their limits.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    max: usize,
    max_per_address: usize,
    open: Mutex<OpenConnections>,
    released: Notify,
}

#[derive(Debug, Default)]
struct OpenConnections {
    next: u64,
    by_id: BTreeMap<u64, Arc<ConnectionInfo>>,
    addresses: HashMap<IpAddr, usize>,
}

/// A permit for one connection; released when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Arc<ConnectionLimit>,
    pub(crate) connection: Arc<ConnectionInfo>,
}

/// Why a connection gets no permit.
#[derive(Debug, PartialEq, Eq)]
enum Rejected {
    /// The total limit is reached; a permit may be released later.
    Full,
    /// The limit of its address is reached.
    PerAddress,
}

impl ConnectionLimit {
    pub(crate) fn new(max: usize, max_per_address: usize) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit {
            max,
            max_per_address,
            open: Mutex::default(),
            released: Notify::new(),
        })
    }

    /// A permit for a connection from `address`. At the total limit, the oldest connection without calls is
    /// evicted, then the oldest without a call with a valid token; if there is none, this waits. `None` when the
    /// address has reached its limit, and all of its connections have made calls.
    pub(crate) async fn admit(self: &Arc<ConnectionLimit>, address: IpAddr) -> Option<Permit> {
        let address = network(address);
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            match self.try_admit(address) {
                Ok(permit) => return Some(permit),
                Err(Rejected::PerAddress) => return None,
                Err(Rejected::Full) => released.await,
            }
        }
    }

    fn try_admit(self: &Arc<ConnectionLimit>, address: IpAddr) -> Result<Permit, Rejected> {
        let mut open = self.lock();
        let from_address = open.addresses.get(&address).copied().unwrap_or_default();
        if from_address >= self.max_per_address {
            let evicted_one = open.evict(|candidate| candidate.address == address && candidate.is_unused());
            evicted_one.then_some(()).ok_or(Rejected::PerAddress)?;
        }
        if open.by_id.len() >= self.max {
            let evicted_one =
                open.evict(ConnectionInfo::is_unused) || open.evict(ConnectionInfo::is_unauthenticated);
            evicted_one.then_some(()).ok_or(Rejected::Full)?;
        }
        let connection = Arc::new(ConnectionInfo {
            id: open.next,
            address,
            evicted: CancellationToken::new(),
            called: AtomicBool::new(false),
            authenticated: AtomicBool::new(false),
        });
        open.next += 1;
        open.by_id.insert(connection.id, connection.clone());
        *open.addresses.entry(address).or_default() += 1;
        drop(open);
        Ok(Permit {
            limit: self.clone(),
            connection,
        })
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    /// Evicts the oldest matching connection; false when there is none.
    fn evict(&mut self, kind: impl Fn(&ConnectionInfo) -> bool) -> bool {
        let Some(victim) = self.by_id.values().find(|candidate| kind(candidate)).cloned() else {
            return false;
        };
        victim.evicted.cancel();
        self.remove(&victim);
        true
    }

    fn remove(&mut self, connection: &ConnectionInfo) {
        if self.by_id.remove(&connection.id).is_none() {
            return;
        }
        if let Some(count) = self.addresses.get_mut(&connection.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&connection.address);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.lock().remove(&self.connection);
        self.limit.released.notify_one();
    }
}

/// The unit that counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn at_the_limit_unused_connections_are_evicted_first_then_unauthenticated_ones() {
        let limit = ConnectionLimit::new(3, 3);
        let caller = limit.try_admit(address(1)).unwrap();
        caller.connection.mark_called();
        caller.connection.mark_authenticated();
        let unauthenticated = limit.try_admit(address(2)).unwrap();
        unauthenticated.connection.mark_called();
        let silent = limit.try_admit(address(3)).unwrap();
        let first = limit.try_admit(address(4)).unwrap();
        assert!(silent.connection.evicted.is_cancelled());
        first.connection.mark_called();
        first.connection.mark_authenticated();
        let second = limit.try_admit(address(5)).unwrap();
        assert!(unauthenticated.connection.evicted.is_cancelled());
        second.connection.mark_authenticated();
        assert!(
            limit
                .try_admit(address(6))
                .is_ok_and(|_| second.connection.evicted.is_cancelled())
        );
        drop((silent, unauthenticated));
        assert!(!caller.connection.evicted.is_cancelled() && !first.connection.evicted.is_cancelled());
    }

    #[test]
    fn an_address_is_limited_and_an_ipv6_network_counts_as_one_address() {
        let limit = ConnectionLimit::new(100, 2);
        let permits = [
            limit.try_admit(address(1)).unwrap(),
            limit.try_admit(address(1)).unwrap(),
        ];
        permits.iter().for_each(|permit| permit.connection.mark_called());
        assert_eq!(limit.try_admit(address(1)).unwrap_err(), Rejected::PerAddress);
        assert!(limit.try_admit(address(2)).is_ok());
        drop(permits);
        let silent = [
            limit.try_admit(address(1)).unwrap(),
            limit.try_admit(address(1)).unwrap(),
        ];
        assert!(limit.try_admit(address(1)).is_ok());
        assert!(silent[0].connection.evicted.is_cancelled() && !silent[1].connection.evicted.is_cancelled());
        let hosts = ["2001:db8::1", "2001:db8::2:0:0:2"].map(|host| network(host.parse().unwrap()));
        assert_eq!(hosts[0], hosts[1]);
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), address(1));
    }

    #[tokio::test]
    async fn without_a_free_permit_a_connection_waits() {
        let limit = ConnectionLimit::new(1, 1);
        let permit = limit.admit(address(1)).await.unwrap();
        permit.connection.mark_called();
        permit.connection.mark_authenticated();
        let waiting = limit.admit(address(2));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(permit);
        assert!(waiting.await.is_some());
        let open = limit.lock();
        assert!(open.by_id.is_empty() && open.addresses.is_empty());
    }
}
