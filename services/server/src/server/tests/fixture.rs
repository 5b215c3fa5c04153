//! The layers in front of a handler that acts on the request's `x-do` header.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as Task, Poll},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use proto::order::v1::{CaptureMode, GetOrderRequest, PlaceOrderLine, PlaceOrderRequest};
use tokio::sync::Notify;
use tonic::{Status, body::Body, server::NamedService};
use tonic_types::StatusExt;
use tower::Service;

use crate::{
    Caller, Lifecycle, Server,
    auth::{TenantClaim, Verifier, issuer::Issuer},
    contract::tests::contract,
    server::{Response, Settings, Stack},
};

/// Imitates the order service's handlers; these tests are about the layers.
#[derive(Clone, Default)]
pub(super) struct Orders {
    calls: Arc<AtomicUsize>,
    /// Held by the handlers that wait.
    waiting: Arc<()>,
    pub(super) resume: Arc<Notify>,
    pub(super) done: Arc<Notify>,
}

impl Orders {
    /// Waits until a handler has been called.
    pub(super) async fn wait_until_called(&self) {
        while self.calls.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Whether a handler waits.
    pub(super) fn is_working(&self) -> bool {
        // Every clone of a handler holds one too, so only references beyond the clones count.
        Arc::strong_count(&self.waiting) > Arc::strong_count(&self.calls)
    }
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
                let _waiting = Arc::clone(&self.waiting);
                self.resume.notified().await;
                self.done.notify_one();
                answer([message()])
            }
            "who" => {
                let caller = Caller::from_extensions(request.extensions()).unwrap();
                assert_eq!(caller.tenant.as_ref().unwrap().as_str(), "F1");
                let context = mesh::Context::current().unwrap();
                assert!(context.bearer().is_some());
                assert!(context.remaining().unwrap() <= Duration::from_secs(5));
                answer([message()])
            }
            "large" => answer([Bytes::from(vec![0; 1024 * 1024])]),
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

pub(super) fn message() -> Bytes {
    Bytes::from_static(&[0; 5])
}

pub(super) fn answer<const N: usize>(messages: [Bytes; N]) -> Response {
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

pub(super) struct Fixture {
    pub(super) orders: Orders,
    pub(super) issuer: Issuer,
    pub(super) lifecycle: Lifecycle,
    pub(super) stack: Stack,
}

impl Fixture {
    pub(super) async fn new() -> Fixture {
        Fixture::with(Settings::default()).await
    }

    pub(super) async fn with(settings: Settings) -> Fixture {
        let issuer = Issuer::new();
        let orders = Orders::default();
        let server = server(&settings, &issuer).await.service(orders.clone());
        Fixture {
            orders,
            issuer,
            lifecycle: server.lifecycle().clone(),
            stack: server.into_service().unwrap(),
        }
    }

    pub(super) fn clerk(&self) -> String {
        self.issuer.token(|_| {})
    }

    /// Sends `message` and gives the status back, with the number of messages before it.
    pub(super) async fn call(
        &self,
        method: &str,
        message: &impl Message,
        headers: &[(&str, &str)],
    ) -> (Status, usize) {
        let mut all = vec![("authorization", format!("Bearer {}", self.clerk()))];
        all.extend(headers.iter().map(|(name, value)| (*name, value.to_string())));
        ended(self.stack.clone().handle(request(method, message, &all)).await).await
    }

    pub(super) fn calls(&self) -> usize {
        self.orders.calls.load(Ordering::Acquire)
    }
}

/// A server with the contract of this workspace, for the tokens of this issuer.
pub(super) async fn server(settings: &Settings, issuer: &Issuer) -> Server {
    let lifecycle = Lifecycle::new();
    let verifier = Verifier::new(&issuer.settings(), "order")
        .unwrap()
        .with_tenants(TenantClaim::Required("facility"));
    let policies = mesh::Policies::from_descriptors(proto::SCHEMA).unwrap();
    Server::new("order")
        .settings(settings.clone())
        .with_lifecycle(lifecycle.clone())
        .with_contract(contract().clone(), policies)
        .require_policies()
        .authenticate(verifier.start(&lifecycle).await.unwrap())
}

pub(super) fn request(method: &str, message: &impl Message, headers: &[(&str, String)]) -> Request<Body> {
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

pub(super) async fn ended(response: Response) -> (Status, usize) {
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

pub(super) fn get() -> GetOrderRequest {
    GetOrderRequest {
        id: "6f1c9a4e-2d1b-4c55-9a65-0b1f6d1f8a11".to_owned(),
        ..GetOrderRequest::default()
    }
}

pub(super) fn place() -> PlaceOrderRequest {
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

pub(super) fn reason(status: &Status) -> String {
    status.get_error_details().error_info().unwrap().reason.clone()
}

/// A message of any bytes.
#[derive(Debug)]
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

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
