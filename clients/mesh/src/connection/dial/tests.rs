use std::{cell::RefCell, collections::HashMap, future::pending};

use tokio::time::{Instant, timeout};

use super::*;

const MS: Duration = Duration::from_millis(1);

/// How an address behaves.
#[derive(Clone, Copy)]
enum Host {
    Accepts(Duration),
    Refuses(Duration),
    /// Packets to it are lost.
    BlackHole,
}
use Host::{Accepts, BlackHole, Refuses};

/// A network without sockets, which records when each address was tried.
struct Network {
    hosts: HashMap<SocketAddr, Host>,
    began: Instant,
    tried: RefCell<Vec<(SocketAddr, Duration)>>,
}

impl Network {
    fn new(hosts: &[(SocketAddr, Host)]) -> Network {
        Network {
            hosts: hosts.iter().copied().collect(),
            began: Instant::now(),
            tried: RefCell::default(),
        }
    }

    async fn dial(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        self.tried.borrow_mut().push((address, self.began.elapsed()));
        match self.hosts[&address] {
            Accepts(after) => {
                sleep(after).await;
                Ok(address)
            }
            Refuses(after) => {
                sleep(after).await;
                Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    address.to_string(),
                ))
            }
            BlackHole => pending().await,
        }
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> io::Result<SocketAddr> {
        first_connected(addresses.to_vec(), |address| self.dial(address)).await
    }

    /// The tried addresses, each with the milliseconds since the beginning.
    fn tried(&self) -> Vec<(SocketAddr, u128)> {
        let tried = self.tried.borrow();
        tried
            .iter()
            .map(|(address, at)| (*address, at.as_millis()))
            .collect()
    }
}

fn v6(number: u16) -> SocketAddr {
    format!("[2001:db8::{number}]:1").parse().unwrap()
}

fn v4(number: u16) -> SocketAddr {
    format!("192.0.2.{number}:1").parse().unwrap()
}

#[test]
fn families_alternate_in_the_resolvers_order_and_the_number_is_bounded() {
    assert_eq!(
        interleave(vec![v6(1), v6(2), v6(3), v4(1), v4(2)]),
        [v6(1), v4(1), v6(2), v4(2), v6(3)]
    );
    assert_eq!(interleave(vec![v4(1), v4(2), v6(1)]), [v4(1), v6(1), v4(2)]);
    assert_eq!(interleave(vec![v4(1), v4(2)]), [v4(1), v4(2)]);
    assert_eq!(interleave(Vec::new()), []);
    let many = interleave((0..40).map(v6).chain((0..40).map(v4)).collect());
    assert_eq!(many.len(), MAX_ADDRESSES);
    assert_eq!(
        many.iter().filter(|address| address.is_ipv4()).count(),
        MAX_ADDRESSES / 2
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_address_that_does_not_answer_costs_its_head_start() {
    let network = Network::new(&[(v6(1), BlackHole), (v4(1), Accepts(10 * MS))]);
    assert_eq!(network.connect(&[v6(1), v4(1)]).await.unwrap(), v4(1));
    assert_eq!(network.tried(), [(v6(1), 0), (v4(1), 250)]);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_answers_in_time_is_the_only_one_tried() {
    let network = Network::new(&[(v6(1), Accepts(200 * MS)), (v4(1), Accepts(MS))]);
    assert_eq!(network.connect(&[v6(1), v4(1)]).await.unwrap(), v6(1));
    assert_eq!(network.tried(), [(v6(1), 0)]);
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_the_next_address_is_tried_at_once() {
    let network = Network::new(&[(v6(1), Refuses(5 * MS)), (v4(1), BlackHole), (v6(2), Accepts(MS))]);
    assert_eq!(network.connect(&[v6(1), v4(1), v6(2)]).await.unwrap(), v6(2));
    assert_eq!(network.tried(), [(v6(1), 0), (v4(1), 5), (v6(2), 255)]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_address_still_wins_after_the_others_were_tried() {
    let network = Network::new(&[(v6(1), Accepts(400 * MS)), (v4(1), BlackHole)]);
    assert_eq!(network.connect(&[v6(1), v4(1)]).await.unwrap(), v6(1));
    assert_eq!(network.began.elapsed().as_millis(), 400);
}

#[tokio::test(start_paused = true)]
async fn if_all_addresses_fail_the_last_error_is_returned() {
    let network = Network::new(&[(v6(1), Refuses(300 * MS)), (v4(1), Refuses(MS))]);
    let error = network.connect(&[v6(1), v4(1)]).await.unwrap_err();
    assert_eq!(error.to_string(), v6(1).to_string());
    let nothing = network.connect(&[]).await.unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn addresses_that_never_answer_are_waited_for_until_the_caller_gives_up() {
    let network = Network::new(&[(v6(1), BlackHole), (v4(1), BlackHole)]);
    let waited = timeout(2_000 * MS, network.connect(&[v6(1), v4(1)])).await;
    assert!(waited.is_err());
    assert_eq!(network.tried(), [(v6(1), 0), (v4(1), 250)]);
}

#[tokio::test]
async fn a_name_is_connected_to_at_the_address_that_listens() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // `localhost` may also resolve to ::1, where nothing listens.
    let stream = tcp("localhost", port).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap().port(), port);
}
