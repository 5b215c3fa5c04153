//! Settings of the gRPC port. HTTP/2 settings are explicit, not the library's defaults.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{RateLimits, Reflection, tls};
use crate::Violations;

/// The gRPC port and its limits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The address to listen on; port 0 takes a free one. Default 127.0.0.1:7101.
    pub listen: SocketAddr,
    /// Connections at once. A further one replaces the oldest without a call with a valid token; if there is none,
    /// it waits. Default 1024.
    pub max_connections: usize,
    /// Connections at once from one address; further ones are closed. Raise it behind a load balancer, which has
    /// one address for all callers. Default 256.
    pub max_connections_per_address: usize,
    /// Most calls in progress in the whole process; further ones are rejected. Default 512.
    pub max_in_flight: usize,
    /// Lower bound of that limit, which falls while calls take longer than their baseline. With `max_in_flight` or
    /// more, the limit is fixed. Default 64.
    pub min_in_flight: usize,
    /// Open streams of methods in the whole process; further ones are rejected. The contract may limit single
    /// methods further. Default 4096.
    pub max_streams: usize,
    /// Open streams of one tenant (a facility). Default 1024.
    pub max_streams_per_facility: usize,
    /// Calls without a token (health, reflection) in progress in the whole process; at most 16 on one connection,
    /// and a quarter from one address. Default 4096.
    pub max_anonymous_calls: usize,
    /// Bytes of one request message. Default 4194304.
    pub max_message_bytes: usize,
    /// Bytes of all requests being received and handled, plus 4 KiB for each; at least four times
    /// `max_message_bytes`. One tenant may use a quarter. Further requests are rejected. Default 67108864.
    pub max_receive_bytes: usize,
    /// Milliseconds for the message of a unary request to arrive. Default 10000.
    pub receive_timeout_ms: u64,
    /// Milliseconds between two parts of a client stream, while the server waits for one. Default 30000.
    pub max_message_gap_ms: u64,
    /// Streams at once on one connection. Default 256.
    pub max_concurrent_streams: u32,
    /// Bytes of all headers of one request. Default 16384.
    pub max_header_list_bytes: u32,
    /// Milliseconds for a new connection to complete the TLS handshake and start HTTP/2. Default 5000.
    pub handshake_timeout_ms: u64,
    /// Milliseconds between pings on a connection. Default 20000.
    pub keepalive_interval_ms: u64,
    /// Milliseconds until the response to a ping; after that the connection is closed. Default 10000.
    pub keepalive_timeout_ms: u64,
    /// Seconds until a connection is closed gracefully, plus or minus ten per cent, so that load spreads. Default
    /// 1800.
    pub max_connection_age_s: u64,
    /// Seconds for open calls to finish on a connection that is closed for its age. Default 600.
    pub max_connection_age_grace_s: u64,
    /// Seconds without a call until a connection is closed gracefully. An open stream, such as a health watch, is
    /// a call. Default 300.
    pub max_connection_idle_s: u64,
    /// Milliseconds for open streams to end when the process stops. Default 2000.
    pub stream_grace_ms: u64,
    /// Who may use reflection: `open` (any caller), `token` (any caller with a token) or `off`. Default open.
    pub reflection: Reflection,
    /// Mutual TLS; without it the port is plaintext, as the probe port always is. Default none.
    pub tls: Option<tls::Settings>,
    /// Rate limits of each tenant. Default: unlimited.
    pub rate_limits: RateLimits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 7101)),
            max_connections: 1024,
            max_connections_per_address: 256,
            max_in_flight: 512,
            min_in_flight: 64,
            max_streams: 4096,
            max_streams_per_facility: 1024,
            max_anonymous_calls: 4096,
            max_message_bytes: 4 * 1024 * 1024,
            max_receive_bytes: 64 * 1024 * 1024,
            receive_timeout_ms: 10_000,
            max_message_gap_ms: 30_000,
            max_concurrent_streams: 256,
            max_header_list_bytes: 16 * 1024,
            handshake_timeout_ms: 5_000,
            keepalive_interval_ms: 20_000,
            keepalive_timeout_ms: 10_000,
            max_connection_age_s: 1_800,
            max_connection_age_grace_s: 600,
            max_connection_idle_s: 300,
            stream_grace_ms: 2_000,
            reflection: Reflection::Open,
            tls: None,
            rate_limits: RateLimits::default(),
        }
    }
}

impl Settings {
    /// The defaults on another port of 127.0.0.1.
    pub fn on_port(port: u16) -> Settings {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            ..Settings::default()
        }
    }

    pub(super) fn stream_grace(&self) -> Duration {
        Duration::from_millis(self.stream_grace_ms)
    }

    /// Reports the settings that are out of bounds.
    pub fn check(&self, violations: &mut Violations) {
        let mut within = |field, value: u64, least: u64, most: u64| {
            violations.require(
                (least..=most).contains(&value),
                field,
                format!("must be {least} to {most}"),
            );
        };
        const MIB: u64 = 1024 * 1024;
        let message = self.max_message_bytes as u64;
        for (field, count) in [
            ("max_connections", self.max_connections),
            ("max_connections_per_address", self.max_connections_per_address),
            ("max_in_flight", self.max_in_flight),
            ("min_in_flight", self.min_in_flight),
            ("max_streams", self.max_streams),
            ("max_streams_per_facility", self.max_streams_per_facility),
            ("max_anonymous_calls", self.max_anonymous_calls),
            ("max_concurrent_streams", self.max_concurrent_streams as usize),
        ] {
            within(field, count as u64, 1, 100_000);
        }
        let received = self.max_receive_bytes as u64;
        within("max_receive_bytes", received, 4 * message, 64 * 1024 * MIB);
        within("max_message_bytes", message, 1024, 64 * MIB);
        let headers = self.max_header_list_bytes.into();
        within("max_header_list_bytes", headers, 1024, MIB);
        for (field, value, least, most) in [
            ("handshake_timeout_ms", self.handshake_timeout_ms, 1, 60_000),
            ("receive_timeout_ms", self.receive_timeout_ms, 1, 600_000),
            ("max_message_gap_ms", self.max_message_gap_ms, 1, 600_000),
            (
                "keepalive_interval_ms",
                self.keepalive_interval_ms,
                100,
                3_600_000,
            ),
            ("keepalive_timeout_ms", self.keepalive_timeout_ms, 100, 600_000),
            ("max_connection_age_s", self.max_connection_age_s, 1, 86_400),
            (
                "max_connection_age_grace_s",
                self.max_connection_age_grace_s,
                1,
                86_400,
            ),
            ("max_connection_idle_s", self.max_connection_idle_s, 1, 86_400),
            ("stream_grace_ms", self.stream_grace_ms, 0, 300_000),
        ] {
            within(field, value, least, most);
        }
        if let Some(tls) = &self.tls {
            violations.within("tls", |violations| tls.check(violations));
        }
        violations.within("rate_limits", |violations| self.rate_limits.check(violations));
    }
}
