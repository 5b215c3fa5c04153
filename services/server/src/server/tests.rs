mod abuse;
mod fixture;
mod forbidden_headers;
mod mutual_tls;
mod own_services;
mod protocol;
mod reflection;
mod test_server;

use fixture::{Fixture, Raw, ended, get, place, reason, request};
use proto::order::v1::WatchOrderRequest;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;

#[tokio::test]
async fn the_handler_gets_the_identity_and_the_context() {
    let fixture = Fixture::new().await;
    let (status, messages) = fixture.call("GetOrder", &get(), &[("x-do", "who")]).await;
    assert_eq!((status.code(), messages), (Code::Ok, 1), "{status}");
}

#[tokio::test]
async fn a_call_without_a_valid_token_or_role_reaches_no_handler() {
    let fixture = Fixture::new().await;
    let bare = ended(
        fixture
            .stack
            .clone()
            .handle(request("GetOrder", &get(), &[]))
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
            .handle(request("GetOrder", &get(), &headers))
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
            .handle(request("PlaceOrder", &place(), &headers))
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
async fn an_invalid_request_describes_every_field_and_reaches_no_handler() {
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
async fn bytes_that_cannot_be_decoded_are_the_callers_error() {
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
async fn a_timeout_is_deadline_exceeded_and_a_handler_with_effects_continues() {
    let fixture = Fixture::new().await;
    let began = tokio::time::Instant::now();
    let (status, _) = fixture
        .call(
            "PlaceOrder",
            &place(),
            &[("x-do", "wait"), ("grpc-timeout", "300m")],
        )
        .await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::DeadlineExceeded, "OUT_OF_TIME")
    );
    assert_eq!(began.elapsed().as_millis() / 10, 30);
    fixture.orders.resume.notify_one();
    fixture.orders.done.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_deadline_or_with_a_long_one_gets_the_policys_timeout() {
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
async fn a_call_that_arrives_after_its_deadline_is_not_started() {
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
async fn an_open_stream_ends_as_draining_when_the_process_stops() {
    let fixture = Fixture::new().await;
    let watch = WatchOrderRequest { id: get().id };
    fixture.lifecycle.shutdown.cancel();
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
        .handle(request("PlaceOrder", &place(), &headers));
    while fixture.calls() == 0 {
        assert!(futures_util::poll!(&mut call).is_pending());
        tokio::task::yield_now().await;
    }
    drop(call);
    fixture.orders.resume.notify_one();
    fixture.orders.done.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_without_effects_is_stopped_at_its_deadline_and_when_its_caller_is_gone() {
    let fixture = Fixture::new().await;
    let in_time = [("x-do", "wait"), ("grpc-timeout", "300m")];
    let (status, _) = fixture.call("GetOrder", &get(), &in_time).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    while fixture.orders.is_working() {
        tokio::task::yield_now().await;
    }
    let headers = [
        ("authorization", format!("Bearer {}", fixture.clerk())),
        ("x-do", "wait".to_owned()),
    ];
    let mut call = fixture
        .stack
        .clone()
        .handle(request("GetOrder", &get(), &headers));
    while fixture.calls() < 2 {
        assert!(futures_util::poll!(&mut call).is_pending());
        tokio::task::yield_now().await;
    }
    drop(call);
    while fixture.orders.is_working() {
        tokio::task::yield_now().await;
    }
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
async fn a_full_server_rejects_calls_at_once_with_a_retry_delay() {
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
            .handle(request("GetOrder", &get(), &headers)),
    );
    while fixture.calls() == 0 {
        tokio::task::yield_now().await;
    }
    let (status, _) = fixture.call("GetOrder", &get(), &[]).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    let pushback: u64 = pushback.to_str().unwrap().parse().unwrap();
    assert!((50..=5_000).contains(&pushback), "{pushback}");
    fixture.orders.resume.notify_one();
    assert_eq!(ended(first.await.unwrap()).await.0.code(), Code::Ok);
    assert_eq!(fixture.call("GetOrder", &get(), &[]).await.0.code(), Code::Ok);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let fixture = Fixture::new().await;
    let mut unknown = request("GetOrder", &get(), &[]);
    *unknown.uri_mut() = "/claims.v1.ClaimService/GetClaim".parse().unwrap();
    let status = ended(fixture.stack.clone().handle(unknown).await).await.0;
    assert_eq!(status.code(), Code::Unimplemented);
}

#[test]
fn a_server_with_settings_out_of_bounds_does_not_start() {
    let settings = Settings {
        max_in_flight: 0,
        ..Settings::default()
    };
    let drain = crate::drain::Settings {
        grace_ms: 300_001,
        ..crate::drain::Settings::default()
    };
    let refused = Server::new("order")
        .settings(settings)
        .drain(drain)
        .into_service();
    let Err(error) = refused else {
        panic!("the settings are out of bounds")
    };
    let error = error.to_string();
    assert!(
        error.contains("grpc.max_in_flight") && error.contains("drain.grace_ms"),
        "{error}"
    );
}

#[test]
fn what_would_panic_or_fail_open_is_refused_at_the_start() {
    let refused = |server: Server| match server.into_service() {
        Ok(_) => panic!("the server starts"),
        Err(error) => error.to_string(),
    };
    let orders = || Server::new("order").service(fixture::Orders::default());
    assert!(refused(orders().service(fixture::Orders::default())).contains("mounted twice"));
    let open = orders().contract(proto::SCHEMA).unwrap();
    assert!(refused(open).contains("does not authenticate callers"));
    let health = HealthServer::new(HealthService(crate::Health::new()));
    assert!(refused(orders().service(health)).contains("served by the server itself"));
}
