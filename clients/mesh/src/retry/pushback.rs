//! What the server says about coming back.

use std::time::Duration;

use http::{HeaderMap, Response};
use tonic::{Status, body::Body};
use tonic_types::StatusExt;

/// gRFC A6. Milliseconds.
pub(crate) const HEADER: &str = "grpc-retry-pushback-ms";

/// The server's word on the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// It said nothing.
    Absent,
    /// gRFC A6: wait exactly this long, whatever the policy says.
    Exactly(Duration),
    /// `google.rpc.RetryInfo`: wait no less than this.
    AtLeast(Duration),
    /// Do not come back: a negative or unreadable pushback.
    Stop,
}

impl Pushback {
    /// Reads a response that was committed with an error in its headers.
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

/// The wait that a server asks for; `None` without one, and when it asks not to be tried again.
pub(crate) fn delay(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(HEADER)?.to_str().ok()?;
    Some(Duration::from_millis(value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pushback_is_obeyed_to_the_millisecond_and_anything_else_stops() {
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
    fn retry_info_is_the_least_wait() {
        let wait = Duration::from_secs(2);
        let details = tonic_types::ErrorDetails::with_retry_info(Some(wait));
        let status = Status::with_error_details(tonic::Code::Aborted, "again", details);
        assert_eq!(
            Pushback::from_response(&status.into_http()),
            Pushback::AtLeast(wait)
        );
    }
}
