//! Concurrent calls share transactions, and nothing else: each has its own effect, answer and error.

use futures_util::future::join_all;
use proto::payment::v1::{AuthorizePaymentRequest, Payment, PaymentPurpose, PaymentState};
use tests::{Options, Service};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::payment_fixture::{Fixture, Statement, authorize, fresh, reason};

const SHARE: PaymentPurpose = PaymentPurpose::Share;

/// A fixture whose processor may take long: callers wait for each other here.
pub(crate) async fn fixture() -> Fixture {
    let options = Options::default().set(Service::Payment, "processor.timeout_ms", "5000");
    Fixture::with(options).await
}

pub(crate) fn requests(count: usize) -> Vec<AuthorizePaymentRequest> {
    (0..count)
        .map(|_| authorize(Uuid::new_v4(), 1_000, "tok_visa"))
        .collect()
}

/// Sends all concurrently; the answers have the order of the requests.
pub(crate) async fn send_all(
    fixture: &Fixture,
    requests: &[AuthorizePaymentRequest],
) -> Vec<Result<Payment, Status>> {
    join_all(requests.iter().map(|request| fixture.send(request.clone()))).await
}

pub(crate) fn order(request: &AuthorizePaymentRequest) -> Uuid {
    request.order_id.parse().unwrap()
}

pub(crate) async fn count(fixture: &Fixture, query: &str) -> i64 {
    fixture.stack.database(Service::Payment).count(query).await
}

/// The number of transactions in which payments were begun, authorized and captured by the card network, and
/// booked and answered: all rows of one transaction have one time.
async fn transactions(fixture: &Fixture) -> [i64; 4] {
    [
        count(
            fixture,
            "select count(distinct created_at) from payment.operation",
        )
        .await,
        count(
            fixture,
            "select count(distinct created_at) from sandbox.card_authorization",
        )
        .await,
        count(
            fixture,
            "select count(distinct created_at) from sandbox.card_operation",
        )
        .await,
        count(
            fixture,
            "select count(distinct answered_at) from chassis.idempotency",
        )
        .await,
    ]
}

