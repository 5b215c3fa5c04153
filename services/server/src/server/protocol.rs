//! Rejects requests that violate gRPC's protocol (PROTOCOL-HTTP2.md) before they use any resources. Errors in
//! messages are handled where messages are read.

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
    built_in::BUILT_IN,
    call::{Call, Layer as CallLayer, Next, refuse},
};
use crate::{contract::text::sanitized, status};

/// Characters of a header's name, a content type or a path that are repeated in an error.
const MAX_ECHO_CHARS: usize = 100;

/// The reason of a request with no message, or with more than one.
pub(super) const MESSAGE_COUNT: &str = "MESSAGE_COUNT";
/// The reason of bytes that are not a valid frame.
pub(super) const MALFORMED_FRAME: &str = "MALFORMED_FRAME";
const UNKNOWN_METHOD: &str = "UNKNOWN_METHOD";

/// The reasons of protocol violations. They are logged once a minute for each address.
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

/// The reason, if the response's status is a protocol violation.
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
        // From third-party services: health and reflection.
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
            // Health and reflection check their methods themselves.
            Some(name) if BUILT_IN.contains(&name) => Ok(()),
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

/// As grpc-go responds: with an HTTP status for HTTP clients, and with a gRPC status.
fn not_post(method: &Method) -> Response {
    let text = format!("gRPC calls are POST requests, not {}", truncated(method.as_str()));
    let mut response = refuse(status::protocol(Code::Internal, "METHOD_NOT_ALLOWED", text));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

/// The specification requires HTTP status 415.
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

/// `application/grpc`, with or without `+proto` and parameters. Other message formats and gRPC-Web are not
/// supported.
fn is_grpc(content_type: &HeaderValue) -> bool {
    let Ok(text) = content_type.to_str() else {
        return false;
    };
    let media_type = text.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"]
        .iter()
        .any(|taken| media_type.eq_ignore_ascii_case(taken))
}

/// Binary metadata is base64, with or without padding; several values may be joined by commas.
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
    fn content_types_of_grpc_are_distinguished_from_others() {
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
    fn binary_metadata_is_base64_padded_or_not_and_may_be_joined() {
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
