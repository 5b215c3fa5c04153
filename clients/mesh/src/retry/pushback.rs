//! Pushback: the server's instruction about the next attempt.

use std::time::Duration;

use http::{HeaderMap, Response};
use tonic::{Status, body::Body};
use tonic_types::StatusExt;

/// gRFC A6. Milliseconds.
pub(crate) const HEADER: &str = "grpc-retry-pushback-ms";

/// The server's instruction about the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// None was sent.
    Absent,
    /// gRFC A6: retry after exactly this delay, regardless of the policy.
    Exactly(Duration),
    /// `google.rpc.RetryInfo`: retry after at least this delay.
    AtLeast(Duration),
    /// Do not retry: a negative or invalid pushback.
    Stop,
}

impl Pushback {
    /// Reads the pushback of a response with an error in its headers.
    pub(crate) fn from_response(response: &Response<Body>) -> Pushback {
        if response.headers().contains_key(HEADER) {
            return delay(response.headers()).map_or(Pushback::Stop, Pushback::Exactly);
        }
        if !response.headers().contains_key("grpc-status-details-bin") {
            return Pushback::Absent;
        }
        let details =
            Status::from_header_map(response.headers()).and_then(|status| status.get_details_retry_info());
        match details.and_then(|info| info.retry_delay) {
            Some(wait) => Pushback::AtLeast(wait),
            None => Pushback::Absent,
        }
    }
}

/// The delay that the server requests; `None` if there is none or a retry is forbidden.
pub(crate) fn delay(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(HEADER)?.to_str().ok()?;
    Some(Duration::from_millis(value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_pushback_is_exact_and_an_invalid_one_stops_retries() {
        for (value, expected) in [
            ("0", Pushback::Exactly(Duration::ZERO)),
            ("250", Pushback::Exactly(Duration::from_millis(250))),
            ("-1", Pushback::Stop),
            ("soon", Pushback::Stop),
            ("", Pushback::Stop),
        ] {
            let response = Response::builder()
                .header(HEADER, value)
                .body(Body::empty())
                .unwrap();
            assert_eq!(Pushback::from_response(&response), expected, "{value:?}");
        }
        assert_eq!(
            Pushback::from_response(&Response::new(Body::empty())),
            Pushback::Absent
        );
    }

    #[test]
    fn retry_info_is_a_minimum_delay() {
        let wait = Duration::from_secs(2);
        let details = tonic_types::ErrorDetails::with_retry_info(Some(wait));
        let status = Status::with_error_details(tonic::Code::Aborted, "again", details);
        assert_eq!(
            Pushback::from_response(&status.into_http()),
            Pushback::AtLeast(wait)
        );
    }
}
