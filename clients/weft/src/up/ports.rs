//! Ports on the loopback interface.

use std::net::TcpListener;

/// `wanted` if nothing listens there, else any free port. Another process may take it before its owner does; then the
/// owner does not start, and says why in its log.
pub(crate) fn choose(wanted: Option<u16>) -> std::io::Result<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
    if let Some(Ok(address)) = wanted.map(free) {
        return Ok(address.port());
    }
    free(0).map(|address| address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_replaced_by_a_free_one() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(choose(Some(port)).unwrap(), port);
        drop(taken);
        assert_eq!(choose(Some(port)).unwrap(), port);
    }
}
