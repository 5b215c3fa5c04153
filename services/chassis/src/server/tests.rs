pub(crate) mod fixture;

use fixture::{Fixture, Orders, process};
use proto::order::v1::{CancelOrderRequest, GetOrderRequest};
use tonic::Code;
use tonic_types::StatusExt;

use super::*;

fn get() -> GetOrderRequest {
    GetOrderRequest {
        id: "6f1c9a4e-2d1b-4c55-9a65-0b1f6d1f8a11".to_owned(),
        ..GetOrderRequest::default()
    }
}

#[tokio::test]
async fn the_handler_gets_the_identity() {
    let status = Fixture::new().call("GetOrder", &get(), "who").await;
    assert_eq!((status.code(), status.message()), (Code::Ok, "amal of F1"));
}

#[tokio::test]
async fn a_call_with_a_stale_plan_is_repeated_once_only() {
    let fixture = Fixture::new();
    let cancel = CancelOrderRequest {
        request_id: get().id,
        id: get().id,
        reason: "by mistake".to_owned(),
    };
    let status = fixture.call("CancelOrder", &cancel, "stale").await;
    assert_eq!((status.code(), fixture.calls()), (Code::Ok, 2), "{status}");

    let fixture = Fixture::new();
    let status = fixture.call("GetOrder", &get(), "always stale").await;
    let reason = status.get_error_details().error_info().unwrap().reason.clone();
    assert_eq!(
        (status.code(), reason.as_str(), fixture.calls()),
        (Code::Unavailable, "DATABASE_PLAN_CHANGED", 2)
    );
}

/// Not in the contract.
#[derive(Clone)]
struct Stranger(Orders);

impl NamedService for Stranger {
    const NAME: &'static str = "stranger.v1.Stranger";
}

impl Service<Request<Body>> for Stranger {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = <Orders as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, task: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        self.0.poll_ready(task)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

#[tokio::test]
async fn a_mounted_service_must_be_in_the_contract_and_statistics_of_calls_are_always_served() {
    let server = || Server::new(&process(), &Settings::default(), &auth::Settings::default());
    assert!(format!("{:?}", server()).contains("ops.v1.MeshService"));
    // Without keys, tokens cannot be verified; the server can be built nevertheless.
    let verifier = || auth::verifier(&auth::Settings::default(), "order").unwrap();
    assert!(server().with_callers(verifier()).into_service().is_ok());
    let stranger = server().service(Stranger(Orders::default()));
    let error = stranger.with_callers(verifier()).into_service().unwrap_err();
    assert_eq!(error.to_string(), "stranger.v1.Stranger is not in the contract");
}
