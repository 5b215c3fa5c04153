//! Who may have a connection: so many in all, so many from one address, and the silent go first.

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

/// What the server knows of one connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Counts up, so that the smallest is the oldest.
    pub(crate) id: u64,
    /// The address, or the /64 network of an IPv6 address: one host has the whole of it.
    pub(crate) address: IpAddr,
    /// It is to end at once: another one needs its slot.
    pub(crate) evicted: CancellationToken,
    called: AtomicBool,
    authenticated: AtomicBool,
}

impl Connection {
    /// Notes that it has made a call.
    pub(crate) fn called(&self) {
        self.called.store(true, Ordering::Relaxed);
    }

    /// Notes that it has made a call with a good token.
    pub(crate) fn authenticated(&self) {
        self.authenticated.store(true, Ordering::Relaxed);
    }

    fn is_silent(&self) -> bool {
        !self.called.load(Ordering::Relaxed)
    }

    fn is_stranger(&self) -> bool {
        !self.authenticated.load(Ordering::Relaxed)
    }
}

/// The connections that are open, within their bounds.
#[derive(Debug)]
pub(crate) struct Slots {
    most: usize,
    most_per_address: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    open: BTreeMap<u64, Arc<Connection>>,
    addresses: HashMap<IpAddr, usize>,
}

/// A slot, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    pub(crate) connection: Arc<Connection>,
}

/// Why a connection gets no slot.
#[derive(Debug, PartialEq, Eq)]
enum Refused {
    /// Until one is freed.
    Full,
    /// Its address has as many as it may have.
    Address,
}

impl Slots {
    pub(crate) fn new(most: usize, most_per_address: usize) -> Arc<Slots> {
        Arc::new(Slots {
            most,
            most_per_address,
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// A slot for a connection from `address`. When all are taken, the oldest connection that has made no call goes,
    /// then the oldest that has made none with a good token; when there is none, this waits. `None` when the address has
    /// as many as it may have, and all of them have made calls.
    pub(crate) async fn admit(self: &Arc<Slots>, address: IpAddr) -> Option<Slot> {
        let address = network(address);
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.take(address) {
                Ok(slot) => return Some(slot),
                Err(Refused::Address) => return None,
                Err(Refused::Full) => freed.await,
            }
        }
    }

    fn take(self: &Arc<Slots>, address: IpAddr) -> Result<Slot, Refused> {
        let mut taken = self.lock();
        let of_address = taken.addresses.get(&address).copied().unwrap_or_default();
        if of_address >= self.most_per_address {
            let gone = taken.evict(|held| held.address == address && held.is_silent());
            gone.then_some(()).ok_or(Refused::Address)?;
        }
        if taken.open.len() >= self.most {
            let gone = taken.evict(Connection::is_silent) || taken.evict(Connection::is_stranger);
            gone.then_some(()).ok_or(Refused::Full)?;
        }
        let connection = Arc::new(Connection {
            id: taken.next,
            address,
            evicted: CancellationToken::new(),
            called: AtomicBool::new(false),
            authenticated: AtomicBool::new(false),
        });
        taken.next += 1;
        taken.open.insert(connection.id, connection.clone());
        *taken.addresses.entry(address).or_default() += 1;
        drop(taken);
        Ok(Slot {
            slots: self.clone(),
            connection,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Ends the oldest connection of a kind; false when there is none.
    fn evict(&mut self, kind: impl Fn(&Connection) -> bool) -> bool {
        let Some(victim) = self.open.values().find(|held| kind(held)).cloned() else {
            return false;
        };
        victim.evicted.cancel();
        self.remove(&victim);
        true
    }

    fn remove(&mut self, connection: &Connection) {
        if self.open.remove(&connection.id).is_none() {
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

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().remove(&self.connection);
        self.slots.freed.notify_one();
    }
}

/// What is counted as one address.
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
    fn when_all_are_taken_the_silent_go_first_then_strangers_and_callers_stay() {
        let slots = Slots::new(3, 3);
        let caller = slots.take(address(1)).unwrap();
        caller.connection.called();
        caller.connection.authenticated();
        let stranger = slots.take(address(2)).unwrap();
        stranger.connection.called();
        let silent = slots.take(address(3)).unwrap();
        let first = slots.take(address(4)).unwrap();
        assert!(silent.connection.evicted.is_cancelled());
        first.connection.called();
        first.connection.authenticated();
        let second = slots.take(address(5)).unwrap();
        assert!(stranger.connection.evicted.is_cancelled());
        second.connection.authenticated();
        assert!(
            slots
                .take(address(6))
                .is_ok_and(|_| second.connection.evicted.is_cancelled())
        );
        drop((silent, stranger));
        assert!(!caller.connection.evicted.is_cancelled() && !first.connection.evicted.is_cancelled());
    }

    #[test]
    fn one_address_has_its_share_and_a_network_of_ipv6_counts_as_one() {
        let slots = Slots::new(100, 2);
        let held = [slots.take(address(1)).unwrap(), slots.take(address(1)).unwrap()];
        held.iter().for_each(|slot| slot.connection.called());
        assert_eq!(slots.take(address(1)).unwrap_err(), Refused::Address);
        assert!(slots.take(address(2)).is_ok());
        drop(held);
        let silent = [slots.take(address(1)).unwrap(), slots.take(address(1)).unwrap()];
        assert!(slots.take(address(1)).is_ok());
        assert!(silent[0].connection.evicted.is_cancelled() && !silent[1].connection.evicted.is_cancelled());
        let hosts = ["2001:db8::1", "2001:db8::2:0:0:2"].map(|host| network(host.parse().unwrap()));
        assert_eq!(hosts[0], hosts[1]);
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), address(1));
    }

    #[tokio::test]
    async fn who_finds_no_slot_waits_for_one() {
        let slots = Slots::new(1, 1);
        let held = slots.admit(address(1)).await.unwrap();
        held.connection.called();
        held.connection.authenticated();
        let waiting = slots.admit(address(2));
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        assert!(waiting.await.is_some());
        let taken = slots.lock();
        assert!(taken.open.is_empty() && taken.addresses.is_empty());
    }
}
