//! Peers that hold resources: permits, streams, connections. With a raw HTTP/2 client, against a running server.

use std::{future::Future, net::SocketAddr, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{Request, Response};
use prost::Message;
use proto::order::v1::{WatchOrderRequest, order_service_client::OrderServiceClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;

use super::{
    fixture::{get, reason},
    test_server::TestServer,
};
use crate::server::Settings;

pub(super) const WATCH: &str = "/grpc.health.v1.Health/Watch";
const WATCH_ORDER: &str = "/order.v1.OrderService/WatchOrder";
/// Limit for every wait; no test depends on how long it takes.
pub(super) const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// A connection of a raw HTTP/2 client.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) token: String,
}

impl Peer {
    /// With this window for each stream.
    pub(super) async fn connect(server: &TestServer, window: u32) -> Peer {
        Peer::open(server.address, server.issuer.token(|_| {}), window).await
    }

    /// The same, to any server.
    pub(super) async fn open(address: SocketAddr, token: String, window: u32) -> Peer {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut client = h2::client::Builder::new();
        let (requests, connection) = client
            .initial_window_size(window)
            .handshake::<_, Bytes>(tcp)
            .await
            .unwrap();
        drop(tokio::spawn(connection));
        Peer { requests, token }
    }

    /// Starts a call; without a message, its request stays open.
    pub(super) async fn begin(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        message: Option<Bytes>,
    ) -> (
        impl Future<Output = Result<Response<RecvStream>, h2::Error>> + use<>,
        SendStream<Bytes>,
    ) {
        let mut requests = self.requests.clone().ready().await.unwrap();
        let mut request = Request::post(format!("http://abuse{path}"))
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (answer, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        if let Some(message) = message {
            body.send_data(message, true).unwrap();
        }
        (answer, body)
    }

    pub(super) async fn call(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        message: Bytes,
    ) -> Response<RecvStream> {
        let (answer, _body) = self.begin(path, headers, Some(message)).await;
        timeout(WAIT_LIMIT, answer).await.unwrap().unwrap()
    }
}

pub(super) fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

fn watch_order() -> Bytes {
    frame(&WatchOrderRequest { id: get().id })
}

pub(super) fn watch_health() -> Bytes {
    frame(&HealthCheckRequest::default())
}

pub(super) fn refusal(answer: &Response<RecvStream>) -> Option<Status> {
    Status::from_header_map(answer.headers())
}

/// An ordinary call on a connection of its own.
pub(super) async fn ordinary(server: &TestServer) -> Result<(), Status> {
    let mut client = OrderServiceClient::new(server.grpc.clone());
    client.get_order(server.request(get(), "")).await.map(drop)
}

#[tokio::test]
async fn half_sent_calls_take_no_place_and_are_refused_in_time() {
    let server = TestServer::with(Settings {
        max_in_flight: 2,
        receive_timeout_ms: 1_500,
        ..Settings::default()
    })
    .await;
    let peer = Peer::connect(&server, 65_535).await;
    let mut halves = Vec::new();
    for path in ["/order.v1.OrderService/PlaceOrder", WATCH_ORDER, WATCH] {
        for _ in 0..10 {
            halves.push(peer.begin(path, &[], None).await);
        }
    }
    // All of them have been read once a later call on this connection is answered.
    let answer = peer
        .call("/order.v1.OrderService/GetOrder", &[], frame(&get()))
        .await;
    assert!(refusal(&answer).is_none());
    for _ in 0..5 {
        ordinary(&server).await.unwrap();
    }
    for (answer, _body) in halves {
        let answer = timeout(WAIT_LIMIT, answer).await.unwrap().unwrap();
        let refused = refusal(&answer).unwrap();
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::DeadlineExceeded, "REQUEST_TOO_SLOW")
        );
    }
    ordinary(&server).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_sends_slowly_does_not_get_more_time() {
    let server = TestServer::with(Settings {
        receive_timeout_ms: 300,
        ..Settings::default()
    })
    .await;
    let peer = Peer::connect(&server, 65_535).await;
    let (answer, mut body) = peer.begin("/order.v1.OrderService/GetOrder", &[], None).await;
    // The prefix of a message of a thousand bytes.
    body.send_data(Bytes::from_static(&[0, 0, 0, 3, 232]), false)
        .unwrap();
    let mut answer = Box::pin(answer);
    let refused = timeout(WAIT_LIMIT, async {
        loop {
            let _ = body.send_data(Bytes::from_static(&[0]), false);
            if let Ok(answer) = timeout(Duration::from_millis(20), &mut answer).await {
                return refusal(&answer.unwrap()).unwrap();
            }
        }
    });
    assert_eq!(reason(&refused.await.unwrap()), "REQUEST_TOO_SLOW");
}

#[tokio::test]
async fn a_reader_that_does_not_read_loses_its_stream_at_the_deadline_and_its_place_with_it() {
    let server = TestServer::with(Settings {
        max_streams: 1,
        ..Settings::default()
    })
    .await;
    let peer = Peer::connect(&server, 0).await;
    // Its first message comes after a second.
    let headers = [("x-do", "trickle"), ("grpc-timeout", "1500m")];
    let held = peer.call(WATCH_ORDER, &headers, watch_order()).await;
    assert!(refusal(&held).is_none());
    let full = peer.call(WATCH_ORDER, &headers, watch_order()).await;
    assert_eq!(reason(&refusal(&full).unwrap()), "TOO_MANY_STREAMS");
    let mut body = held.into_body();
    let end = timeout(WAIT_LIMIT, body.data()).await.unwrap();
    assert_eq!(end.unwrap().unwrap_err().reason(), Some(h2::Reason::CANCEL));
    let next = peer.call(WATCH_ORDER, &headers, watch_order()).await;
    assert!(refusal(&next).is_none());
}

#[tokio::test]
async fn a_large_answer_to_a_reader_that_does_not_read_ends_at_the_deadline() {
    let server = TestServer::with(Settings::default()).await;
    let peer = Peer::connect(&server, 1).await;
    let headers = [("x-do", "large"), ("grpc-timeout", "1S")];
    let answer = peer
        .call("/order.v1.OrderService/GetOrder", &headers, frame(&get()))
        .await;
    let mut body = answer.into_body();
    let mut received = 0;
    let end = timeout(WAIT_LIMIT, async {
        loop {
            match body.data().await {
                Some(Ok(data)) => received += data.len(),
                end => return end,
            }
        }
    });
    let end = end.await.unwrap();
    assert!(end.is_some_and(|end| end.is_err()), "the stream was reset");
    assert_eq!(received, 1);
}

#[tokio::test]
async fn readers_that_do_not_read_do_not_hold_the_drain() {
    let server = TestServer::with(Settings {
        stream_grace_ms: 100,
        ..Settings::default()
    })
    .await;
    let peer = Peer::connect(&server, 0).await;
    let order = peer
        .call(WATCH_ORDER, &[("x-do", "trickle")], watch_order())
        .await;
    let health = peer.call(WATCH, &[], watch_health()).await;
    let (_half, _body) = peer.begin("/order.v1.OrderService/GetOrder", &[], None).await;
    let mut mute = TcpStream::connect(server.address).await.unwrap();
    mute.write_all(b"PRI").await.unwrap();
    server.lifecycle.shutdown.cancel();
    // Its grace is two minutes.
    timeout(WAIT_LIMIT, server.serving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    drop((order, health));
}

#[tokio::test]
async fn open_streams_are_limited_for_each_tenant_and_a_watch_that_ends_releases_its_permit() {
    let server = TestServer::with(Settings {
        max_streams_per_facility: 2,
        ..Settings::default()
    })
    .await;
    let peer = Peer::connect(&server, 65_535).await;
    let other = Peer {
        token: server.issuer.token(|claims| claims["facility"] = "F2".into()),
        ..peer.clone()
    };
    let watch = async |peer: &Peer| {
        let answer = peer
            .call(WATCH_ORDER, &[("x-do", "trickle")], watch_order())
            .await;
        match refusal(&answer) {
            Some(refused) => Err(reason(&refused)),
            None => Ok(answer),
        }
    };
    let first = watch(&peer).await.unwrap();
    let _second = watch(&peer).await.unwrap();
    assert_eq!(watch(&peer).await.unwrap_err(), "TOO_MANY_STREAMS");
    let _other = watch(&other).await.unwrap();
    // Ordinary calls are no streams.
    ordinary(&server).await.unwrap();
    drop(first);
    timeout(WAIT_LIMIT, async { while watch(&peer).await.is_err() {} })
        .await
        .unwrap();
}

#[tokio::test]
async fn anonymous_streams_are_limited_per_connection_and_other_health_checks_are_answered() {
    let server = TestServer::with(Settings::default()).await;
    let peer = Peer::connect(&server, 65_535).await;
    let mut held = Vec::new();
    let refused = loop {
        let answer = peer.call(WATCH, &[], watch_health()).await;
        match refusal(&answer) {
            Some(refused) => break refused,
            None => held.push(answer),
        }
    };
    assert_eq!(reason(&refused), "TOO_MANY_STREAMS");
    assert_eq!(held.len(), 16);
    let other = Peer::connect(&server, 65_535).await;
    let answer = other
        .call("/grpc.health.v1.Health/Check", &[], watch_health())
        .await;
    assert!(refusal(&answer).is_none());
}

#[tokio::test]
async fn strangers_who_fill_the_port_give_way_to_callers() {
    let server = TestServer::with(Settings {
        max_connections: 4,
        ..Settings::default()
    })
    .await;
    let mut anonymous = Vec::new();
    for _ in 0..8 {
        let peer = Peer::connect(&server, 65_535).await;
        anonymous.push((peer.call(WATCH, &[], watch_health()).await, peer));
    }
    ordinary(&server).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    // The caller's connection is still the same one.
    ordinary(&server).await.unwrap();
}

#[tokio::test]
async fn a_stream_does_not_hold_a_connection_beyond_its_age_and_grace() {
    let server = TestServer::with(Settings {
        max_connection_age_s: 1,
        max_connection_age_grace_s: 1,
        ..Settings::default()
    })
    .await;
    let peer = Peer::connect(&server, 65_535).await;
    let mut watch = peer.call(WATCH, &[], watch_health()).await.into_body();
    let end = timeout(WAIT_LIMIT, async {
        while let Some(Ok(_)) = watch.data().await {}
    });
    end.await.unwrap();
    let fresh = Peer::connect(&server, 65_535).await;
    assert!(refusal(&fresh.call(WATCH, &[], watch_health()).await).is_none());
}

#[tokio::test]
async fn an_http1_client_gets_an_explanation() {
    let server = TestServer::with(Settings::default()).await;
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(b"GET /healthz HTTP/1.1\r\nhost: order\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(WAIT_LIMIT, tcp.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 "), "{answer}");
    assert!(answer.contains("gRPC over HTTP/2"), "{answer}");
}

#[tokio::test]
async fn silent_sockets_on_the_probe_port_do_not_keep_probes_out() {
    let server = TestServer::with(Settings::default()).await;
    let mut silent = Vec::new();
    for n in 0..200 {
        let mut socket = TcpStream::connect(server.probe_address).await.unwrap();
        if n % 2 == 0 {
            socket
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                .await
                .unwrap();
        }
        silent.push(socket);
        if n % 20 == 0 {
            assert!(server.health("liveness").await.is_ok());
        }
    }
    assert!(server.health("liveness").await.is_ok());
}
