//! The layers in front of a handler that does what the request's `x-do` header says.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context as Task, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use proto::order::v1::{CaptureMode, GetOrderRequest, PlaceOrderLine, PlaceOrderRequest, WatchOrderRequest};
use tokio::sync::Notify;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::*;
use crate::{Identity, Sections, auth::issuer::Issuer, drain, health, idempotency, postgres};

/// Stands for the order service's handlers; only what the layers do is tested here.
#[derive(Clone, Default)]
struct Orders {
    calls: Arc<AtomicUsize>,
    go_on: Arc<Notify>,
    done: Arc<Notify>,
}

impl NamedService for Orders {
    const NAME: &'static str = "order.v1.OrderService";
}

impl Service<Request<Body>> for Orders {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let orders = self.clone();
        Box::pin(async move { Ok(orders.act(request).await) })
    }
}

impl Orders {
    async fn act(self, request: Request<Body>) -> Response {
        self.calls.fetch_add(1, Ordering::AcqRel);
        match request
            .headers()
            .get("x-do")
            .map_or("", |value| value.to_str().unwrap())
        {
            "panic" => panic!("the handler is broken"),
            "hang" => std::future::pending().await,
            "wait" => {
                self.go_on.notified().await;
                self.done.notify_one();
                answer([message()])
            }
            "who" => {
                let identity = request.extensions().get::<Identity>().unwrap();
                assert_eq!(identity.facility.as_str(), "F1");
                let context = mesh::Context::current().unwrap();
                assert!(context.bearer().is_some());
                assert!(context.remaining().unwrap() <= Duration::from_secs(5));
                answer([message()])
            }
            "trickle" => {
                let ticks = stream::unfold((), |()| async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    Some((Ok::<_, Status>(Frame::data(message())), ()))
                });
                let mut response = http::Response::new(Body::new(StreamBody::new(ticks)));
                response
                    .headers_mut()
                    .insert("content-type", HeaderValue::from_static("application/grpc"));
                response
            }
            _ => answer([message()]),
        }
    }
}

fn message() -> Bytes {
    Bytes::from_static(&[0; 5])
}

fn answer<const N: usize>(messages: [Bytes; N]) -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = messages
        .into_iter()
        .map(Frame::data)
        .chain([Frame::trailers(trailers)])
        .map(Ok::<_, Status>);
    http::Response::new(Body::new(StreamBody::new(stream::iter(
        frames.collect::<Vec<_>>(),
    ))))
}

struct Fixture {
    orders: Orders,
    issuer: Issuer,
    process: Process,
    stack: Arc<Stack>,
}

impl Fixture {
    async fn new() -> Fixture {
        Fixture::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Fixture {
        let issuer = Issuer::new();
        let process = process();
        let orders = Orders::default();
        let mut server = Server::new(&process, &settings, &issuer.settings()).service(orders.clone());
        let stack = server.stack().await.unwrap();
        Fixture {
            orders,
            issuer,
            process,
            stack,
        }
    }

    fn clerk(&self) -> String {
        self.issuer.token(|_| {})
    }

    /// Sends `message` and gives the status back, with the number of messages before it.
    async fn call(&self, method: &str, message: &impl Message, headers: &[(&str, &str)]) -> (Status, usize) {
        let mut all = vec![("authorization", format!("Bearer {}", self.clerk()))];
        all.extend(headers.iter().map(|(name, value)| (*name, value.to_string())));
        ended(self.stack.clone().answer(request(method, message, &all)).await).await
    }

    fn calls(&self) -> usize {
        self.orders.calls.load(Ordering::Acquire)
    }
}

fn process() -> Process {
    let sections = Sections {
        address_file: None,
        grpc: &Settings::default(),
        probe: &health::Settings::default(),
        database: &postgres::Settings::default(),
        auth: &auth::Settings::default(),
        idempotency: &idempotency::Settings::default(),
        telemetry: &crate::telemetry::Settings::default(),
        drain: &drain::Settings::default(),
    };
    Process::new("order", &sections).unwrap()
}

fn request(method: &str, message: &impl Message, headers: &[(&str, String)]) -> Request<Body> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    let path = format!("/order.v1.OrderService/{method}");
    let mut request = Request::post(path).header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request
        .body(Body::new(http_body_util::Full::new(frame.freeze())))
        .unwrap()
}

