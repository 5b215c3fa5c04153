//! What the server says about coming back.

use std::time::Duration;

use http::Response;
use tonic::{Status, body::Body};
use tonic_types::StatusExt;

const HEADER: &str = "grpc-retry-pushback-ms";

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
    pub(crate) fn of(response: &Response<Body>) -> Pushback {
        if let Some(value) = response.headers().get(HEADER) {
            let wait = value.to_str().ok().and_then(|value| value.parse::<u64>().ok());
            return wait.map_or(Pushback::Stop, |wait| {
                Pushback::Exactly(Duration::from_millis(wait))
            });
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
            assert_eq!(Pushback::of(&response), expected, "{value:?}");
        }
        assert_eq!(Pushback::of(&Response::new(Body::empty())), Pushback::Absent);
    }

    #[test]
    fn retry_info_is_the_least_wait() {
        let wait = Duration::from_secs(2);
        let details = tonic_types::ErrorDetails::with_retry_info(Some(wait));
        let status = Status::with_error_details(tonic::Code::Aborted, "again", details);
        assert_eq!(Pushback::of(&status.into_http()), Pushback::AtLeast(wait));
    }
}
