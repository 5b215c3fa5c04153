//! Requests that break gRPC's protocol (PROTOCOL-HTTP2.md), answered before anything is done for them: no time, no
//! place, no token is spent. What is wrong with their messages is answered where messages are read.

use std::sync::LazyLock;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    Response,
    call::{Call, Layer as CallLayer, Next, refuse},
};
use crate::{contract::text::sanitized, status};

/// How much of a header's name, of a content type or of a path is truncated.
const MAX_ECHO_CHARS: usize = 100;

/// The reason of a request that sends no message where there must be one, or more than one.
pub(super) const MESSAGE_COUNT: &str = "MESSAGE_COUNT";
/// The reason of bytes that are no messages.
pub(super) const MALFORMED_FRAME: &str = "MALFORMED_FRAME";
const UNKNOWN_METHOD: &str = "UNKNOWN_METHOD";

/// The reasons of callers' mistakes with the protocol. They are truncated in the log once a minute for each address.
const VIOLATIONS: [&str; 9] = [
    MESSAGE_COUNT,
    MALFORMED_FRAME,
    UNKNOWN_METHOD,
    "UNKNOWN_SERVICE",
    "COMPRESSED",
    "MALFORMED_METADATA",
    "METHOD_NOT_ALLOWED",
    "REQUEST_TOO_SLOW",
    "UNSUPPORTED_CONTENT_TYPE",
];

/// Which of the protocol's mistakes this answer's status is.
pub(super) fn violation_reason(headers: &HeaderMap, code: Code) -> Option<&'static str> {
    if !matches!(
        code,
        Code::InvalidArgument | Code::Unimplemented | Code::Internal | Code::DeadlineExceeded
    ) {
        return None;
    }
    let details = Status::from_header_map(headers)?.get_error_details();
    match details.error_info() {
        Some(info) => VIOLATIONS.into_iter().find(|reason| *reason == info.reason),
        // From the services that are not ours, health and reflection.
        None => (code == Code::Unimplemented).then_some(UNKNOWN_METHOD),
    }
}

pub(super) struct Layer {
    /// Full names of the services that are served.
    services: Vec<String>,
}

impl Layer {
    pub(super) fn new(services: Vec<String>) -> Layer {
        Layer { services }
    }

    fn check(&self, call: &Call) -> Option<Response> {
        let request = &call.request;
        if request.method() != Method::POST {
            return Some(not_post(request.method()));
        }
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if !content_type.is_some_and(is_grpc) {
            return Some(unsupported(content_type));
        }
        let mut checked = check_metadata(request.headers());
        if checked.is_ok() && call.method.is_none() {
            checked = self.check_path(request.uri().path());
        }
        checked.err().map(refuse)
    }

    fn check_path(&self, path: &str) -> Result<(), Status> {
        let service = path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .map(|(service, _)| service);
        let is_served = |name: &&str| self.services.iter().any(|served| served == name);
        match service.filter(is_served) {
            // It knows its methods itself.
            Some(name) if name.starts_with("grpc.") => Ok(()),
            Some(name) => Err(status::unimplemented(
                UNKNOWN_METHOD,
                format!(
                    "{name} has no method {}",
                    truncated(path.rsplit('/').next().unwrap_or_default())
                ),
            )),
            None => Err(status::unimplemented(
                "UNKNOWN_SERVICE",
                format!("no service is served at {}", truncated(path)),
            )),
        }
    }
}

impl CallLayer for Layer {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        match self.check(&call) {
            None => next.run(call),
            Some(refusal) => Box::pin(async { refusal }),
        }
    }
}

/// As grpc-go answers it: by HTTP's status for clients of HTTP, and by gRPC's.
fn not_post(method: &Method) -> Response {
    let text = format!("gRPC calls are POST requests, not {}", truncated(method.as_str()));
    let mut response = refuse(status::protocol(Code::Internal, "METHOD_NOT_ALLOWED", text));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

/// HTTP status 415 is what the specification asks for.
fn unsupported(content_type: Option<&HeaderValue>) -> Response {
    let found = content_type.map_or("none".into(), |value| {
        truncated(&String::from_utf8_lossy(value.as_bytes()))
    });
    let text = format!("the content-type must be application/grpc or application/grpc+proto; it is {found}");
    let mut response = refuse(status::protocol(
        Code::InvalidArgument,
        "UNSUPPORTED_CONTENT_TYPE",
        text,
    ));
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// `application/grpc`, with `+proto` or without, with parameters or without. Other message formats are not taken, nor
/// is gRPC-Web.
fn is_grpc(content_type: &HeaderValue) -> bool {
    let Ok(text) = content_type.to_str() else {
        return false;
    };
    let media_type = text.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"]
        .iter()
        .any(|taken| media_type.eq_ignore_ascii_case(taken))
}

/// Binary metadata are base64, padded or not; several values may be joined by commas.
fn check_metadata(headers: &HeaderMap) -> Result<(), Status> {
    static BASE64: LazyLock<GeneralPurpose> = LazyLock::new(|| {
        let lenient = GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true);
        GeneralPurpose::new(&alphabet::STANDARD, lenient)
    });
    let malformed = headers
        .iter()
        .filter(|(name, _)| name.as_str().ends_with("-bin"))
        .find(|(_, value)| {
            let mut values = value.as_bytes().split(|byte| *byte == b',');
            values.any(|value| BASE64.decode(value.trim_ascii()).is_err())
        });
    match malformed {
        None => Ok(()),
        Some((name, _)) => {
            let text = format!("the metadata `{}` is not base64", truncated(name.as_str()));
            Err(status::protocol(Code::Internal, "MALFORMED_METADATA", text))
        }
    }
}

fn truncated(text: &str) -> String {
    sanitized(text, MAX_ECHO_CHARS).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_grpc_are_told_from_others() {
        let is = |text: &str| is_grpc(&HeaderValue::from_str(text).unwrap());
        for taken in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc;charset=utf-8",
            "Application/gRPC+Proto; x=1",
        ] {
            assert!(is(taken), "{taken}");
        }
        for refused in [
            "",
            "application/json",
            "application/grpc+json",
            "application/grpcish",
            "application/grpc-web",
            "text/plain, application/grpc",
        ] {
            assert!(!is(refused), "{refused}");
        }
        assert!(!is_grpc(&HeaderValue::from_bytes(b"\xff").unwrap()));
    }

    #[test]
    fn binary_metadata_may_be_padded_or_not_and_joined_and_nothing_else() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-trace-bin", HeaderValue::from_static(value));
            check_metadata(&headers)
        };
        for taken in ["", "AAE=", "AAE", "AAE=,AA, AAAA"] {
            assert!(check(taken).is_ok(), "{taken}");
        }
        for refused in ["!", "A", "AAE=,-_?", "A=A="] {
            let refusal = check(refused).unwrap_err();
            assert_eq!(refusal.code(), Code::Internal);
            assert!(refusal.message().contains("x-trace-bin"));
        }
    }
}
