//! Several orders in one call: each has the outcome that it would have alone, independent of the others.

use std::{fmt::Write as _, fs};

use chassis::bulk;
use proto::order::v1::{
    Order, OrderState, PlaceOrderRequest, PlaceOrdersRequest, PlaceOrdersResult,
    order_service_client::OrderServiceClient, place_orders_result::Result as Placed,
};
use tests::{Options, Service, eventually};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    cli_fixture::Weft,
    order_fixture::{FACILITY, Fixture, SOON, fresh, reason},
    samples::{insured_order, line, self_pay_order},
};

const METHOD: &str = "order.v1.OrderService/PlaceOrders";
const ORDERS: &str = "select count(*) from orders.placed_order";

async fn place_as(
    fixture: &Fixture,
    facility: &str,
    roles: &[&str],
    requests: Vec<PlaceOrderRequest>,
) -> Result<Vec<PlaceOrdersResult>, Status> {
    let token = fixture.stack.token(facility, roles);
    let mut orders = OrderServiceClient::new(fixture.stack.connect(Service::Order, &token));
    let answer = orders.place_orders(PlaceOrdersRequest { requests }).await?;
    Ok(answer.into_inner().results)
}

async fn place(fixture: &Fixture, requests: &[PlaceOrderRequest]) -> Result<Vec<PlaceOrdersResult>, Status> {
    place_as(fixture, FACILITY, &["clerk"], requests.to_vec()).await
}

fn outcome(result: &PlaceOrdersResult) -> Result<Order, Status> {
    match result.result.clone().unwrap() {
        Placed::Response(response) => Ok(response.order.unwrap()),
        Placed::Error(error) => Err(bulk::from_message(&error)),
    }
}

fn order(result: &PlaceOrdersResult) -> Order {
    outcome(result).unwrap()
}

