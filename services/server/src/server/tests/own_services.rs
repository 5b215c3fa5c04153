//! Servers of teams with contracts, callers and layers of their own.

use std::{
    sync::{Arc, Mutex},
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Request;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use proto::order::v1::order_service_client::OrderServiceClient;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, server::NamedService, transport::Channel};
use tower::Service;
use tracing_subscriber::layer::SubscriberExt as _;

use super::{
    abuse::{Peer, WAIT_LIMIT, WATCH, watch_health},
    fixture::{Fixture, Orders, Raw, ended, get, place, reason, request, server as order_server},
    test_server::addresses,
};
use crate::{
    Authenticator, Caller, Credentials, Server, Tenant,
    auth::issuer::Issuer,
    contract::tests::plain,
    drain, health,
    server::{Call, Layer, Next, Position, Rate, RateLimits, Reflection, Response, Settings, Stack},
    status,
};

/// The order service's handlers under the name of the contract without options.
#[derive(Clone)]
struct Greeter(Orders);

impl NamedService for Greeter {
    const NAME: &'static str = "plain.v1.Greeter";
}

impl Service<Request<Body>> for Greeter {
    type Response = Response;
    type Error = std::convert::Infallible;
    type Future = <Orders as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

async fn call(stack: &Stack, message: &[u8], headers: &[(&str, &str)]) -> (Status, usize) {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.to_string()))
        .collect();
    ended(stack.handle(request("GetOrder", &Raw(message), &headers)).await).await
}

async fn greet(stack: &Stack, method: &str, message: &[u8], headers: &[(&str, &str)]) -> Status {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, value.to_string()))
        .collect();
    let mut request = request("", &Raw(message), &headers);
    *request.uri_mut() = format!("/plain.v1.Greeter/{method}").parse().unwrap();
    ended(stack.handle(request).await).await.0
}

#[tokio::test(start_paused = true)]
async fn without_a_contract_and_an_authenticator_every_call_reaches_the_handler() {
    let server = Server::new("order").service(Orders::default());
    let stack = server.into_service().unwrap();
    // Not a message of any type.
    assert_eq!(call(&stack, &[0xff; 3], &[]).await.0.code(), Code::Ok);
    // No timeout of its own, only the caller's.
    let forever = tokio::time::timeout(
        Duration::from_secs(1_000_000),
        call(&stack, &[], &[("x-do", "hang")]),
    );
    assert!(forever.await.is_err());
    let (late, _) = call(&stack, &[], &[("x-do", "hang"), ("grpc-timeout", "300m")]).await;
    assert_eq!(
        (late.code(), reason(&late).as_str()),
        (Code::DeadlineExceeded, "OUT_OF_TIME")
    );
    let (late, messages) = call(&stack, &[], &[("x-do", "trickle"), ("grpc-timeout", "3500m")]).await;
    assert_eq!((late.code(), messages), (Code::DeadlineExceeded, 3));
    let unserved = greet(&stack, "Greet", &[], &[]).await;
    assert_eq!(
        (unserved.code(), reason(&unserved).as_str()),
        (Code::Unimplemented, "UNKNOWN_SERVICE")
    );
}

#[tokio::test(start_paused = true)]
async fn a_response_without_a_contract_lasts_beyond_the_grace_for_streams() {
    let server = Server::new("order").service(Orders::default());
    server.lifecycle().shutdown.cancel();
    let stack = server.into_service().unwrap();
    let headers = [("x-do", "trickle"), ("grpc-timeout", "10500m")];
    let (late, messages) = call(&stack, &[], &headers).await;
    assert_eq!((late.code(), messages), (Code::DeadlineExceeded, 10));
}