async fn ended(response: Response) -> (Status, usize) {
    if let Some(status) = Status::from_header_map(response.headers()) {
        return (status, 0);
    }
    let collected = response.into_body();
    let (mut messages, mut body) = (0, std::pin::pin!(collected));
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_trailers() {
            Ok(trailers) => return (Status::from_header_map(&trailers).unwrap(), messages),
            Err(_) => messages += 1,
        }
    }
    panic!("the answer ended without a status");
}

fn get() -> GetOrderRequest {
    GetOrderRequest {
        id: "6f1c9a4e-2d1b-4c55-9a65-0b1f6d1f8a11".to_owned(),
        ..GetOrderRequest::default()
    }
}

fn place() -> PlaceOrderRequest {
    let line = PlaceOrderLine {
        code: "A1".to_owned(),
        quantity: Some(proto::google::r#type::Decimal {
            value: "1".to_owned(),
        }),
        amount: Some(proto::google::r#type::Money {
            currency_code: "AED".to_owned(),
            units: 12,
            nanos: 0,
        }),
        ..PlaceOrderLine::default()
    };
    PlaceOrderRequest {
        request_id: "6f1c9a4e-2d1b-4c55-9a65-0b1f6d1f8a11".to_owned(),
        lines: vec![line],
        capture_mode: CaptureMode::Immediate.into(),
        ..PlaceOrderRequest::default()
    }
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

#[tokio::test]
async fn the_handler_sees_who_calls_and_the_context_to_call_on_with() {
    let fixture = Fixture::new().await;
    let (status, messages) = fixture.call("GetOrder", &get(), &[("x-do", "who")]).await;
    assert_eq!((status.code(), messages), (Code::Ok, 1), "{status}");
}

#[tokio::test]
async fn a_call_without_a_believable_token_or_role_reaches_no_handler() {
    let fixture = Fixture::new().await;
    let bare = ended(
        fixture
            .stack
            .clone()
            .answer(request("GetOrder", &get(), &[]))
            .await,
    )
    .await
    .0;
    assert_eq!(
        (bare.code(), reason(&bare).as_str()),
        (Code::Unauthenticated, "NO_TOKEN")
    );
    let expired = fixture.issuer.token(|claims| claims["exp"] = 1.into());
    let headers = [("authorization", format!("Bearer {expired}"))];
    let refused = ended(
        fixture
            .stack
            .clone()
            .answer(request("GetOrder", &get(), &headers))
            .await,
    )
    .await
    .0;
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unauthenticated, "INVALID_TOKEN")
    );
    let viewer = fixture
        .issuer
        .token(|claims| claims["roles"] = serde_json::json!(["viewer"]));
    let headers = [("authorization", format!("Bearer {viewer}"))];
    let denied = ended(
        fixture
            .stack
            .clone()
            .answer(request("PlaceOrder", &place(), &headers))
            .await,
    )
    .await
    .0;
    assert_eq!(
        (denied.code(), reason(&denied).as_str()),
        (Code::PermissionDenied, "ROLE_MISSING")
    );
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test]
async fn a_bad_request_names_every_field_in_words_and_reaches_no_handler() {
    let fixture = Fixture::new().await;
    let mut bad = place();
    bad.request_id = "7".to_owned();
    bad.lines[0].code = String::new();
    bad.lines[0].amount = None;
    let (status, _) = fixture.call("PlaceOrder", &bad, &[]).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "INVALID_REQUEST")
    );
    let details = status.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations
        .iter()
        .map(|violation| violation.field.as_str())
        .collect();
    assert_eq!(fields, ["request_id", "lines[0].code", "lines[0].amount"]);
    for violation in violations {
        assert!(
            violation.description.starts_with("must be") || violation.description.contains(' '),
            "{violation:?}"
        );
        assert!(!violation.description.starts_with('['), "{violation:?}");
    }
    assert_eq!(fixture.calls(), 0);
    assert_eq!(fixture.call("PlaceOrder", &place(), &[]).await.0.code(), Code::Ok);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_mistake() {
    let fixture = Fixture::new().await;
    let (status, _) = fixture.call("GetOrder", &Raw(&[0xff, 0xff, 0xff]), &[]).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let (status, _) = fixture
        .call("GetOrder", &Raw(&vec![0; 5 * 1024 * 1024]), &[])
        .await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
    );
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn out_of_time_is_deadline_exceeded_and_the_handler_goes_on() {
    let fixture = Fixture::new().await;
    let began = tokio::time::Instant::now();
    let (status, _) = fixture
        .call("GetOrder", &get(), &[("x-do", "wait"), ("grpc-timeout", "300m")])
        .await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "OUT_OF_TIME")
    );
    assert_eq!(began.elapsed().as_millis() / 10, 30);
    fixture.orders.go_on.notify_one();
    fixture.orders.done.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_deadline_or_with_a_long_one_gets_the_policys() {
    let fixture = Fixture::new().await;
    for headers in [
        &[("x-do", "hang")][..],
        &[("x-do", "hang"), ("grpc-timeout", "1H")],
    ] {
        let began = tokio::time::Instant::now();
        let (status, _) = fixture.call("GetOrder", &get(), headers).await;
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(began.elapsed().as_secs(), 5);
    }
}

