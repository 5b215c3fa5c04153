//! Log lines about callers' mistakes, connections that were refused among them: one a minute for each address and text.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const QUIET: Duration = Duration::from_secs(60);
/// Addresses and texts that are remembered. Beyond, nothing is logged until the minute of some is over.
const REMEMBERED: usize = 1_024;

/// What has been logged lately.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<HashMap<(IpAddr, String), Told>>);

#[derive(Debug)]
struct Told {
    at: Instant,
    /// The same mistakes of the address since.
    since: u64,
}

impl Notices {
    /// Logs that a connection was refused for `cause`, with what it is about.
    pub(super) fn refused(&self, peer: SocketAddr, cause: &'static str, detail: &str) {
        let Some(untold) = self.due(peer.ip(), detail) else {
            return;
        };
        tracing::warn!(
            client.address = %peer,
            error.message = detail,
            error.type = cause,
            connections.refused = untold + 1,
            "a connection was refused"
        );
    }

    /// Logs that a call from `address` broke the protocol, and why.
    pub(super) fn mistaken(&self, address: IpAddr, method: &str, reason: &'static str) {
        let Some(untold) = self.due(address, reason) else {
            return;
        };
        tracing::warn!(
            client.address = %address,
            rpc.method = method,
            error.type = reason,
            calls.refused = untold + 1,
            "a call broke gRPC's protocol"
        );
    }

    /// How many were passed over since the last line, when another one is due.
    fn due(&self, address: IpAddr, text: &str) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let key = (address, text.to_owned());
        if let Some(last) = told.get_mut(&key)
            && now.duration_since(last.at) < QUIET
        {
            last.since += 1;
            return None;
        }
        if told.len() >= REMEMBERED && !told.contains_key(&key) {
            told.retain(|_, told| now.duration_since(told.at) < QUIET);
            if told.len() >= REMEMBERED {
                return None;
            }
        }
        let before = told.insert(key, Told { at: now, since: 0 });
        Some(before.map_or(0, |told| told.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_told_of_once_a_minute_for_each_text_with_how_often() {
        let notices = Notices::default();
        let (first, second) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert_eq!(notices.due(first, "HTTP/1"), Some(0));
        assert_eq!(notices.due(first, "HTTP/1"), None);
        assert_eq!(notices.due(first, "HTTP/1"), None);
        assert_eq!(notices.due(first, "TLS"), Some(0));
        assert_eq!(notices.due(second, "HTTP/1"), Some(0));
        tokio::time::advance(QUIET).await;
        assert_eq!(notices.due(first, "HTTP/1"), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let notices = Notices::default();
        for n in 0..2 * REMEMBERED as u32 {
            notices.due(IpAddr::V4(n.into()), "TLS");
        }
        assert_eq!(notices.0.lock().unwrap().len(), REMEMBERED);
        tokio::time::advance(QUIET).await;
        assert_eq!(notices.due([10, 0, 0, 1].into(), "TLS"), Some(0));
    }
}