#[tokio::test]
async fn limits_apply_without_a_contract_to_all_callers_together() {
    let one = Rate {
        per_second: 1,
        burst: 1,
    };
    let orders = Orders::default();
    let settings = Settings {
        max_in_flight: 1,
        rate_limits: RateLimits {
            read: one,
            ..RateLimits::default()
        },
        ..Settings::default()
    };
    let server = Server::new("order")
        .settings(settings.clone())
        .service(orders.clone());
    let stack = server.into_service().unwrap();
    assert_eq!(call(&stack, &[], &[]).await.0.code(), Code::Ok);
    let (limited, _) = call(&stack, &[], &[]).await;
    assert_eq!(reason(&limited), "RATE_LIMITED");
    assert_eq!(
        limited.message(),
        "the callers exceed their rate limit; nothing was started"
    );

    let settings = Settings {
        rate_limits: RateLimits::default(),
        ..settings
    };
    let server = Server::new("order").settings(settings).service(orders.clone());
    let stack = server.into_service().unwrap();
    let waiting = tokio::spawn({
        let stack = stack.clone();
        async move { call(&stack, &[], &[("x-do", "wait")]).await.0 }
    });
    while !orders.is_working() {
        tokio::task::yield_now().await;
    }
    assert_eq!(reason(&call(&stack, &[], &[]).await.0), "OVERLOADED");
    orders.resume.notify_one();
    assert_eq!(waiting.await.unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn a_contract_without_options_is_served_with_defaults() {
    let descriptors: &'static [u8] = plain().leak();
    let server = || Server::new("greeter").contract(descriptors).unwrap();
    let stack = server()
        .service(Greeter(Orders::default()))
        .into_service()
        .unwrap();
    // Field 1, 2,000 bytes with a control character: no limit of a field applies.
    let long = [&[10, 0xd0, 0x0f][..], &[7; 2_000]].concat();
    assert_eq!(greet(&stack, "Greet", &long, &[]).await.code(), Code::Ok);
    let broken = greet(&stack, "Greet", &[0xff], &[]).await;
    assert_eq!(
        (broken.code(), reason(&broken).as_str()),
        (Code::InvalidArgument, "INVALID_REQUEST")
    );
    let unknown = greet(&stack, "Nothing", &[], &[]).await;
    assert_eq!(
        (unknown.code(), reason(&unknown).as_str()),
        (Code::Unimplemented, "UNKNOWN_METHOD")
    );

    let strict = server().require_policies();
    let error = strict
        .service(Greeter(Orders::default()))
        .into_service()
        .unwrap_err();
    assert_eq!(error.to_string(), "/plain.v1.Greeter/Greet has no policy");
    let strict = server().require_policies().service(Orders::default());
    let error = strict.into_service().unwrap_err();
    assert_eq!(error.to_string(), "order.v1.OrderService is not in the contract");
    assert!(Server::new("greeter").contract(b"nothing of the kind").is_err());
}

#[test]
fn reflection_by_token_needs_authentication() {
    let settings = Settings {
        reflection: Reflection::Token,
        ..Settings::default()
    };
    let error = Server::new("order")
        .settings(settings)
        .into_service()
        .unwrap_err();
    assert!(error.to_string().contains("grpc.reflection"), "{error}");
}

/// Takes the caller from headers: `x-user`, with the role and the clinic of that name.
struct Headers;

impl Authenticator for Headers {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> BoxFuture<'a, Result<Arc<Caller>, Status>> {
        let text = |name: &str| Some(credentials.headers.get(name)?.to_str().ok()?.to_owned());
        let caller = text("x-user").map(|subject| Caller {
            subject,
            tenant: text("x-clinic").map(|clinic| Tenant::new(clinic).unwrap()),
            roles: text("x-role").into_iter().collect(),
            ..Caller::default()
        });
        Box::pin(async move {
            let caller = caller.ok_or_else(|| status::unauthenticated("NO_USER", "say who you are"))?;
            Ok(Arc::new(caller))
        })
    }

    fn tenant_name(&self) -> &'static str {
        "clinic"
    }
}

/// Writes down each call that passes, and its outcome.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

struct Entry(&'static str, Journal);

impl Layer for Entry {
    fn handle(&self, call: Call, next: Next) -> BoxFuture<'_, Response> {
        let caller = call.caller().map_or("-", |caller| &caller.subject).to_owned();
        let method = call.method().map_or("-", |method| method.name()).to_owned();
        Box::pin(async move {
            let response = next.run(call).await;
            let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
            self.1
                .0
                .lock()
                .unwrap()
                .push(format!("{} {caller} {method} {code:?}", self.0));
            response
        })
    }
}

