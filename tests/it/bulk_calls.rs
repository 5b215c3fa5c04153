//! Calls for several requests: each request has the outcome that it would have alone, requests sent alone and in a
//! call are repetitions of each other, and concurrent sagas share their calls.

use futures_util::future::join_all;
use proto::{
    claims::v1::{
        ClaimState, PrepareClaimsRequest, SubmitClaimsRequest, prepare_claims_result::Result as Prepared,
        submit_claims_result::Result as Submitted,
    },
    google::rpc,
    order::v1::OrderState,
    payment::v1::{
        AuthorizePaymentRequest, AuthorizePaymentsRequest, AuthorizePaymentsResult, Payment, PaymentState,
        authorize_payments_result::Result as Authorized,
    },
};
use tests::{Service, Stack, eventually};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    claims_fixture::{self, example_claim, prepare, submit},
    order_fixture,
    payment_fixture::{FACILITY, Fixture, SOON, charge, clients, reason},
    samples::insured_order,
};

/// A call as an administrator, who may also make the calls that are meant for services.
async fn authorized(
    stack: &Stack,
    requests: Vec<AuthorizePaymentRequest>,
) -> Result<Vec<AuthorizePaymentsResult>, Status> {
    let token = stack.token(FACILITY, &["admin"]);
    let channel = stack.connect(Service::Payment, &token);
    let mut payments = proto::payment::v1::payment_service_client::PaymentServiceClient::new(channel);
    let answer = payments
        .authorize_payments(AuthorizePaymentsRequest { requests })
        .await?;
    Ok(answer.into_inner().results)
}

fn payment(result: &AuthorizePaymentsResult) -> Payment {
    match result.result.clone().unwrap() {
        Authorized::Response(response) => response.payment.unwrap(),
        Authorized::Error(error) => panic!("refused: {error:?}"),
    }
}

