//! Places an order of an import and waits until its outcome is final.

use std::time::{Duration, Instant};

use money::Money;
use proto::order::v1::{GetOrderRequest, Order, OrderState, PlaceOrderRequest};
use tonic::Code;
use uuid::Uuid;

use super::{
    is_replayed,
    order_batcher::OrderBatcher,
    report::Outcome,
    retrying_client::{CallError, RetryingClient},
};
use crate::failure::{one_line, reason};

/// The result for one order or claim of the file.
pub(crate) struct ImportResult {
    pub(crate) outcome: Outcome,
    /// The gross amount that the service stored; `None` if it stored none.
    pub(crate) gross: Option<Money>,
    /// Empty if it was accepted.
    pub(crate) reason: String,
}

/// The most orders that are placed for one request, when the earlier ones fail.
const MAX_ATTEMPTS: usize = 5;

/// Places an order and waits until it is fulfilled or has failed. An order that exists already is compared with
/// the request. A failed order is placed again if that may succeed: the processor had timed out, the payment
/// window had passed, or the request has changed. The new request id is derived from the failed order's id, so
/// that a repeated import takes the same path.
pub(crate) async fn place_and_wait(orders: &OrderBatcher, mut request: PlaceOrderRequest) -> ImportResult {
    for _ in 1..MAX_ATTEMPTS {
        let attempt = attempt(orders, &request).await;
        let Some(order_id) = attempt.failed_order_id else {
            return attempt.result;
        };
        let previous = Uuid::parse_str(&request.request_id).unwrap_or_default();
        request.request_id = Uuid::new_v5(&previous, order_id.as_bytes()).to_string();
    }
    attempt(orders, &request).await.result
}

struct Attempt {
    result: ImportResult,
    /// The id of the failed order, if placing it again may succeed.
    failed_order_id: Option<String>,
}

async fn attempt(orders: &OrderBatcher, request: &PlaceOrderRequest) -> Attempt {
    let client = &orders.client;
    let answer = orders.place(request).await;
    let mut changed = false;
    let found = match answer {
        Ok(response) => {
            let outcome = if is_replayed(&response) {
                Outcome::Unchanged
            } else {
                Outcome::New
            };
            Ok((response.into_inner().order.unwrap_or_default(), outcome))
        }
        Err(CallError::Refused(status)) if is_already_placed(&status) => {
            changed = reason(&status).as_deref() == Some("IDEMPOTENCY_KEY_REUSED");
            find_existing(client, request)
                .await
                .map(|order| (order, Outcome::Unchanged))
        }
        Err(error) => Err(ImportResult::from_error(&error)),
    };
    let final_order = match found {
        Ok((order, outcome)) if request.validate_only => {
            return Attempt::conclusive(ImportResult::accepted(&order, outcome));
        }
        Ok((order, outcome)) => wait_until_final(client, order)
            .await
            .map(|order| (order, outcome)),
        Err(result) => Err(result),
    };
    match final_order {
        Ok((order, outcome)) => Attempt {
            failed_order_id: is_worth_retrying(&order, request, changed).then(|| order.id.clone()),
            result: ImportResult::from_order(&order, outcome),
        },
        Err(result) => Attempt::conclusive(result),
    }
}

/// Whether a failed order may succeed when it is placed again: the processor had timed out, the request has
/// changed, or the payment window had passed and the request has a payment method now.
fn is_worth_retrying(order: &Order, request: &PlaceOrderRequest, changed: bool) -> bool {
    let reason = order.failure.as_ref().map(|failure| failure.reason.as_str());
    let timed_out = matches!(reason, Some("PROCESSOR_TIMEOUT" | "PROCESSOR_UNREACHABLE"));
    match order.state() {
        OrderState::Rejected => timed_out || changed,
        OrderState::Expired => !request.payment_method.is_empty(),
        _ => false,
    }
}

impl Attempt {
    fn conclusive(result: ImportResult) -> Attempt {
        Attempt {
            result,
            failed_order_id: None,
        }
    }
}

