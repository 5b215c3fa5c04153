//! Fixture for stuck sagas: settings with which they become stuck soon, and an operator's calls.

use std::time::Duration;

use proto::{
    ops::v1::{ForceCompleteSagaRequest, RetrySagaRequest, Saga, SagaState, SkipSagaStepRequest},
    order::v1::{FulfilOrderRequest, Order, OrderState},
};
use tests::{Options, Service, eventually};
use tonic::Status;

use crate::order_fixture::{Fixture, SOON, fresh};

/// Sagas become stuck soon and are then not retried automatically: a retry would only delay the scenarios.
pub(crate) fn stuck_soon() -> Options {
    Options::default()
        .set(Service::Order, "saga.step_tries", "2")
        .set(Service::Order, "saga.backoff_ms", "20")
        .set(Service::Order, "saga.stuck_retry_s", "600")
}

/// Starts the fulfilment of an order without waiting for its end.
pub(crate) async fn begin_to_fulfil(fixture: &Fixture, order_id: &str) {
    let mut request = tonic::Request::new(FulfilOrderRequest {
        request_id: fresh(),
        id: order_id.to_owned(),
    });
    request.set_timeout(Duration::from_secs(2));
    fixture.orders.clone().fulfil_order(request).await.unwrap();
}

pub(crate) async fn becomes_stuck(fixture: &Fixture, order_id: &str) -> Saga {
    eventually(SOON, || async {
        let sagas = fixture.sagas_of(order_id).await;
        let stuck = sagas.iter().find(|saga| saga.state() == SagaState::Stuck);
        stuck.cloned().ok_or_else(|| format!("{sagas:?}"))
    })
    .await
}

pub(crate) fn skipping(saga: &Saga) -> SkipSagaStepRequest {
    SkipSagaStepRequest {
        request_id: fresh(),
        id: saga.id.clone(),
        reason: "the network was notified by telephone".into(),
        step: saga.current_step.clone(),
    }
}

pub(crate) fn forcing(saga: &Saga) -> ForceCompleteSagaRequest {
    ForceCompleteSagaRequest {
        request_id: fresh(),
        id: saga.id.clone(),
        reason: "the bank has let it go".into(),
        step: String::new(),
    }
}

pub(crate) async fn skip(fixture: &Fixture, request: SkipSagaStepRequest) -> Result<Saga, Status> {
    let answer = fixture.sagas.clone().skip_saga_step(request).await?;
    Ok(answer.into_inner().saga.unwrap())
}

pub(crate) async fn force(fixture: &Fixture, request: ForceCompleteSagaRequest) -> Result<Saga, Status> {
    let answer = fixture.sagas.clone().force_complete_saga(request).await?;
    Ok(answer.into_inner().saga.unwrap())
}

/// Retries a stuck saga until its order has this state: the mesh may need a moment to find a service that was
/// restarted.
pub(crate) async fn retried(fixture: &Fixture, saga: &Saga, (order_id, state): (&str, OrderState)) -> Order {
    eventually(SOON, || async {
        let order = fixture.get(order_id).await.map_err(|status| status.to_string())?;
        if order.state() == state {
            return Ok(order);
        }
        if fixture.saga(&saga.id).await.state() == SagaState::Stuck {
            let request = RetrySagaRequest {
                request_id: fresh(),
                id: saga.id.clone(),
            };
            // It may already be running.
            let _ = fixture.sagas.clone().retry_saga(request).await;
        }
        Err(format!("{order:?}"))
    })
    .await
}
