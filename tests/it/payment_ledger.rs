//! The ledger: its entries, its balance, and its protection against changes.

use proto::{
    claims::v1::{BookedLine, ClaimRemittance, ClaimRemitted, ClaimTakenBack},
    order::v1::{OrderAdjusted, OrderBalanceDue, OrderFulfilled, OrderReturned, OrderSettled},
    payment::v1::{
        GetTrialBalanceRequest,
        LedgerAccount::{BadDebt, Cash, PatientReceivable, PayerCash, PayerReceivable, Revenue, Rounding},
        ListLedgerEntriesRequest, PayOrderRequest,
    },
};
use sqlx::Executor as _;
use tests::Service;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    cli_fixture::{Weft, errors},
    payment_fixture::{FACILITY, Fixture, aed, fresh, minor, reason},
};

pub(crate) const LEDGER: &str = "payment-ledger";
const REMITTANCES: &str = "payment-remittances";

fn remittance(order: Uuid, amounts: &[i64]) -> ClaimRemittance {
    let line = |amount: &i64| BookedLine {
        amount: Some(aed(*amount)),
        ..BookedLine::default()
    };
    ClaimRemittance {
        order_id: order.to_string(),
        lines: amounts.iter().map(line).collect(),
        ..ClaimRemittance::default()
    }
}

pub(crate) async fn fulfilled(fixture: &Fixture, order: Uuid, share: i64, net: i64) {
    let event = OrderFulfilled {
        order_id: order.to_string(),
        patient_share: Some(aed(share)),
        payer_net: Some(aed(net)),
    };
    fixture.publish(LEDGER, order, &event).await;
}

pub(crate) async fn balance_due(fixture: &Fixture, order: Uuid, transferred: i64, balance: i64) {
    let event = OrderBalanceDue {
        order_id: order.to_string(),
        transferred: Some(aed(transferred)),
        written_off: None,
        balance: Some(aed(balance)),
        billed: None,
    };
    fixture.publish(LEDGER, order, &event).await;
}

