//! Throttles log lines about callers' errors, such as refused connections: one per minute for each address and
//! text.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_secs(60);
/// Addresses and texts in memory. When it is full, new ones are not logged until old ones expire.
const MAX_ENTRIES: usize = 1_024;

/// When each address and text was last logged.
#[derive(Debug, Default)]
pub(super) struct LogThrottle(Mutex<HashMap<(IpAddr, String), LastLogged>>);

#[derive(Debug)]
struct LastLogged {
    at: Instant,
    /// Lines suppressed since.
    suppressed: u64,
}

impl LogThrottle {
    /// Logs that a connection was refused because of `cause`, with details.
    pub(super) fn connection_refused(&self, peer: SocketAddr, cause: &'static str, detail: &str) {
        let Some(suppressed) = self.admit(peer.ip(), detail) else {
            return;
        };
        tracing::warn!(
            client.address = %peer,
            error.message = detail,
            error.type = cause,
            connections.refused = suppressed + 1,
            "a connection was refused"
        );
    }

    /// Logs that a call from `address` violated the protocol, and how.
    pub(super) fn protocol_violation(&self, address: IpAddr, method: &str, reason: &'static str) {
        let Some(suppressed) = self.admit(address, reason) else {
            return;
        };
        tracing::warn!(
            client.address = %address,
            rpc.method = method,
            error.type = reason,
            calls.refused = suppressed + 1,
            "a call broke gRPC's protocol"
        );
    }

    /// `None` when the line is suppressed; otherwise how many were suppressed since the last one.
    fn admit(&self, address: IpAddr, text: &str) -> Option<u64> {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let key = (address, text.to_owned());
        if let Some(last) = logged.get_mut(&key)
            && now.duration_since(last.at) < INTERVAL
        {
            last.suppressed += 1;
            return None;
        }
        if logged.len() >= MAX_ENTRIES && !logged.contains_key(&key) {
            logged.retain(|_, last| now.duration_since(last.at) < INTERVAL);
            if logged.len() >= MAX_ENTRIES {
                return None;
            }
        }
        let before = logged.insert(
            key,
            LastLogged {
                at: now,
                suppressed: 0,
            },
        );
        Some(before.map_or(0, |last| last.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_logged_once_a_minute_for_each_text_with_a_count() {
        let throttle = LogThrottle::default();
        let (first, second) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert_eq!(throttle.admit(first, "HTTP/1"), Some(0));
        assert_eq!(throttle.admit(first, "HTTP/1"), None);
        assert_eq!(throttle.admit(first, "HTTP/1"), None);
        assert_eq!(throttle.admit(first, "TLS"), Some(0));
        assert_eq!(throttle.admit(second, "HTTP/1"), Some(0));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(throttle.admit(first, "HTTP/1"), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_entries_is_bounded() {
        let throttle = LogThrottle::default();
        for n in 0..2 * MAX_ENTRIES as u32 {
            throttle.admit(IpAddr::V4(n.into()), "TLS");
        }
        assert_eq!(throttle.0.lock().unwrap().len(), MAX_ENTRIES);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(throttle.admit([10, 0, 0, 1].into(), "TLS"), Some(0));
    }
}
