//! Ports for servers that cannot choose their own.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ephemeral port ranges of operating systems, so that no outgoing connection takes a port between the
/// check and the server's start.
const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;

/// Finds a free port of 127.0.0.1. No two calls in one process return the same port.
pub(crate) fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Concurrent test processes start far apart.
    let start = (process::id() % 170 * 100) as u16;
    for _ in 0..COUNT {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (u32::from(start) + u32::from(offset)).rem_euclid(u32::from(COUNT)) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port among {COUNT} from {FIRST} on");
}
