//! The origin of a call's status: the callee or the client.
//!
//! The code alone does not distinguish them. RESOURCE_EXHAUSTED may be the callee's refusal or a full queue of the
//! client, OUT_OF_RANGE may be a rule of the callee or a response that the client could not decode. Whether the
//! callee has refused a call decides about its compensation, so the channel marks every status received from the
//! callee; a status without the mark was created by the client.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tonic::{Status, body::Body, metadata::MetadataMap};

/// Set by the channel on every status received from the peer, and removed from all other headers of a peer.
const MARK: &str = "mesh-status-origin";
const CALLEE: &str = "callee";
const CODE: HeaderName = HeaderName::from_static("grpc-status");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Where a status was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By the callee.
    Callee,
    /// By the client, after the request may have been sent: the connection was lost, the call timed out, or the
    /// response could not be read (too large, malformed, cut off). The callee may have executed the call.
    Client,
    /// By the client, and the request was not sent: it could not be encoded, no endpoint was reachable, the queue
    /// was full, or the client throttled it.
    NotSent,
}

impl Origin {
    /// The origin of the status of a call through a [`Channel`](crate::Channel).
    pub fn from_status(status: &Status) -> Origin {
        if status.metadata().get(MARK).is_some() {
            return Origin::Callee;
        }
        if is_not_sent(status) {
            return Origin::NotSent;
        }
        Origin::Client
    }

    /// Marks a status as the callee's, for code that acts for a callee or replaces one in a test.
    pub fn mark_callee(mut status: Status) -> Status {
        let value = tonic::metadata::MetadataValue::from_static(CALLEE);
        status.metadata_mut().insert(MARK, value);
        status
    }
}

/// The source of the status of a call that was not sent, which marks it.
#[derive(Debug, thiserror::Error)]
#[error("the call was not sent")]
struct NotSentMarker;

pub(crate) fn not_sent(mut status: Status) -> Status {
    status.set_source(Arc::new(NotSentMarker));
    status
}

pub(crate) fn is_not_sent(status: &Status) -> bool {
    std::error::Error::source(status).is_some_and(|source| source.is::<NotSentMarker>())
}

/// Marks the status in a response's headers or trailers, if there is one.
///
/// Removes details that are not base64, because tonic panics when it decodes them.
pub(crate) fn mark_received(headers: &mut HeaderMap) {
    headers.remove(MARK);
    let Some(code) = headers.get(CODE) else { return };
    if code.as_bytes() != b"0" {
        headers.insert(MARK, HeaderValue::from_static(CALLEE));
    }
    if headers.get(DETAILS).is_some_and(|details| !is_base64(details)) {
        headers.remove(DETAILS);
    }
}

/// An error response in place of the callee's, for an injected fault.
pub(crate) fn respond_as_callee(status: Status) -> Response<Body> {
    Origin::mark_callee(status).into_http()
}

/// Uses tonic's own decoder, so that both agree.
fn is_base64(value: &HeaderValue) -> bool {
    let mut one = HeaderMap::new();
    one.insert(DETAILS, value.clone());
    MetadataMap::from_headers(one)
        .get_bin(DETAILS.as_str())
        .is_some_and(|value| value.to_bytes().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        fields.collect()
    }

    #[test]
    fn only_a_received_status_has_the_callee_as_origin() {
        let mut refused = headers(&[("grpc-status", "9")]);
        mark_received(&mut refused);
        let received = Status::from_header_map(&refused).unwrap();
        assert_eq!(Origin::from_status(&received), Origin::Callee);
        assert_eq!(
            Origin::from_status(&Status::out_of_range("too large to decode")),
            Origin::Client
        );
        assert_eq!(
            Origin::from_status(&not_sent(Status::unavailable("none"))),
            Origin::NotSent
        );
        assert_eq!(
            Origin::from_status(&Origin::mark_callee(Status::aborted(""))),
            Origin::Callee
        );
    }

    #[test]
    fn a_peer_cannot_mark_a_status_of_the_client() {
        let mut begun = headers(&[(MARK, CALLEE), ("content-type", "application/grpc")]);
        mark_received(&mut begun);
        let mut local = Status::out_of_range("too large to decode");
        *local.metadata_mut() = MetadataMap::from_headers(begun);
        assert_eq!(Origin::from_status(&local), Origin::Client);
    }

    #[test]
    fn invalid_details_are_removed_and_the_status_stays() {
        let mut refused = headers(&[("grpc-status", "9"), ("grpc-status-details-bin", "not base64!")]);
        mark_received(&mut refused);
        assert_eq!(
            Status::from_header_map(&refused).unwrap().code(),
            tonic::Code::FailedPrecondition
        );
    }
}
