//! Opens sockets. A host with several addresses is tried at one after the other, alternating between IPv6 and IPv4
//! (RFC 8305, Happy Eyeballs): an address that does not answer costs a quarter of a second, not the whole timeout.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    net::{TcpStream, lookup_host},
    time::sleep,
};

/// The head start of one attempt over the next: RFC 8305's Connection Attempt Delay.
const HEAD_START: Duration = Duration::from_millis(250);
/// Maximum number of addresses of one host that are tried.
const MAX_ADDRESSES: usize = 16;

/// Connects to `host`, a name or an IP address. The caller bounds the time.
///
/// # Errors
/// If the name cannot be resolved, or with the error of the address that failed last.
pub(super) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = interleave(lookup_host((host, port)).await?.collect());
    first_connected(addresses, TcpStream::connect).await
}

/// Connects to the Unix socket at `path`.
#[cfg(unix)]
pub(super) async fn unix(path: &str) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

#[cfg(not(unix))]
pub(super) async fn unix(_: &str) -> io::Result<TcpStream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The addresses in the resolver's order, but alternating between the families, beginning with the first one's.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else {
        return addresses;
    };
    let (mut preferred, mut others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first);
    let mut ordered = Vec::with_capacity(preferred.len() + others.len());
    let (mut preferred, mut others) = (preferred.drain(..), others.drain(..));
    while ordered.len() < MAX_ADDRESSES {
        let pair = [preferred.next(), others.next()];
        if pair == [None, None] {
            break;
        }
        ordered.extend(pair.into_iter().flatten());
    }
    ordered.truncate(MAX_ADDRESSES);
    ordered
}

/// The first connection that `dial` establishes. The next address is tried when an attempt has failed or has had its
/// head start; the other attempts go on until one succeeds.
async fn first_connected<T, F>(addresses: Vec<SocketAddr>, dial: impl Fn(SocketAddr) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut untried = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        attempts.extend(untried.next().map(&dial));
        tokio::select! {
            biased;
            Some(attempt) = attempts.next() => match attempt {
                Ok(connection) => return Ok(connection),
                Err(error) => last_error = error,
            },
            () = sleep(HEAD_START), if untried.len() > 0 => {}
            else => return Err(last_error),
        }
    }
}

#[cfg(test)]
mod tests;
