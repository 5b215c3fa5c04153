//! Protocol violations and their responses according to gRPC's PROTOCOL-HTTP2 and status code documents; and valid
//! variants.

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{
    abuse::{Peer, WAIT_LIMIT, frame, ordinary, refusal, watch_health},
    fixture::{get, reason},
    test_server::TestServer,
};
use crate::server::Settings;

pub(super) const GET_ORDER: &str = "/order.v1.OrderService/GetOrder";
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A call with exactly these headers.
async fn send(
    peer: &Peer,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<RecvStream>, h2::Error> {
    let mut requests = peer.requests.clone().ready().await?;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://protocol{path}"))
        .body(())
        .unwrap();
    *request.headers_mut() = headers;
    let (answer, mut sent) = requests.send_request(request, false)?;
    sent.send_data(body, true)?;
    timeout(WAIT_LIMIT, answer).await.expect("no call hangs")
}

/// The headers of an ordinary call.
fn default_headers(peer: &Peer) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let bearer = format!("Bearer {}", peer.token);
    headers.insert(header::AUTHORIZATION, bearer.parse().unwrap());
    headers
}

fn with(peer: &Peer, name: &'static str, value: &[u8]) -> HeaderMap {
    let mut headers = default_headers(peer);
    headers.insert(name, HeaderValue::from_bytes(value).unwrap());
    headers
}

/// The status of a response, in its headers or its trailers.
async fn status(answer: Response<RecvStream>) -> Status {
    if let Some(refused) = refusal(&answer) {
        return refused;
    }
    let mut body = answer.into_body();
    let trailers = timeout(WAIT_LIMIT, async {
        while let Some(data) = body.data().await {
            data.unwrap();
        }
        body.trailers().await.unwrap()
    });
    Status::from_header_map(&trailers.await.unwrap().unwrap()).unwrap()
}

async fn answered(peer: &Peer, path: &str, headers: HeaderMap, body: Bytes) -> Status {
    status(send(peer, Method::POST, path, headers, body).await.unwrap()).await
}

#[tokio::test]
async fn other_content_types_and_http_methods_get_an_http_and_a_grpc_status() {
    let server = TestServer::start().await;
    let peer = Peer::connect(&server, 65_535).await;
    for path in [GET_ORDER, CHECK, "/"] {
        for content_type in [
            Some(&b"application/json"[..]),
            Some(b"application/grpc-web"),
            None,
        ] {
            let mut headers = default_headers(&peer);
            headers.remove(header::CONTENT_TYPE);
            if let Some(content_type) = content_type {
                headers.insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_bytes(content_type).unwrap(),
                );
            }
            let answer = send(&peer, Method::POST, path, headers, frame(&get()))
                .await
                .unwrap();
            assert_eq!(answer.status(), 415);
            let refused = refusal(&answer).unwrap();
            assert_eq!(
                (refused.code(), reason(&refused).as_str()),
                (Code::InvalidArgument, "UNSUPPORTED_CONTENT_TYPE")
            );
        }
        for method in [Method::GET, Method::PUT, Method::OPTIONS] {
            let answer = send(&peer, method, path, default_headers(&peer), Bytes::new())
                .await
                .unwrap();
            assert_eq!(answer.status(), 405);
            assert_eq!(answer.headers()[header::ALLOW], "POST");
            let refused = refusal(&answer).unwrap();
            assert_eq!(
                (refused.code(), reason(&refused).as_str()),
                (Code::Internal, "METHOD_NOT_ALLOWED")
            );
        }
    }
    ordinary(&server).await.unwrap();
}

#[tokio::test]
async fn an_unknown_path_is_unimplemented_and_named_at_any_length() {
    let server = TestServer::start().await;
    let peer = Peer::connect(&server, 65_535).await;
    let long = format!("/{}/GetOrder", "x".repeat(8_000));
    for (path, expected) in [
        ("/order.v1.OrderService/Nothing", "UNKNOWN_METHOD"),
        ("/order.v1.OrderService/", "UNKNOWN_METHOD"),
        ("/order.v1.OrderService/GetOrder/", "UNKNOWN_METHOD"),
        ("/claims.v1.ClaimService/GetClaim", "UNKNOWN_SERVICE"),
        ("/", "UNKNOWN_SERVICE"),
        ("/order.v1.OrderService", "UNKNOWN_SERVICE"),
        ("//GetOrder", "UNKNOWN_SERVICE"),
        (&long, "UNKNOWN_SERVICE"),
    ] {
        // Callers without a token get the same response.
        let mut headers = default_headers(&peer);
        headers.remove(header::AUTHORIZATION);
        let refused = answered(&peer, path, headers, frame(&get())).await;
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unimplemented, expected),
            "{path}"
        );
        assert!(refused.message().len() < 400, "{}", refused.message().len());
    }
    let foreign = answered(
        &peer,
        "/grpc.health.v1.Health/Nothing",
        default_headers(&peer),
        watch_health(),
    )
    .await;
    assert_eq!(foreign.code(), Code::Unimplemented);
    ordinary(&server).await.unwrap();
}

#[tokio::test]
async fn oversized_headers_are_rejected_by_http_and_the_connection_stays_open() {
    let server = TestServer::start().await;
    let peer = Peer::connect(&server, 65_535).await;
    let long = format!("/{}", "x".repeat(20_000));
    let answer = send(&peer, Method::POST, &long, default_headers(&peer), Bytes::new()).await;
    match answer {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(error.is_reset() || error.reason().is_some(), "{error}"),
    }
    assert_eq!(
        answered(&peer, GET_ORDER, default_headers(&peer), frame(&get()))
            .await
            .code(),
        Code::Ok
    );
}

