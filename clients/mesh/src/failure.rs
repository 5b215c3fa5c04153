//! Classifies transport errors: whether the server can have processed the request, and which status the
//! application gets.
//!
//! Transports report a lost connection in several ways (CANCELLED, UNKNOWN, "operation was canceled"). Here the
//! code is determined from the error's chain of sources, and is UNAVAILABLE for all of them.

use std::{error::Error as StdError, sync::Arc};

use http::Request;
use tonic::{Status, body::Body};

use crate::{discovery::Address, origin};

/// An attempt that ended without a response.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) reached: Reached,
    /// The request, if the transport returned it unsent.
    pub(crate) request: Option<Box<Request<Body>>>,
}

/// Whether the server can have processed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// It was not sent: there was no endpoint, or the deadline had passed.
    NoEndpoint,
    /// It was refused unprocessed, or was not sent by the transport: repeating it is safe for every method.
    Never,
    /// It may have been processed.
    Perhaps,
    /// It may have been processed, and there was no response within the timeout of one attempt.
    TimedOut,
}

impl Failure {
    pub(crate) fn no_endpoint(status: Status) -> Failure {
        Failure {
            status: origin::not_sent(status),
            reached: Reached::NoEndpoint,
            request: None,
        }
    }

    pub(crate) fn transport(error: hyper::Error, endpoint: &Address) -> Failure {
        let reached = if is_refused(&error) {
            Reached::Never
        } else {
            Reached::Perhaps
        };
        Failure {
            status: unavailable(error, endpoint),
            reached,
            request: None,
        }
    }

    pub(crate) fn unsent(error: hyper::Error, endpoint: &Address, request: Request<Body>) -> Failure {
        let request = Some(Box::new(request));
        Failure {
            status: unavailable(error, endpoint),
            reached: Reached::Never,
            request,
        }
    }
}

/// The status of a transport error: UNAVAILABLE, or a status found in the chain of sources.
pub(crate) fn unavailable(error: hyper::Error, endpoint: &Address) -> Status {
    let mut source: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(current) = source {
        if let Some(status) = current.downcast_ref::<Status>() {
            return status.clone();
        }
        source = current.source();
    }
    let mut status = Status::unavailable(format!("connection to {endpoint}: {}", error_chain(&error)));
    status.set_source(Arc::new(error));
    status
}

/// Whether the peer reported that it did not process the request (RFC 9113, sections 6.8 and 8.7), for any reason.
/// GOAWAY is the error of a stream only if its number is above the last one that the peer processed; the other
/// streams end with the connection, with an I/O error.
fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(current) = source {
        if let Some(h2) = current.downcast_ref::<h2::Error>() {
            let untouched = h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            return h2.is_remote() && (untouched || h2.is_go_away());
        }
        source = current.source();
    }
    false
}

/// The messages of an error and its sources; the outermost alone is often only "http2 error".
pub(crate) fn error_chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(current) = source {
        let message = current.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = current.source();
    }
    text
}