fn error(result: &AuthorizePaymentsResult) -> rpc::Status {
    match result.result.clone().unwrap() {
        Authorized::Response(response) => panic!("answered: {response:?}"),
        Authorized::Error(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_requested_in_one_call_have_the_outcomes_that_they_would_have_alone() {
    let fixture = Fixture::start().await;
    let request = |method: &str| charge(Uuid::new_v4(), 800, method);
    let mut invalid = request("tok_visa");
    invalid.order_id = "none".to_owned();
    let mut reused = request("tok_visa");
    let good = request("tok_visa");
    reused.request_id = good.request_id.clone();
    let requests = vec![good.clone(), request("tok_decline"), invalid, good.clone()];

    let results = authorized(&fixture.stack, requests.clone()).await.unwrap();
    assert_eq!(payment(&results[0]).state(), PaymentState::Captured);
    assert_eq!(payment(&results[1]).state(), PaymentState::Declined);
    let refused = error(&results[2]);
    assert_eq!(refused.code, i32::from(Code::InvalidArgument));
    let status = chassis::bulk::from_message(&refused);
    let details = tonic_types::StatusExt::get_error_details(&status);
    assert_eq!(
        details.bad_request().unwrap().field_violations[0].field,
        "order_id"
    );
    // A request that occurs twice in one call has one effect and one answer.
    assert_eq!(payment(&results[3]), payment(&results[0]));
    assert_ne!(results[3].replayed, results[0].replayed);

    // Repeating the call, or one of its requests alone, has no further effect.
    let again = authorized(&fixture.stack, requests).await.unwrap();
    assert_eq!(payment(&again[0]), payment(&results[0]));
    assert_eq!(payment(&again[1]), payment(&results[1]));
    assert_eq!(error(&again[2]), refused);
    assert!(again[0].replayed && again[1].replayed && !again[2].replayed);
    assert_eq!(fixture.send(good).await.unwrap(), payment(&results[0]));
    let other = error(&authorized(&fixture.stack, vec![reused]).await.unwrap()[0]);
    assert_eq!(
        reason(&chassis::bulk::from_message(&other)),
        "IDEMPOTENCY_KEY_REUSED"
    );
    let database = fixture.stack.database(Service::Payment);
    assert_eq!(database.count("select count(*) from payment.payment").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_no_payment_for_too_many_or_by_a_clerk_is_refused_as_a_whole() {
    let fixture = Fixture::start().await;
    for count in [0, 65] {
        let requests = (0..count).map(|_| charge(Uuid::new_v4(), 800, "tok_visa"));
        let refused = authorized(&fixture.stack, requests.collect()).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("requests"), "{refused:?}");
    }
    let (mut clerk, _) = clients(&fixture.stack, FACILITY);
    let requests = vec![charge(Uuid::new_v4(), 800, "tok_visa")];
    let refused = clerk
        .authorize_payments(AuthorizePaymentsRequest { requests })
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let database = fixture.stack.database(Service::Payment);
    assert_eq!(database.count("select count(*) from payment.payment").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_prepared_and_submitted_together_each_with_its_outcome() {
    let fixture = claims_fixture::Fixture::start().await;
    let token = fixture.stack.token("al-noor", &["admin"]);
    let channel = fixture.stack.connect(Service::Claims, &token);
    let mut claims = proto::claims::v1::claim_service_client::ClaimServiceClient::new(channel);
    let mut second = example_claim();
    second.claim_id.push('2');
    let mut wrong = example_claim();
    wrong.claim_id.push('3');
    wrong.gross = None;
    let drafts = [example_claim(), wrong, second].map(prepare);
    let call = PrepareClaimsRequest {
        requests: drafts.to_vec(),
    };
    let prepared = claims
        .prepare_claims(call.clone())
        .await
        .unwrap()
        .into_inner()
        .results;
    let drafted: Vec<_> = prepared
        .iter()
        .filter_map(|result| match result.result.clone().unwrap() {
            Prepared::Response(response) => response.claim,
            Prepared::Error(_) => None,
        })
        .collect();
    assert_eq!(drafted.len(), 2);
    let refused = match prepared[1].result.clone().unwrap() {
        Prepared::Error(error) => chassis::bulk::from_message(&error),
        Prepared::Response(response) => panic!("{response:?}"),
    };
    assert_eq!(refused.code(), Code::InvalidArgument);
    let alone = claims.prepare_claim(drafts[1].clone()).await.unwrap_err();
    assert_eq!(
        claims_fixture::violations(&refused),
        claims_fixture::violations(&alone)
    );
    let again = claims.prepare_claims(call).await.unwrap().into_inner().results;
    assert!(again[0].replayed && !again[1].replayed && again[2].replayed);

    let requests = drafted.iter().map(submit).collect();
    let submitted = claims
        .submit_claims(SubmitClaimsRequest { requests })
        .await
        .unwrap();
    for result in submitted.into_inner().results {
        match result.result.unwrap() {
            Submitted::Response(response) => {
                assert_eq!(response.claim.unwrap().state(), ClaimState::Accepted);
            }
            Submitted::Error(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_orders_share_their_calls_to_the_other_services() {
    let fixture = order_fixture::Fixture::start().await;
    let orders = (0..24).map(|_| fixture.place(insured_order("tok_visa")));
    for order in join_all(orders).await {
        assert_eq!(order.unwrap().state(), OrderState::Fulfilled);
    }
    for (service, method) in [
        (Service::Payment, "payment.v1.PaymentService/AuthorizePayments"),
        (Service::Claims, "claims.v1.ClaimService/PrepareClaims"),
        (Service::Claims, "claims.v1.ClaimService/SubmitClaims"),
    ] {
        let calls = format!(
            "select count(*) from chassis.audit where method = '{method}' and service = 'order' and status = 'OK'"
        );
        eventually(SOON, || async {
            match fixture.stack.database(service).count(&calls).await {
                0 => Err(format!("no call of {method}")),
                _ => Ok(()),
            }
        })
        .await;
    }
    let payments = fixture.stack.database(Service::Payment);
    assert_eq!(
        payments
            .count("select count(*) from payment.payment where state = 'CAPTURED'")
            .await,
        24
    );
}