#[tokio::test]
async fn a_call_that_arrives_out_of_time_is_not_begun() {
    let fixture = Fixture::new().await;
    let (status, _) = fixture.call("GetOrder", &get(), &[("grpc-timeout", "0n")]).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(fixture.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_at_its_deadline_with_its_messages_delivered() {
    let fixture = Fixture::new().await;
    let watch = WatchOrderRequest { id: get().id };
    let headers = [("x-do", "trickle"), ("grpc-timeout", "3500m")];
    let (status, messages) = fixture.call("WatchOrder", &watch, &headers).await;
    assert_eq!((status.code(), messages), (Code::DeadlineExceeded, 3));
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_is_sent_elsewhere_when_the_process_stops() {
    let fixture = Fixture::new().await;
    let watch = WatchOrderRequest { id: get().id };
    fixture.process.shutdown.cancel();
    let (status, messages) = fixture.call("WatchOrder", &watch, &[("x-do", "trickle")]).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, "DRAINING")
    );
    assert!(messages <= 2);
}

#[tokio::test]
async fn a_handler_survives_its_caller() {
    let fixture = Fixture::new().await;
    let headers = [
        ("authorization", format!("Bearer {}", fixture.clerk())),
        ("x-do", "wait".to_owned()),
    ];
    let mut call = fixture
        .stack
        .clone()
        .answer(request("GetOrder", &get(), &headers));
    while fixture.calls() == 0 {
        assert!(futures_util::poll!(&mut call).is_pending());
        tokio::task::yield_now().await;
    }
    drop(call);
    fixture.orders.go_on.notify_one();
    fixture.orders.done.notified().await;
}

#[tokio::test]
async fn a_handler_that_panics_is_an_internal_error() {
    let fixture = Fixture::new().await;
    let (status, _) = fixture.call("GetOrder", &get(), &[("x-do", "panic")]).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Internal, "INTERNAL")
    );
    assert!(!status.message().contains("broken"));
}

#[tokio::test]
async fn a_full_server_refuses_at_once_and_says_when_to_come_back() {
    let fixture = Fixture::with(Settings {
        max_in_flight: 1,
        ..Settings::default()
    })
    .await;
    let headers = [
        ("authorization", format!("Bearer {}", fixture.clerk())),
        ("x-do", "wait".to_owned()),
    ];
    let first = tokio::spawn(
        fixture
            .stack
            .clone()
            .answer(request("GetOrder", &get(), &headers)),
    );
    while fixture.calls() == 0 {
        tokio::task::yield_now().await;
    }
    let (status, _) = fixture.call("GetOrder", &get(), &[]).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "100");
    fixture.orders.go_on.notify_one();
    assert_eq!(ended(first.await.unwrap()).await.0.code(), Code::Ok);
    assert_eq!(fixture.call("GetOrder", &get(), &[]).await.0.code(), Code::Ok);
}

#[tokio::test]
async fn what_nobody_serves_is_unimplemented() {
    let fixture = Fixture::new().await;
    let mut unknown = request("GetOrder", &get(), &[]);
    *unknown.uri_mut() = "/claims.v1.ClaimService/GetClaim".parse().unwrap();
    let status = ended(fixture.stack.clone().answer(unknown).await).await.0;
    assert_eq!(status.code(), Code::Unimplemented);
}

/// A message of any bytes.
#[derive(Debug)]
struct Raw<'a>(&'a [u8]);

impl Message for Raw<'_> {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}
