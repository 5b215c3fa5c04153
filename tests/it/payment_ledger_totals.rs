//! The trial balance is exact at any time, while entries are folded into totals in the background.

use proto::payment::v1::{GetTrialBalanceRequest, LedgerAccount::Cash};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tests::{Options, Service, eventually};
use uuid::Uuid;

use crate::payment_fixture::{FACILITY, Fixture, SOON, minor};

async fn cash(fixture: &Fixture) -> i64 {
    let mut ledger = fixture.ledger.clone();
    let balance = ledger.get_trial_balance(GetTrialBalanceRequest::default()).await;
    let balance = balance.unwrap().into_inner();
    assert!(balance.balanced);
    let accounts = balance.accounts.iter().filter(|of| of.account() == Cash);
    accounts.map(|of| minor(of.balance.as_ref())).sum()
}

async fn charge(fixture: &Fixture, amount: i64) {
    let payment = fixture
        .authorize(Uuid::new_v4(), amount, "tok_visa")
        .await
        .unwrap();
    fixture.capture(&payment, None).await.unwrap();
}

/// Inserts entries, which take their numbers, and leaves the commit to the caller.
async fn slow_writer(fixture: &Fixture, amount: i64) -> PgConnection {
    let url = fixture.stack.database(Service::Payment).superuser_url();
    let mut writer = PgConnection::connect(&url).await.unwrap();
    let book = format!(
        "begin;
         insert into payment.ledger_transaction (id, facility, cause, order_id, causation_id, source_id)
             values ('01930000-0000-7000-8000-000000000001', '{FACILITY}', 'PAYMENT_CAPTURED', gen_random_uuid(),
                 gen_random_uuid(), gen_random_uuid());
         insert into payment.ledger_entry (facility, transaction_id, order_id, account, currency, amount)
             select t.facility, t.id, t.order_id, e.account, 'AED', e.amount
             from payment.ledger_transaction t,
                 (values ('CASH', {amount}), ('PATIENT_RECEIVABLE', -{amount})) e (account, amount)
             where t.id = '01930000-0000-7000-8000-000000000001'"
    );
    writer.execute(AssertSqlSafe(book)).await.unwrap();
    writer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_commits_out_of_order_is_in_the_trial_balance_once() {
    let fixture = Fixture::with(Options::default().set(Service::Payment, "ledger.fold_ms", "10")).await;
    let database = fixture.stack.database(Service::Payment);
    let folded_to = || database.count("select folded_to from payment.ledger_folded");
    let last_number = || database.count("select max(id) from payment.ledger_entry");

    charge(&fixture, 1_000).await;
    eventually(SOON, || async { folded_to().await == last_number().await }).await;
    assert_eq!(cash(&fixture).await, 1_000);

    let before = folded_to().await;
    let mut writer = slow_writer(&fixture, 700).await;
    for charged in 1..=20 {
        charge(&fixture, 1).await;
        assert_eq!(cash(&fixture).await, 1_000 + charged);
        assert_eq!(
            folded_to().await,
            before,
            "numbers before the last may still become visible"
        );
    }
    writer.execute("commit").await.unwrap();
    assert_eq!(cash(&fixture).await, 1_720);
    eventually(SOON, || async { folded_to().await == last_number().await }).await;
    assert_eq!(cash(&fixture).await, 1_720);
    let difference = "select coalesce(sum(abs(t.debit - t.credit - e.amount)), 0)::bigint
        from payment.ledger_total t
        full join (select facility, currency, account, sum(amount) as amount from payment.ledger_entry group by 1, 2, 3) e
            using (facility, currency, account)";
    assert_eq!(database.count(difference).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trial_balance_agrees_with_every_charge_while_totals_are_folded() {
    let fixture = Fixture::with(Options::default().set(Service::Payment, "ledger.fold_ms", "10")).await;
    for round in 1..=10 {
        futures_util::future::join_all((0..8).map(|_| charge(&fixture, 100))).await;
        assert_eq!(cash(&fixture).await, round * 800);
    }
}