#[tokio::test]
async fn own_callers_are_authorized_and_limited_and_pass_through_own_layers() {
    let issuer = Issuer::new();
    let journal = Journal::default();
    let settings = Settings {
        rate_limits: RateLimits {
            read: Rate {
                per_second: 1,
                burst: 1,
            },
            ..RateLimits::default()
        },
        ..Settings::default()
    };
    let server = order_server(&settings, &issuer)
        .await
        .authenticate(Headers)
        .layer(Position::BeforeHandlers, Entry("last", journal.clone()))
        .layer(Position::AfterAuthentication, Entry("first", journal.clone()))
        .layer(Position::AfterAuthentication, Entry("second", journal.clone()))
        .service(Orders::default());
    let stack = server.into_service().unwrap();
    let send = async |method: &str, message: &[u8], headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.to_string()))
            .collect();
        ended(stack.handle(request(method, &Raw(message), &headers)).await)
            .await
            .0
    };
    let message = prost::Message::encode_to_vec(&get());
    let stranger = send("GetOrder", &message, &[]).await;
    assert_eq!(
        (stranger.code(), reason(&stranger).as_str()),
        (Code::Unauthenticated, "NO_USER")
    );
    assert!(journal.0.lock().unwrap().is_empty());
    let user = [("x-user", "amal"), ("x-clinic", "north")];
    let place = prost::Message::encode_to_vec(&place());
    let denied = send("PlaceOrder", &place, &[user[0], user[1], ("x-role", "viewer")]).await;
    assert_eq!(reason(&denied), "ROLE_MISSING");
    let clerk = [user[0], user[1], ("x-role", "clerk")];
    assert_eq!(send("GetOrder", &message, &clerk).await.code(), Code::Ok);
    let limited = send("GetOrder", &message, &clerk).await;
    assert_eq!(
        limited.message(),
        "the clinic exceeds its rate limit; nothing was started"
    );
    let other = [user[0], ("x-clinic", "south"), clerk[2]];
    assert_eq!(send("GetOrder", &message, &other).await.code(), Code::Ok);
    let (get, place) = (
        "amal order.v1.OrderService/GetOrder",
        "amal order.v1.OrderService/PlaceOrder",
    );
    let mut expected = vec![
        format!("second {place} PermissionDenied"),
        format!("first {place} PermissionDenied"),
    ];
    let passed = [
        format!("last {get} Ok"),
        format!("second {get} Ok"),
        format!("first {get} Ok"),
    ];
    expected.extend(passed.clone());
    expected.extend([
        format!("second {get} ResourceExhausted"),
        format!("first {get} ResourceExhausted"),
    ]);
    expected.extend(passed);
    assert_eq!(*journal.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn the_span_of_a_call_names_its_subject_and_its_tenant() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let fixture = Fixture::new().await;
    // Registers the span, which another test could do in a thread that records nothing.
    assert_eq!(fixture.call("GetOrder", &get(), &[]).await.0.code(), Code::Ok);
    let _recording = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    tracing::callsite::rebuild_interest_cache();
    assert_eq!(fixture.call("GetOrder", &get(), &[]).await.0.code(), Code::Ok);
    let spans = exporter.get_finished_spans().unwrap();
    let span = spans
        .iter()
        .find(|span| span.name == "order.v1.OrderService/GetOrder")
        .unwrap();
    for (key, expected) in [("weft.facility", "F1"), ("weft.subject", "amal")] {
        let found = span
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == key);
        assert_eq!(
            found.map(|found| found.value.to_string()).as_deref(),
            Some(expected),
            "{key}"
        );
    }
}

#[tokio::test]
async fn a_call_without_a_contract_is_finished_by_the_drain_after_streams_have_ended() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("addresses.json");
    let orders = Orders::default();
    let any = ([127, 0, 0, 1], 0).into();
    let server = Server::new("order")
        .settings(Settings {
            listen: any,
            stream_grace_ms: 0,
            ..Settings::default()
        })
        .probe(health::Settings { listen: any })
        .drain(drain::Settings {
            announce_ms: 0,
            grace_ms: 120_000,
        })
        .address_file(file.clone())
        .service(orders.clone());
    let lifecycle = server.lifecycle().clone();
    let serving = tokio::spawn(server.serve());
    lifecycle.health.ready().await;
    let address = addresses(&file)["grpc"].as_str().unwrap().to_owned();
    let uri = format!("http://{address}");
    let mut client = OrderServiceClient::new(Channel::from_shared(uri).unwrap().connect_lazy());
    let waiting = tokio::spawn(async move {
        let mut request = tonic::Request::new(get());
        request.metadata_mut().insert("x-do", "wait".parse().unwrap());
        client.get_order(request).await
    });
    orders.wait_until_called().await;
    // A health watch that is not read is ended by the drain.
    let peer = Peer::open(address.parse().unwrap(), String::new(), 0).await;
    let mut watch = peer.call(WATCH, &[], watch_health()).await.into_body();
    lifecycle.shutdown.cancel();
    let end = timeout(WAIT_LIMIT, watch.data()).await.unwrap();
    assert!(end.unwrap().is_err());
    orders.resume.notify_one();
    waiting.await.unwrap().unwrap();
    serving.await.unwrap().unwrap();
    assert!(lifecycle.drained.is_cancelled());
}