async fn pay(fixture: &Fixture) {
    let payment = fixture
        .authorize(Uuid::new_v4(), 1_000, "tok_visa")
        .await
        .unwrap();
    let captured = fixture.capture(&payment, None).await.unwrap();
    assert_eq!(captured.state(), PaymentState::Captured);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_at_once_need_less_than_a_third_of_the_transactions_of_one_after_the_other() {
    const EACH: usize = 4;
    let fixture = fixture().await;
    for _ in 0..64 {
        pay(&fixture).await;
    }
    let alone = transactions(&fixture).await;
    assert_eq!(alone, [128, 64, 64, 128], "a single caller waits for no other");

    join_all((0..64).map(|_| async {
        for _ in 0..EACH {
            pay(&fixture).await;
        }
    }))
    .await;
    let all = transactions(&fixture).await;
    for (all, alone) in all.into_iter().zip(alone) {
        let together = all - alone;
        assert!(
            together * 3 < alone * EACH as i64,
            "{together} of {}",
            alone * EACH as i64
        );
    }
    assert_eq!(
        count(&fixture, "select count(*) from payment.ledger_transaction").await,
        64 * (1 + EACH as i64)
    );
    assert_eq!(
        count(&fixture, "select sum(amount)::bigint from payment.ledger_entry").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn among_many_successful_payments_a_declined_an_unanswered_and_an_unknown_one_fail_alone() {
    let fixture = fixture().await;
    let good = requests(40);
    let declined = authorize(Uuid::new_v4(), 1_000, "tok_decline");
    let silent = authorize(Uuid::new_v4(), 1_000, "tok_timeout_charged");
    // Has the id of another request of the same batch.
    let reused = AuthorizePaymentRequest {
        request_id: good[7].request_id.clone(),
        ..authorize(Uuid::new_v4(), 1_000, "tok_visa")
    };
    let missing = Payment {
        id: fresh(),
        ..Payment::default()
    };
    let (answers, declined, silenced, reused, missing) = tokio::join!(
        send_all(&fixture, &good),
        fixture.send(declined),
        fixture.send(silent.clone()),
        fixture.send(reused.clone()),
        fixture.capture(&missing, None),
    );
    assert_eq!(declined.unwrap().state(), PaymentState::Declined);
    assert_eq!(silenced.unwrap().state(), PaymentState::Unknown);
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    // One of the two requests with the same id succeeds.
    let mut payments = Vec::new();
    let mut refused = Vec::new();
    for answer in answers.into_iter().chain([reused]) {
        match answer {
            Ok(payment) => payments.push(payment),
            Err(status) => refused.push(reason(&status)),
        }
    }
    assert_eq!(refused, ["IDEMPOTENCY_KEY_REUSED"]);
    assert_eq!(payments.len(), good.len());
    assert!(
        payments
            .iter()
            .all(|payment| payment.state() == PaymentState::Authorized)
    );

    let captured = join_all(payments.iter().map(|payment| fixture.capture(payment, None))).await;
    for captured in captured {
        assert_eq!(captured.unwrap().state(), PaymentState::Captured);
    }
    fixture
        .becomes(order(&silent), SHARE, PaymentState::Authorized)
        .await;
    assert_eq!(
        count(&fixture, "select count(*) from payment.ledger_transaction").await,
        40
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_captures_of_one_payment_one_takes_the_money() {
    let fixture = fixture().await;
    let payments: Vec<Payment> = send_all(&fixture, &requests(8))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let twice = payments.iter().chain(&payments);
    let answers = join_all(twice.map(|payment| fixture.capture(payment, None))).await;
    let (first, second) = answers.split_at(payments.len());
    for ((payment, first), second) in payments.iter().zip(first).zip(second) {
        let refused = match (first, second) {
            (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => reason(refused),
            both => panic!("{both:?}"),
        };
        assert!(
            ["PAYMENT_BUSY", "PAYMENT_CAPTURED"].contains(&refused.as_str()),
            "{refused}"
        );
        let statement = Statement {
            holds: 1,
            charges: 1,
            charged: 1_000,
            given_back: 0,
        };
        assert_eq!(
            fixture.statement(payment.order_id.parse().unwrap()).await,
            statement
        );
    }
}

/// A void names the order, a capture the payment: in one transaction they must not both decide by the earlier
/// state.
#[tokio::test(flavor = "multi_thread")]
async fn a_void_and_a_capture_at_once_never_both_succeed() {
    let fixture = fixture().await;
    let payments: Vec<Payment> = send_all(&fixture, &requests(32))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let captures = join_all(payments.iter().map(|payment| fixture.capture(payment, None)));
    let voids = join_all(
        payments
            .iter()
            .map(|payment| fixture.void(payment.order_id.parse().unwrap())),
    );
    let (captured, voided) = tokio::join!(captures, voids);
    for ((payment, captured), voided) in payments.iter().zip(captured).zip(voided) {
        assert!(captured.is_ok() != voided.is_ok(), "{captured:?} {voided:?}");
        let now = fixture
            .get(payment.order_id.parse().unwrap(), SHARE)
            .await
            .unwrap();
        let state = if captured.is_ok() {
            PaymentState::Captured
        } else {
            PaymentState::Voided
        };
        assert_eq!(now.state(), state);
        assert_eq!(fixture.events(&now).await.len(), 2, "authorized, and one end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_operations_that_refer_to_nothing_or_to_another_payment_and_deletes_none() {
    let fixture = fixture().await;
    let one = fixture
        .authorize(Uuid::new_v4(), 1_000, "tok_visa")
        .await
        .unwrap();
    let other = fixture
        .authorize(Uuid::new_v4(), 1_000, "tok_visa")
        .await
        .unwrap();
    let superuser = fixture.stack.database(Service::Payment).superuser().await;
    let authorization_of = |payment: &Payment| {
        let id = &payment.id;
        format!("(select id from payment.operation where payment_id = '{id}')")
    };
    let (its, others) = (authorization_of(&one), authorization_of(&other));
    let nothing = format!("'{}'::uuid", fresh());
    let its_payment = format!("'{}'::uuid", one.id);
    for (facility, payment, root, target, is_taken) in [
        ("al-noor", &its_payment, &its, &its, true),
        ("al-noor", &nothing, &its, &its, false),
        ("elsewhere", &its_payment, &its, &its, false),
        ("al-noor", &its_payment, &others, &its, false),
        ("al-noor", &its_payment, &its, &others, false),
        ("al-noor", &its_payment, &its, &nothing, false),
    ] {
        let insert = format!(
            "insert into payment.operation (id, facility, payment_id, kind, state, root_id, target_id, currency, amount,
                 request_id, lease_until)
             values (gen_random_uuid(), '{facility}', {payment}, 'CAPTURE', 'REFUSED', {root}, {target}, 'AED', 1,
                 gen_random_uuid(), now())"
        );
        let taken = sqlx::query(sqlx::AssertSqlSafe(insert)).execute(&superuser).await;
        assert_eq!(
            taken.is_ok(),
            is_taken,
            "{facility} {payment} {root} {target}: {taken:?}"
        );
    }
    let app = fixture.stack.database(Service::Payment).app().await;
    for table in [
        "payment",
        "operation",
        "refund",
        "ledger_transaction",
        "ledger_entry",
    ] {
        let delete = format!("delete from payment.{table}");
        let refused = sqlx::query(sqlx::AssertSqlSafe(delete))
            .execute(&app)
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("permission denied"),
            "{table}: {refused}"
        );
    }
}
