//! An undisturbed saga is not written after every step: its participants store what it has requested.

use proto::{
    ops::v1::{Saga, SagaState, SagaStepState},
    order::v1::{Order, OrderState},
};
use tests::{Options, Service, eventually};

use crate::{
    order_fixture::{Fixture, SOON},
    samples::insured_order,
};

/// Starts with a card network whose authorizations take this long, and a payment service that waits for it.
async fn with_a_slow_card_network(milliseconds: &str) -> Fixture {
    let options = Options::default()
        .set(Service::Payment, "sandbox.slow_ms", milliseconds)
        .set(Service::Payment, "processor.timeout_ms", "30000");
    Fixture::with(options).await
}

/// The number of events of each type that were published about the order and its saga.
async fn event_counts(fixture: &Fixture, order: &Order) -> Vec<(String, i64)> {
    let pool = fixture.stack.database(Service::Order).owner().await;
    let query = "select type, count(*) from events.event_log where aggregate_id::text in ($1, $2) group by type order by type";
    sqlx::query_as(query)
        .bind(&order.id)
        .bind(&order.saga_id)
        .fetch_all(&pool)
        .await
        .unwrap()
}

/// Whether the saga ended before it had to be written in between.
fn was_quick(saga: &Saga) -> bool {
    let seconds = |time: &Option<prost_types::Timestamp>| {
        time.as_ref()
            .map_or(0.0, |time| time.seconds as f64 + f64::from(time.nanos) / 1e9)
    };
    seconds(&saga.update_time) - seconds(&saga.create_time) < 1.9
}

/// The only order, as stored.
async fn kept(fixture: &Fixture) -> Result<Order, String> {
    let pool = fixture.stack.database(Service::Order).superuser().await;
    let id: Option<uuid::Uuid> = sqlx::query_scalar("select id from orders.placed_order")
        .fetch_optional(&pool)
        .await
        .unwrap();
    let id = id.ok_or("there is no order yet")?;
    fixture
        .get(&id.to_string())
        .await
        .map_err(|status| status.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undisturbed_saga_is_written_only_at_its_begin_and_end() {
    let fixture = Fixture::start().await;
    // On a busy machine one may take longer than two seconds.
    let (order, saga) = eventually(SOON, || async {
        let order = fixture.place(insured_order("tok_visa")).await.unwrap();
        assert_eq!(order.state(), OrderState::Fulfilled, "{order:?}");
        let saga = fixture.saga(&order.saga_id).await;
        was_quick(&saga).then_some((order, saga))
    })
    .await;
    assert_eq!(saga.state(), SagaState::Completed);
    let steps: Vec<_> = saga
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.state()))
        .collect();
    let succeeded = SagaStepState::Succeeded;
    assert_eq!(
        steps,
        [
            ("prepare_claim", succeeded),
            ("authorize_payment", succeeded),
            ("capture_payment", succeeded),
            ("submit_claim", succeeded)
        ]
    );
    let once = |name: &str| (format!("order.v1.{name}"), 1);
    assert_eq!(
        event_counts(&fixture, &order).await,
        [
            once("OrderConfirmed"),
            once("OrderFulfilled"),
            once("OrderPlaced"),
            once("SagaCompleted"),
            once("SagaStarted")
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_steps_can_be_read_while_a_long_step_runs() {
    let fixture = with_a_slow_card_network("10000").await;
    let client = fixture.orders.clone();
    let placing = tokio::spawn(async move { client.clone().place_order(insured_order("tok_slow")).await });
    let order = eventually(SOON, || async {
        let order = kept(&fixture).await?;
        if order.claim_id.is_empty() {
            Err(format!("{order:?}"))
        } else {
            Ok(order)
        }
    })
    .await;
    assert_eq!(
        (order.state(), order.payment_id.as_str()),
        (OrderState::Pending, "")
    );
    assert!(!placing.is_finished());
    placing.await.unwrap().unwrap();
    let order = fixture.becomes(&order.id, OrderState::Fulfilled).await;
    assert_eq!(fixture.money_of(&order.id).await, (20, 20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn unwritten_steps_are_requested_again_after_a_crash_and_take_effect_once() {
    let fixture = with_a_slow_card_network("5000").await;
    let client = fixture.orders.clone();
    let placing = tokio::spawn(async move { client.clone().place_order(insured_order("tok_slow")).await });
    let order = eventually(SOON, || async {
        let order = kept(&fixture).await?;
        match fixture.payments_of(&order.id).await.as_slice() {
            [] => Err("there is no payment yet".to_owned()),
            _ => Ok(order),
        }
    })
    .await;
    assert_eq!(order.state(), OrderState::Pending);
    fixture.stack.kill9(Service::Order);
    assert!(placing.await.unwrap().is_err());
    fixture.stack.restart(Service::Order).await;

    let order = fixture.becomes(&order.id, OrderState::Fulfilled).await;
    let claims = fixture.claims_of(&order.id).await;
    assert_eq!(
        (claims.len(), claims[0].id.as_str()),
        (1, order.claim_id.as_str())
    );
    assert_eq!(fixture.money_of(&order.id).await, (20, 20, 0));
}