fn violations(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .into_iter()
        .flat_map(|bad| bad.field_violations.clone());
    violations
        .map(|violation| (violation.field, violation.description))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_invalid_order_does_not_fail_the_others_and_a_retry_of_the_call_changes_nothing() {
    let fixture = Fixture::start().await;
    let taken = PlaceOrderRequest {
        reference: "INV-1".to_owned(),
        ..self_pay_order("tok_visa")
    };
    fixture.place(taken.clone()).await.unwrap();
    let mut invalid = insured_order("tok_visa");
    invalid.patient_id = "PT\u{1}".to_owned();
    invalid.claim.as_mut().unwrap().gross = None;
    let mut nameless = self_pay_order("tok_visa");
    nameless.request_id = "7".to_owned();
    let mut reused = taken.clone();
    reused.patient_id = "PT-9".to_owned();
    let checked = PlaceOrderRequest {
        validate_only: true,
        ..self_pay_order("tok_visa")
    };
    let requests = [
        insured_order("tok_visa"),
        invalid.clone(),
        self_pay_order("tok_decline"),
        nameless,
        PlaceOrderRequest {
            request_id: fresh(),
            ..taken.clone()
        },
        reused,
        checked,
        self_pay_order("tok_visa"),
    ];

    let results = place(&fixture, &requests).await.unwrap();
    assert_eq!(order(&results[0]).state(), OrderState::Fulfilled);
    let refused = outcome(&results[1]).unwrap_err();
    let alone = fixture.place(invalid).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message(), reason(&refused)),
        (alone.code(), alone.message(), reason(&alone))
    );
    assert_eq!(violations(&refused), violations(&alone));
    assert!(
        violations(&refused)
            .iter()
            .any(|(field, _)| field == "patient_id")
    );
    assert_eq!(order(&results[2]).state(), OrderState::Rejected);
    assert_eq!(violations(&outcome(&results[3]).unwrap_err())[0].0, "request_id");
    for (result, code, why) in [
        (&results[4], Code::AlreadyExists, "REFERENCE_TAKEN"),
        (&results[5], Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED"),
    ] {
        let refused = outcome(result).unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (code, why));
    }
    assert_eq!(order(&results[6]).id, "");
    assert_eq!(order(&results[7]).state(), OrderState::Confirmed);
    assert!(results.iter().all(|result| !result.replayed));
    assert_eq!(fixture.rows(ORDERS).await, 4);

    let again = place(&fixture, &requests).await.unwrap();
    for (number, (now, before)) in again.iter().zip(&results).enumerate() {
        // A validation is not stored: it is repeated.
        assert!(
            now.result == before.result || requests[number].validate_only,
            "{number}"
        );
        assert_eq!(now.replayed, [0, 2, 7].contains(&number), "{number}");
    }
    // A request sent alone is a repetition of the same request in a call.
    let alone = fixture
        .orders
        .clone()
        .place_order(requests[7].clone())
        .await
        .unwrap();
    assert!(alone.metadata().get("idempotency-replayed").is_some());
    assert_eq!(alone.into_inner().order.unwrap(), order(&results[7]));
    assert!(place(&fixture, &[taken]).await.unwrap()[0].replayed);
    assert_eq!(fixture.rows(ORDERS).await, 4);
    assert_eq!(fixture.money_of(&order(&results[0]).id).await, (20, 20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_two_identical_requests_of_one_call_make_one_order() {
    let fixture = Fixture::start().await;
    let requests = vec![insured_order("tok_visa"); 32];
    let results = place(&fixture, &requests).await.unwrap();
    assert_eq!(results.len(), 32);
    let first = order(&results[0]);
    assert_eq!(first.state(), OrderState::Fulfilled);
    assert!(results.iter().all(|result| order(result) == first));
    assert_eq!(results.iter().filter(|result| !result.replayed).count(), 1);
    assert_eq!(fixture.rows(ORDERS).await, 1);
    assert_eq!(fixture.money_of(&first.id).await, (20, 20, 0));
    assert_eq!(fixture.claims_of(&first.id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_refused_whole_for_its_size_or_its_caller_only() {
    let fixture = Fixture::start().await;
    for count in [0, 65] {
        let requests: Vec<_> = (0..count).map(|_| self_pay_order("tok_visa")).collect();
        let refused = place(&fixture, &requests).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let named: Vec<String> = violations(&refused).into_iter().map(|(field, _)| field).collect();
        assert_eq!(named, ["requests"]);
    }
    let large = PlaceOrderRequest {
        lines: vec![
            proto::order::v1::PlaceOrderLine {
                description: "x".repeat(500),
                ..line("A", 1)
            };
            1_000
        ],
        ..self_pay_order("tok_visa")
    };
    let refused = place(&fixture, &vec![large; 9]).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE")
    );
    let request = vec![self_pay_order("tok_visa")];
    let refused = place_as(&fixture, FACILITY, &["viewer"], request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(fixture.rows(ORDERS).await, 0);
    let most: Vec<_> = (0..64).map(|_| self_pay_order("tok_visa")).collect();
    let results = place(&fixture, &most).await.unwrap();
    assert!(
        results
            .iter()
            .all(|result| order(result).state() == OrderState::Confirmed)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_two_facilities_with_the_same_requests_place_the_orders_of_each() {
    let fixture = Fixture::start().await;
    let numbered = |number: usize| PlaceOrderRequest {
        reference: format!("INV-{number}"),
        ..self_pay_order("tok_visa")
    };
    let requests: Vec<_> = (0..16).map(numbered).collect();
    let (ours, theirs) = tokio::join!(
        place(&fixture, &requests),
        place_as(&fixture, "al-safa", &["clerk"], requests.clone())
    );
    for (facility, results) in [(FACILITY, ours.unwrap()), ("al-safa", theirs.unwrap())] {
        for (request, result) in requests.iter().zip(&results) {
            let placed = order(result);
            assert_eq!((placed.state(), result.replayed), (OrderState::Confirmed, false));
            let of_facility = format!(
                "{ORDERS} where id = '{}' and facility = '{facility}' and reference = '{}'",
                placed.id, request.reference
            );
            assert_eq!(fixture.rows(&of_facility).await, 1);
        }
    }
    assert_eq!(fixture.rows(ORDERS).await, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_a_call_whose_process_is_killed_are_placed_once_when_it_is_repeated() {
    let options = Options::default()
        .set(Service::Payment, "sandbox.slow_ms", "3000")
        .set(Service::Payment, "processor.timeout_ms", "30000");
    let fixture = Fixture::with(options).await;
    let requests: Vec<_> = (0..12)
        .map(|number| insured_order(["tok_visa", "tok_slow"][number % 2]))
        .collect();
    let token = fixture.stack.token(FACILITY, &["clerk"]);
    let mut orders = OrderServiceClient::new(fixture.stack.connect(Service::Order, &token));
    let sent = PlaceOrdersRequest {
        requests: requests.clone(),
    };
    let call = tokio::spawn(async move { orders.place_orders(sent).await });
    // All are begun, and the slow ones are being paid.
    let payments = fixture.stack.database(Service::Payment);
    let paid = async || payments.count("select count(*) from payment.payment").await == 12;
    eventually(SOON, paid).await;
    fixture.stack.kill9(Service::Order);
    assert!(call.await.unwrap().is_err());
    fixture.stack.restart(Service::Order).await;

    let placed = eventually(SOON * 2, || async {
        let results = place(&fixture, &requests)
            .await
            .map_err(|status| status.to_string())?;
        let orders: Result<Vec<Order>, Status> = results.iter().map(outcome).collect();
        orders.map_err(|status| status.to_string())
    })
    .await;
    for placed in &placed {
        assert_eq!(placed.state(), OrderState::Fulfilled);
        assert_eq!(fixture.money_of(&placed.id).await, (20, 20, 0));
        assert_eq!(fixture.claims_of(&placed.id).await.len(), 1);
    }
    assert_eq!(fixture.rows(ORDERS).await, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_call_has_an_audit_row_of_its_own() {
    let fixture = Fixture::start().await;
    let mut invalid = self_pay_order("tok_visa");
    invalid.lines.clear();
    let requests = [self_pay_order("tok_visa"), invalid];
    let results = place(&fixture, &requests).await.unwrap();
    assert!(outcome(&results[0]).is_ok() && outcome(&results[1]).is_err());
    let row = |request_id: Option<&str>, status: &str| {
        let request_id = request_id.map_or("is null".to_owned(), |id| format!("= '{id}'"));
        format!(
            "select count(*) from chassis.audit where method = '{METHOD}' and facility = '{FACILITY}'
             and subject = 'tester' and request_id {request_id} and status = '{status}'"
        )
    };
    for row in [
        row(Some(&requests[0].request_id), "OK"),
        row(Some(&requests[1].request_id), "INVALID_ARGUMENT"),
        row(None, "OK"),
    ] {
        eventually(SOON, || async { fixture.rows(&row).await == 1 }).await;
    }
    let all = format!("select count(*) from chassis.audit where method = '{METHOD}'");
    assert_eq!(fixture.rows(&all).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_places_its_orders_together() {
    let fixture = Fixture::start().await;
    let mut csv =
        String::from("InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n");
    for number in 1..=64 {
        writeln!(csv, "{number},A,a,1,2011-01-04 10:00:00,1.00,{number}.0,UK").unwrap();
    }
    let file = fixture.stack.folder().join("invoices.csv");
    fs::write(&file, csv).unwrap();
    let weft = Weft::new(&fixture.stack, "shop", &["clerk"]);
    let report = weft.json(&["order", "import", &file.display().to_string()]).await;
    assert_eq!(report["new"]["entries"], 64, "{report:#}");
    let placed =
        format!("select count(*) from chassis.audit where method = '{METHOD}' and request_id is not null");
    let calls =
        format!("select count(*) from chassis.audit where method = '{METHOD}' and request_id is null");
    // A single order is placed alone.
    eventually(SOON, || async {
        let (placed, calls) = (fixture.rows(&placed).await, fixture.rows(&calls).await);
        if calls > 0 && placed >= 2 * calls {
            Ok(())
        } else {
            Err(format!("{placed} orders in {calls} calls"))
        }
    })
    .await;
}