/// Polls the order until it reaches a state that it does not leave by itself.
async fn wait_until_final(client: &RetryingClient, mut order: Order) -> Result<Order, ImportResult> {
    let mut wait = Duration::from_millis(20);
    let mut changed = Instant::now();
    while matches!(
        order.state(),
        OrderState::Pending | OrderState::Confirmed | OrderState::Cancelling
    ) {
        if changed.elapsed() > client.retry_for {
            let state = order.state().as_str_name();
            return Err(ImportResult {
                outcome: Outcome::Undecided,
                gross: None,
                reason: format!("STILL_GOING_ON: {state}; weft saga show {}", order.saga_id),
            });
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
        let current = read(
            client,
            GetOrderRequest {
                id: order.id.clone(),
                reference: String::new(),
            },
        )
        .await?;
        if current.version != order.version {
            (changed, wait) = (Instant::now(), Duration::from_millis(20));
        }
        order = current;
    }
    Ok(order)
}

/// Fetches the existing order with the same reference.
///
/// # Errors
/// When it differs from the request, or cannot be read.
async fn find_existing(client: &RetryingClient, request: &PlaceOrderRequest) -> Result<Order, ImportResult> {
    let order = read(
        client,
        GetOrderRequest {
            id: String::new(),
            reference: request.reference.clone(),
        },
    )
    .await?;
    match difference(request, &order) {
        None => Ok(order),
        Some(difference) => Err(ImportResult {
            outcome: Outcome::Refused,
            gross: None,
            reason: format!("DIFFERS: order {} exists already with {difference}", order.id),
        }),
    }
}

async fn read(client: &RetryingClient, request: GetOrderRequest) -> Result<Order, ImportResult> {
    let answer = client
        .call(request, |message| {
            let mut stub = client.clients.order();
            async move { stub.get_order(message).await }
        })
        .await;
    match answer {
        Ok(response) => Ok(response.into_inner().order.unwrap_or_default()),
        Err(error) => Err(ImportResult::from_error(&error)),
    }
}

/// The first difference of the existing order from the request.
fn difference(request: &PlaceOrderRequest, order: &Order) -> Option<String> {
    if request.patient_id != order.patient_id {
        return Some(format!("patient `{}`", order.patient_id));
    }
    if request.lines.len() != order.lines.len() {
        return Some(format!("{} lines", order.lines.len()));
    }
    let mut pairs = request.lines.iter().zip(&order.lines);
    let differs = pairs.find(|(requested, existing)| {
        (requested.code.as_str(), &requested.quantity, &requested.amount)
            != (existing.code.as_str(), &existing.quantity, &existing.amount)
    });
    if let Some((_, existing)) = differs {
        return Some(format!("another line {} ({})", existing.number, existing.code));
    }
    let share = request.patient_share.is_some() && request.patient_share != order.patient_share;
    share.then(|| "another patient share".to_owned())
}

fn is_already_placed(status: &tonic::Status) -> bool {
    status.code() == Code::AlreadyExists || reason(status).as_deref() == Some("IDEMPOTENCY_KEY_REUSED")
}

impl ImportResult {
    fn from_order(order: &Order, outcome: Outcome) -> ImportResult {
        match order.state() {
            OrderState::Rejected | OrderState::Expired | OrderState::Cancelled => ImportResult {
                outcome: Outcome::Refused,
                gross: None,
                reason: failure(order),
            },
            _ => ImportResult::accepted(order, outcome),
        }
    }

    fn accepted(order: &Order, outcome: Outcome) -> ImportResult {
        let gross = order.gross.as_ref().and_then(|gross| Money::try_from(gross).ok());
        ImportResult {
            outcome,
            gross,
            reason: String::new(),
        }
    }

    pub(crate) fn from_error(error: &CallError) -> ImportResult {
        let (outcome, status) = match error {
            CallError::Refused(status) => (Outcome::Refused, status),
            CallError::Undecided(status) => (Outcome::Undecided, status),
        };
        ImportResult {
            outcome,
            gross: None,
            reason: one_line(status),
        }
    }
}

fn failure(order: &Order) -> String {
    let Some(failure) = &order.failure else {
        return order.state().as_str_name().to_owned();
    };
    let mut text = format!("{}: {}", failure.reason, failure.message);
    for violation in &failure.violations {
        text.push_str(&format!("; {}: {}", violation.field, violation.description));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order_in_state(state: OrderState, reason: &str) -> Order {
        let failure = proto::order::v1::OrderFailure {
            reason: reason.to_owned(),
            ..Default::default()
        };
        Order {
            state: state.into(),
            failure: Some(failure),
            ..Order::default()
        }
    }

    #[test]
    fn an_expired_order_is_placed_again_once_there_is_a_card() {
        let expired = order_in_state(OrderState::Expired, "PAYMENT_WINDOW_PASSED");
        let card = PlaceOrderRequest {
            payment_method: "tok_visa".to_owned(),
            ..PlaceOrderRequest::default()
        };
        assert!(is_worth_retrying(&expired, &card, false));
        assert!(!is_worth_retrying(&expired, &PlaceOrderRequest::default(), true));
        let declined = order_in_state(OrderState::Rejected, "CARD_DECLINED");
        assert!(!is_worth_retrying(&declined, &card, false) && is_worth_retrying(&declined, &card, true));
        assert!(!is_worth_retrying(
            &order_in_state(OrderState::Cancelled, ""),
            &card,
            true
        ));
    }
}
