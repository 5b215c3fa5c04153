//! The clocks of a process and of its database differ by an hour: due times follow the database's clock.

use std::time::{Duration, SystemTime};

use proto::order::v1::OrderState;
use tests::{Database, Options, Service};

use crate::{order_fixture::Fixture, samples::self_pay_order};

/// Functions that statements find before PostgreSQL's own.
const AN_HOUR_BEHIND: &str = "create schema behind;
     grant usage on schema behind to public;
     create function behind.now() returns timestamptz language sql stable
         as $$ select pg_catalog.now() - interval '1 hour' $$;
     create function behind.clock_timestamp() returns timestamptz language sql volatile
         as $$ select pg_catalog.clock_timestamp() - interval '1 hour' $$;
     do $$
     declare
         name regprocedure;
     begin
         execute format('alter database %I set search_path = behind, pg_catalog', current_database());
         for name in select oid from pg_proc where 'search_path=pg_catalog' = any(proconfig) loop
             execute format('alter function %s set search_path = behind, pg_catalog', name);
         end loop;
     end
     $$";

async fn set_back(database: &Database) {
    let superuser = database.superuser().await;
    sqlx::raw_sql(AN_HOUR_BEHIND).execute(&superuser).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_expires_in_time_although_the_database_is_an_hour_behind() {
    let options = Options::default().only(&[Service::Payment, Service::Claims]).set(
        Service::Order,
        "orders.payment_window_s",
        "1",
    );
    let fixture = Fixture::with(options).await;
    set_back(fixture.stack.database(Service::Order)).await;
    fixture.stack.restart(Service::Order).await;

    let order = fixture.place(self_pay_order("")).await.unwrap();
    assert_eq!(order.state(), OrderState::AwaitingPayment);
    let until = SystemTime::try_from(order.expire_time.unwrap()).unwrap();
    assert!(
        until < SystemTime::now() - Duration::from_secs(1_800),
        "{order:?}"
    );
    fixture.becomes(&order.id, OrderState::Expired).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_has_failed_is_tried_again_in_time_although_the_database_is_an_hour_behind() {
    let fixture = Fixture::with(Options::default().only(&[Service::Claims])).await;
    set_back(fixture.stack.database(Service::Order)).await;
    fixture.stack.restart(Service::Order).await;
    let mut request = tonic::Request::new(self_pay_order("tok_visa"));
    request.set_timeout(Duration::from_secs(1));
    let answer = fixture.orders.clone().place_order(request).await.unwrap();
    let order = answer.into_inner().order.unwrap();
    assert_eq!(order.state(), OrderState::Pending);
    fixture.stack.restart(Service::Payment).await;
    fixture.becomes(&order.id, OrderState::Confirmed).await;
}