#[tokio::test]
async fn metadata_is_checked_where_the_protocol_defines_it() {
    let server = TestServer::start().await;
    let peer = Peer::connect(&server, 65_535).await;
    for value in ["!", "A", "AAE=,-"] {
        let refused = answered(
            &peer,
            GET_ORDER,
            with(&peer, "x-note-bin", value.as_bytes()),
            frame(&get()),
        )
        .await;
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Internal, "MALFORMED_METADATA")
        );
        assert!(refused.message().contains("x-note-bin"));
    }
    for timeout in ["", "1", "S", "-1S", "1.5S", "123456789S", "1D", "0x1S"] {
        let refused = answered(
            &peer,
            GET_ORDER,
            with(&peer, "grpc-timeout", timeout.as_bytes()),
            frame(&get()),
        )
        .await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{timeout}");
        assert!(refused.message().contains("grpc-timeout"), "{refused}");
    }
    // Headers that the server does not read may contain anything that HTTP allows.
    for (name, value) in [
        ("x-note-bin", &b"AAE"[..]),
        ("x-note-bin", b"AAE=,AAE"),
        ("x-note", b"\xff\xfe"),
        ("x-note", "na\u{ef}ve".as_bytes()),
        ("traceparent", b"\xff"),
        ("grpc-encoding", b"\xff"),
        ("grpc-encoding", b"gzip"),
        ("content-type", b"application/grpc+proto; charset=utf-8"),
    ] {
        let answer = answered(&peer, GET_ORDER, with(&peer, name, value), frame(&get())).await;
        assert_eq!(answer.code(), Code::Ok, "{name}");
    }
    let refused = answered(
        &peer,
        GET_ORDER,
        with(&peer, "authorization", b"Bearer \xff"),
        frame(&get()),
    )
    .await;
    assert_eq!(refused.code(), Code::Unauthenticated);
    // grpc-go and grpc-java answer a call without it as well.
    let mut headers = default_headers(&peer);
    headers.remove(header::TE);
    assert_eq!(
        answered(&peer, GET_ORDER, headers, frame(&get())).await.code(),
        Code::Ok
    );
}

fn prefixed(flag: u8, length: u32, message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(flag);
    bytes.put_u32(length);
    bytes.put_slice(message);
    bytes.freeze()
}

#[tokio::test]
async fn a_body_that_is_not_one_complete_message_gets_the_code_of_grpcs_table() {
    let server = TestServer::start().await;
    let peer = Peer::connect(&server, 65_535).await;
    let whole = frame(&get());
    let twice = Bytes::from([&whole[..], &whole[..]].concat());
    let cut = whole.slice(..whole.len() - 1);
    for path in [GET_ORDER, CHECK] {
        for (body, code, expected) in [
            (Bytes::new(), Code::Unimplemented, "MESSAGE_COUNT"),
            (twice.clone(), Code::Unimplemented, "MESSAGE_COUNT"),
            (cut.clone(), Code::Internal, "MALFORMED_FRAME"),
            (prefixed(0, 9, b"").slice(..3), Code::Internal, "MALFORMED_FRAME"),
            (prefixed(2, 0, b""), Code::Internal, "MALFORMED_FRAME"),
            (prefixed(1, 0, b""), Code::Internal, "MALFORMED_FRAME"),
            (
                prefixed(0, u32::MAX, b"x"),
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
            ),
        ] {
            let refused = answered(&peer, path, default_headers(&peer), body).await;
            assert_eq!(
                (refused.code(), reason(&refused).as_str()),
                (code, expected),
                "{path}"
            );
        }
        let headers = with(&peer, "grpc-encoding", b"snappy");
        let refused = answered(&peer, path, headers, prefixed(1, 2, b"\x0a\x00")).await;
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::Unimplemented, "COMPRESSED")
        );
        assert_eq!(
            refused.metadata().get("grpc-accept-encoding").unwrap(),
            "identity"
        );
    }
    ordinary(&server).await.unwrap();
}

#[tokio::test]
async fn trailers_of_a_caller_are_ignored() {
    let server = TestServer::start().await;
    let peer = Peer::connect(&server, 65_535).await;
    let (answer, mut body) = peer.begin(GET_ORDER, &[], None).await;
    body.send_data(frame(&get()), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("13"));
    trailers.insert("x-note-bin", HeaderValue::from_static("!"));
    body.send_trailers(trailers).unwrap();
    let answer = timeout(WAIT_LIMIT, answer).await.unwrap().unwrap();
    assert_eq!(status(answer).await.code(), Code::Ok);
}

#[tokio::test]
async fn protocol_violations_take_no_permit_from_ordinary_calls() {
    let server = TestServer::with(Settings {
        max_anonymous_calls: 4,
        ..Settings::default()
    })
    .await;
    let peer = Peer::connect(&server, 65_535).await;
    let mut open = Vec::new();
    for _ in 0..32 {
        // Their bodies never end.
        open.push(peer.begin("/nobody/Serves", &[], None).await);
    }
    for (answer, _body) in open {
        let answer = timeout(WAIT_LIMIT, answer).await.unwrap().unwrap();
        assert_eq!(refusal(&answer).unwrap().code(), Code::Unimplemented);
    }
    assert_eq!(
        answered(&peer, CHECK, default_headers(&peer), watch_health())
            .await
            .code(),
        Code::Ok
    );
}