pub(crate) async fn pay(
    fixture: &Fixture,
    order: Uuid,
    method: &str,
) -> Result<proto::payment::v1::Payment, Status> {
    let request = PayOrderRequest {
        request_id: fresh(),
        order_id: order.to_string(),
        payment_method: method.to_owned(),
    };
    Ok(fixture
        .payments
        .clone()
        .pay_order(request)
        .await?
        .into_inner()
        .payment
        .unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_follows_an_order_from_fulfilment_to_settlement() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    let payment = fixture.authorize(order, 5_000, "tok_visa").await.unwrap();
    assert_eq!(fixture.balances(order).await, []);
    fixture.capture(&payment, None).await.unwrap();
    fulfilled(&fixture, order, 5_000, 34_000).await;
    let books = [
        (PatientReceivable, 0),
        (PayerReceivable, 34_000),
        (Cash, 5_000),
        (Revenue, -39_000),
    ];
    assert_eq!(fixture.balances(order).await, books);

    let remitted = ClaimRemitted {
        remittance: Some(remittance(order, &[15_000, 9_000, 0])),
    };
    fixture.publish(REMITTANCES, Uuid::new_v4(), &remitted).await;
    let taken_back = ClaimTakenBack {
        remittance: Some(remittance(order, &[-15_000, 10_000])),
    };
    fixture.publish(REMITTANCES, Uuid::new_v4(), &taken_back).await;
    assert_eq!(
        fixture.balances(order).await,
        [
            (PatientReceivable, 0),
            (PayerReceivable, 15_000),
            (Cash, 5_000),
            (PayerCash, 19_000),
            (Revenue, -39_000),
        ]
    );

    let settled = OrderSettled {
        order_id: order.to_string(),
        written_off: Some(aed(15_000)),
        patient_written_off: None,
    };
    fixture.publish(LEDGER, order, &settled).await;
    let returned = OrderReturned {
        order_id: order.to_string(),
        patient_share: Some(aed(5_000)),
        payer_net: None,
        full: false,
    };
    fixture.publish(LEDGER, order, &returned).await;
    fixture.refund(&payment, None).await.unwrap();
    assert_eq!(
        fixture.balances(order).await,
        [
            (PatientReceivable, 0),
            (PayerReceivable, 0),
            (Cash, 0),
            (PayerCash, 19_000),
            (Revenue, -34_000),
            (BadDebt, 15_000),
        ]
    );

    let request = ListLedgerEntriesRequest {
        order_id: order.to_string(),
        ..ListLedgerEntriesRequest::default()
    };
    let entries = fixture
        .ledger
        .clone()
        .list_ledger_entries(request)
        .await
        .unwrap()
        .into_inner()
        .entries;
    assert_eq!(
        entries
            .iter()
            .map(|entry| minor(entry.amount.as_ref()))
            .sum::<i64>(),
        0
    );
    assert!(
        entries
            .windows(2)
            .all(|pair| pair[0].create_time.unwrap().seconds >= pair[1].create_time.unwrap().seconds)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_payment_by_the_payer_reverses_the_patients_debt_and_the_write_off_in_the_ledger() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    fulfilled(&fixture, order, 0, 10_000).await;
    balance_due(&fixture, order, 4_000, 4_000).await;
    let adjusted = |event: OrderAdjusted| OrderAdjusted {
        order_id: order.to_string(),
        ..event
    };
    let written_off = OrderAdjusted {
        written_off: Some(aed(6_000)),
        billed: Some(aed(4_000)),
        ..OrderAdjusted::default()
    };
    fixture.publish(LEDGER, order, &adjusted(written_off)).await;
    let books = [
        (PatientReceivable, 4_000),
        (PayerReceivable, 0),
        (Revenue, -10_000),
        (BadDebt, 6_000),
    ];
    assert_eq!(fixture.balances(order).await, books);

    let paid = ClaimRemitted {
        remittance: Some(remittance(order, &[9_999])),
    };
    fixture.publish("payment-remittances", order, &paid).await;
    let reversed = OrderAdjusted {
        transfer_reversed: Some(aed(4_000)),
        write_off_reversed: Some(aed(6_000)),
        rounding: Some(aed(1)),
        billed: Some(aed(0)),
        ..OrderAdjusted::default()
    };
    fixture.publish(LEDGER, order, &adjusted(reversed)).await;
    let balances = fixture.balances(order).await;
    for (account, expected) in [
        (PatientReceivable, 0),
        (PayerReceivable, 0),
        (PayerCash, 9_999),
        (BadDebt, 0),
        (Rounding, 1),
    ] {
        assert!(balances.contains(&(account, expected)), "{balances:?}");
    }
    assert_eq!(
        reason(&pay(&fixture, order, "tok_visa").await.unwrap_err()),
        "NOTHING_DUE"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_refuses_unbalanced_transactions_and_any_change_of_booked_entries() {
    let fixture = Fixture::start().await;
    let order = Uuid::new_v4();
    fulfilled(&fixture, order, 100, 200).await;
    let superuser = fixture.stack.database(Service::Payment).superuser().await;
    let booking = |amounts: &str| {
        format!(
            "with t as (
                 insert into payment.ledger_transaction (id, facility, cause, order_id, causation_id, source_id)
                 select gen_random_uuid(), 'al-noor', 'WRITE_OFF', '{order}', gen_random_uuid(), gen_random_uuid()
                 returning id
             ), e as (
                 insert into payment.ledger_entry (facility, transaction_id, order_id, account, currency, amount)
                 select 'al-noor', t.id, '{order}', account, currency, amount
                 from t, (values {amounts}) as v (account, currency, amount)
             )
             select 1"
        )
    };
    for (amounts, taken) in [
        ("('BAD_DEBT', 'AED', 5), ('PAYER_RECEIVABLE', 'AED', -5)", true),
        ("('BAD_DEBT', 'AED', 5), ('PAYER_RECEIVABLE', 'AED', -4)", false),
        ("('BAD_DEBT', 'AED', 5), ('PAYER_RECEIVABLE', 'USD', -5)", false),
        ("('BAD_DEBT', 'AED', 5)", false),
    ] {
        let booked = superuser.execute(sqlx::AssertSqlSafe(booking(amounts))).await;
        assert_eq!(booked.is_ok(), taken, "{amounts}: {booked:?}");
    }
    for change in [
        "update payment.ledger_entry set amount = 1",
        "delete from payment.ledger_entry",
        "truncate payment.ledger_entry",
        "update payment.ledger_transaction set cause = 'REFUND'",
        "delete from payment.ledger_transaction",
    ] {
        let refused = superuser.execute(change).await.unwrap_err();
        assert!(refused.to_string().contains("immutable"), "{change}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_beyond_64_bits_are_exact_or_refused_with_a_reason() {
    let fixture = Fixture::start().await;
    let most = i64::MAX;
    let trial_balance = async || {
        fixture
            .ledger
            .clone()
            .get_trial_balance(GetTrialBalanceRequest::default())
            .await
    };
    let book = |transactions: i64| {
        format!(
            "with booked as (
                 insert into payment.ledger_transaction (id, facility, cause, order_id, causation_id, source_id)
                 select gen_random_uuid(), '{FACILITY}', 'PAYMENT_CAPTURED', gen_random_uuid(), gen_random_uuid(),
                     gen_random_uuid()
                 from generate_series(1, {transactions})
                 returning id, facility, order_id
             )
             insert into payment.ledger_entry (facility, transaction_id, order_id, account, currency, amount)
             select facility, id, order_id, account, 'AED', amount
             from booked, (values ('CASH', {most}), ('REVENUE', -{most})) as side (account, amount)"
        )
    };
    let superuser = fixture.stack.database(Service::Payment).superuser().await;
    superuser.execute(sqlx::AssertSqlSafe(book(2))).await.unwrap();
    let balance = trial_balance().await.unwrap().into_inner();
    assert!(balance.balanced);
    let cash = balance
        .accounts
        .iter()
        .find(|account| account.account() == Cash)
        .unwrap();
    let debit = cash.debit.as_ref().unwrap();
    // Twice 92,233,720,368,547,758.07.
    assert_eq!((debit.units, debit.nanos), (184_467_440_737_095_516, 140_000_000));
    let weft = Weft::new(&fixture.stack, FACILITY, &["viewer"]);
    let shown = weft.run(&["ledger", "balance"]).await;
    let table = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        table.contains("184467440737095516.14"),
        "{table}{}",
        errors(&shown)
    );

    superuser.execute(sqlx::AssertSqlSafe(book(100))).await.unwrap();
    let refused = trial_balance().await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "SUM_TOO_LARGE")
    );
}
