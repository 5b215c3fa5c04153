//! A server on real ports.

use std::{net::SocketAddr, path::Path, sync::Mutex};

use proto::order::v1::order_service_client::OrderServiceClient;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpStream, task::JoinHandle};
use tokio_stream::StreamExt;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::fixture::{Orders, get, server};
use crate::{Lifecycle, auth::issuer::Issuer, drain, health, server::Settings};

/// The bound addresses in `address_file`.
pub(super) fn addresses(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

pub(super) struct TestServer {
    orders: Orders,
    pub(super) issuer: Issuer,
    pub(super) lifecycle: Lifecycle,
    pub(super) address: SocketAddr,
    pub(super) probe_address: SocketAddr,
    pub(super) grpc: Channel,
    pub(super) probe: Channel,
    pub(super) serving: JoinHandle<anyhow::Result<()>>,
}

impl TestServer {
    pub(super) async fn start() -> TestServer {
        TestServer::with(Settings::default()).await
    }

    /// A server with these settings, on ports of its own.
    pub(super) async fn with(settings: Settings) -> TestServer {
        let folder = TempDir::new().unwrap();
        let addresses = folder.path().join("addresses.json");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (orders, issuer) = (Orders::default(), Issuer::new());
        let settings = Settings {
            listen: any,
            ..settings
        };
        let drain = drain::Settings {
            announce_ms: 20,
            grace_ms: 120_000,
        };
        let server = server(&settings, &issuer)
            .await
            .address_file(addresses.clone())
            .probe(health::Settings { listen: any })
            .drain(drain)
            .service(orders.clone());
        let lifecycle = server.lifecycle().clone();
        let serving = tokio::spawn(server.serve());
        lifecycle.health.ready().await;
        let addresses = self::addresses(&addresses);
        let channel = |port: &str| {
            let uri = format!("http://{}", addresses[port].as_str().unwrap());
            Channel::from_shared(uri).unwrap().connect_lazy()
        };
        let (grpc, probe) = (channel("grpc"), channel("probe"));
        TestServer {
            orders,
            issuer,
            lifecycle,
            address: addresses["grpc"].as_str().unwrap().parse().unwrap(),
            probe_address: addresses["probe"].as_str().unwrap().parse().unwrap(),
            grpc,
            probe,
            serving,
        }
    }

    pub(super) async fn health(&self, service: &str) -> Result<ServingStatus, Code> {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = HealthClient::new(self.probe.clone()).check(request).await;
        answer
            .map(|answer| answer.into_inner().status())
            .map_err(|status| status.code())
    }

    pub(super) fn request<M>(&self, message: M, act: &str) -> Request<M> {
        let mut request = Request::new(message);
        let bearer = format!("Bearer {}", self.issuer.token(|_| {}));
        request
            .metadata_mut()
            .insert("authorization", bearer.parse().unwrap());
        request.metadata_mut().insert("x-do", act.parse().unwrap());
        request
    }
}

#[tokio::test]
async fn it_reports_not_serving_before_it_refuses_and_finishes_accepted_calls() {
    let server = TestServer::start().await;
    for service in ["", "startup", "liveness", "readiness", "order.v1.OrderService"] {
        assert_eq!(
            server.health(service).await,
            Ok(ServingStatus::Serving),
            "{service}"
        );
    }
    assert_eq!(server.health("claims.v1.ClaimService").await, Err(Code::NotFound));

    let mut client = OrderServiceClient::new(server.grpc.clone());
    let request = server.request(get(), "wait");
    let call = tokio::spawn(async move { client.get_order(request).await });
    server.orders.wait_until_called().await;
    let watch = HealthCheckRequest {
        service: "readiness".to_owned(),
    };
    let mut watch = HealthClient::new(server.grpc.clone())
        .watch(watch)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        watch.next().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );

    server.lifecycle.shutdown.cancel();
    assert_eq!(
        watch.next().await.unwrap().unwrap().status(),
        ServingStatus::NotServing
    );
    assert!(watch.next().await.is_none(), "a watch does not hold the drain");
    assert_eq!(server.health("readiness").await, Ok(ServingStatus::NotServing));
    assert_eq!(server.health("liveness").await, Ok(ServingStatus::Serving));

    assert!(
        !server.lifecycle.drained.is_cancelled(),
        "what open calls wait for goes on"
    );
    server.orders.resume.notify_one();
    assert!(call.await.unwrap().is_ok());
    server.serving.await.unwrap().unwrap();
    assert!(server.lifecycle.drained.is_cancelled());
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_a_waiting_one_gets_its_permit() {
    let settings = Settings {
        max_connections: 1,
        handshake_timeout_ms: 200,
        ..Settings::default()
    };
    let server = TestServer::with(settings).await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let seen = Mutex::new(Vec::new());
    let closed = async {
        assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
        seen.lock().unwrap().push("closed");
    };
    let answered = async {
        let mut client = OrderServiceClient::new(server.grpc.clone());
        client.get_order(server.request(get(), "")).await.unwrap();
        seen.lock().unwrap().push("answered");
    };
    tokio::join!(closed, answered);
    assert_eq!(*seen.lock().unwrap(), ["closed", "answered"]);
}

#[tokio::test]
async fn reflection_shows_what_is_served_and_nothing_else() {
    let server = TestServer::start().await;
    let ask = |message: MessageRequest| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let questions = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "order.v1.OrderService".to_owned(),
        )),
        ask(MessageRequest::FileContainingSymbol(
            "payment.v1.PaymentService".to_owned(),
        )),
    ]);
    let mut client = ServerReflectionClient::new(server.grpc.clone());
    let answers = client
        .server_reflection_info(questions)
        .await
        .unwrap()
        .into_inner();
    let answers: Vec<_> = answers
        .map(|answer| answer.map(|answer| answer.message_response))
        .collect()
        .await;
    let Ok(Some(MessageResponse::ListServicesResponse(list))) = &answers[0] else {
        panic!("{answers:?}")
    };
    let mut names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "order.v1.OrderService",
    ];
    assert_eq!(names, expected);
    assert!(matches!(
        answers[1],
        Ok(Some(MessageResponse::FileDescriptorResponse(_)))
    ));
    assert!(!matches!(
        answers.get(2),
        Some(Ok(Some(MessageResponse::FileDescriptorResponse(_))))
    ));
}
