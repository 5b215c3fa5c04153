//! The meaning of RESOURCE_EXHAUSTED: an overloaded server, or a limit of the caller.
//!
//! Only an overloaded server is a reason to send fewer calls. A facility over its rate limit, or a message that is
//! too large, says nothing about the server's capacity for others.

use http::{HeaderMap, Response};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt;

use crate::{code, retry::pushback};

/// The reason in `google.rpc.ErrorInfo` of an overloaded server.
const OVERLOADED: &str = "OVERLOADED";

/// Why a call was answered with RESOURCE_EXHAUSTED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The server is overloaded: the reason is OVERLOADED, or there is no `ErrorInfo` but a delay in
    /// `grpc-retry-pushback-ms`, with which other gRPC servers shed load.
    Overload,
    /// `ErrorInfo` has another reason, such as a rate limit or the size of the message.
    Limit,
    /// The server gives no reason, as for a message that is too large or an exhausted quota.
    Unexplained,
}

impl Refusal {
    /// Reads headers or trailers that contain a status. `None` for any other code.
    pub(crate) fn from_headers(headers: &HeaderMap, code: Code) -> Option<Refusal> {
        if code != Code::ResourceExhausted {
            return None;
        }
        let info = Status::from_header_map(headers).and_then(|status| status.get_details_error_info());
        Some(match info {
            Some(info) if info.reason == OVERLOADED => Refusal::Overload,
            Some(_) => Refusal::Limit,
            None if pushback::delay(headers).is_some() => Refusal::Overload,
            None => Refusal::Unexplained,
        })
    }

    /// Reads a response with an error in its headers.
    pub(crate) fn from_response(response: &Response<Body>) -> Option<Refusal> {
        Refusal::from_headers(response.headers(), code::early(response)?)
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn refusal(reason: Option<&str>, pushback: Option<&'static str>) -> Refusal {
        let mut details = ErrorDetails::new();
        if let Some(reason) = reason {
            details.set_error_info(reason, "weft", std::collections::HashMap::new());
        }
        let mut status = Status::with_error_details(Code::ResourceExhausted, "no", details);
        if let Some(pushback) = pushback {
            let value = tonic::metadata::MetadataValue::from_static(pushback);
            status.metadata_mut().insert("grpc-retry-pushback-ms", value);
        }
        Refusal::from_response(&status.into_http()).unwrap()
    }

    #[test]
    fn an_overloaded_server_is_distinguished_from_a_limit_of_the_caller() {
        for (reason, pushback, expected) in [
            (Some("OVERLOADED"), Some("100"), Refusal::Overload),
            (Some("OVERLOADED"), None, Refusal::Overload),
            (Some("RATE_LIMITED"), Some("100"), Refusal::Limit),
            (Some("MESSAGE_TOO_LARGE"), Some("-1"), Refusal::Limit),
            (None, Some("100"), Refusal::Overload),
            (None, Some("-1"), Refusal::Unexplained),
            (None, None, Refusal::Unexplained),
        ] {
            assert_eq!(refusal(reason, pushback), expected, "{reason:?} {pushback:?}");
        }
    }

    #[test]
    fn other_codes_are_not_refusals() {
        assert_eq!(Refusal::from_response(&Status::unavailable("").into_http()), None);
        assert_eq!(Refusal::from_response(&Response::new(Body::empty())), None);
    }
}
