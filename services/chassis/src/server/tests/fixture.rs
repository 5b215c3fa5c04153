//! A service's server in front of a handler that acts on the request's `x-do` header.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context as Task, Poll},
};

use futures_util::future::BoxFuture;
use http::Request;
use prost::Message;
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;
use weft_server::{
    Authenticator, Caller, Credentials, Tenant,
    server::{Response, Stack},
};

use crate::{
    Identity, Process, Sections, Server, audit, auth, drain, health, idempotency, postgres, server::Settings,
};

/// Imitates the order service's handlers.
#[derive(Clone, Default)]
pub(super) struct Orders(Arc<AtomicUsize>);

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
        let calls = self.0.fetch_add(1, Ordering::AcqRel) + 1;
        let act = request
            .headers()
            .get("x-do")
            .map_or("", |act| act.to_str().unwrap());
        let status = match act {
            "stale" if calls == 1 => stale(),
            "always stale" => stale(),
            "who" => {
                let identity = Identity::from_extensions(request.extensions()).unwrap();
                Status::ok(format!("{} of {}", identity.subject, identity.facility))
            }
            _ => Status::ok(""),
        };
        Box::pin(async { Ok(status.into_http()) })
    }
}

/// The response of a handler that used a prepared statement from before a schema change.
fn stale() -> Status {
    crate::status::unavailable(crate::status::PLAN_CHANGED, "the schema has changed")
}

/// Takes every caller for a clerk of F1.
struct Clerks;

impl Authenticator for Clerks {
    fn authenticate<'a>(&'a self, _: Credentials<'a>) -> BoxFuture<'a, Result<Arc<Caller>, Status>> {
        let mut caller = Caller {
            subject: "amal".to_owned(),
            tenant: Some(Tenant::new("F1").unwrap()),
            roles: vec!["clerk".to_owned()],
            ..Caller::default()
        };
        auth::complete(&mut caller).unwrap();
        Box::pin(async { Ok(Arc::new(caller)) })
    }
}

pub(super) struct Fixture {
    orders: Orders,
    stack: Stack,
}

impl Fixture {
    pub(super) fn new() -> Fixture {
        let orders = Orders::default();
        let server = Server::new(&process(), &Settings::default(), &auth::Settings::default());
        let server = server.service(orders.clone()).with_callers(Clerks);
        Fixture {
            orders,
            stack: server.into_service().unwrap(),
        }
    }

    pub(super) fn calls(&self) -> usize {
        self.orders.0.load(Ordering::Acquire)
    }

    /// The status of a call.
    pub(super) async fn call(&self, method: &str, message: &impl Message, act: &str) -> Status {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        message.encode(&mut frame).unwrap();
        let request = Request::post(format!("/order.v1.OrderService/{method}"))
            .header("content-type", "application/grpc")
            .header("x-do", act)
            .body(Body::new(http_body_util::Full::from(frame)))
            .unwrap();
        let response = self.stack.handle(request).await;
        Status::from_header_map(response.headers()).unwrap()
    }
}

pub(crate) fn process() -> Process {
    let sections = Sections {
        address_file: None,
        grpc: &Settings::default(),
        probe: &health::Settings::default(),
        database: &postgres::Settings::default(),
        auth: &auth::Settings::default(),
        idempotency: &idempotency::Settings::default(),
        audit: &audit::Settings::default(),
        telemetry: &crate::telemetry::Settings::default(),
        drain: &drain::Settings::default(),
    };
    sections.process("order").unwrap()
}
