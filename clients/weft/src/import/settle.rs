//! From the first answer about an order to its outcome.

use std::time::{Duration, Instant};

use money::Money;
use proto::order::v1::{GetOrderRequest, Order, OrderState, PlaceOrderRequest};
use tonic::Code;
use uuid::Uuid;

use super::{
    caller::{Caller, NoAnswer},
    orders::Orders,
    report::Outcome,
    was_given_before,
};
use crate::failure::{in_a_line, reason};

/// What became of an order.
pub(crate) struct Settled {
    pub(crate) outcome: Outcome,
    /// The price as the service has it; `None` when it has none.
    pub(crate) gross: Option<Money>,
    /// Empty when it was taken.
    pub(crate) reason: String,
}

/// How often an order that came to nothing is placed anew.
const MOST_ATTEMPTS: usize = 5;

/// Places an order and waits until it is fulfilled or given up. One that exists already is compared. An order
/// that came to nothing is placed anew where that may end better: the processor had not answered, nobody had paid in time,
/// or the request is another one now, with another card. Its name follows from the order before it, so that a repeated import goes the
/// same way.
pub(crate) async fn place(orders: &Orders, mut request: PlaceOrderRequest) -> Settled {
    for _ in 1..MOST_ATTEMPTS {
        let attempt = attempt(orders, &request).await;
        let Some(order_id) = attempt.worth_another else {
            return attempt.settled;
        };
        let name = Uuid::parse_str(&request.request_id).unwrap_or_default();
        request.request_id = Uuid::new_v5(&name, order_id.as_bytes()).to_string();
    }
    attempt(orders, &request).await.settled
}

struct Attempt {
    settled: Settled,
    /// The order that came to nothing, if another one may end better.
    worth_another: Option<String>,
}

async fn attempt(orders: &Orders, request: &PlaceOrderRequest) -> Attempt {
    let caller = &orders.caller;
    let answer = orders.place(request).await;
    let mut changed = false;
    let found = match answer {
        Ok(response) => {
            let outcome = match was_given_before(&response) {
                true => Outcome::Unchanged,
                false => Outcome::New,
            };
            Ok((response.into_inner().order.unwrap_or_default(), outcome))
        }
        Err(NoAnswer::Refused(status)) if exists(&status) => {
            changed = reason(&status).as_deref() == Some("IDEMPOTENCY_KEY_REUSED");
            existing(caller, request)
                .await
                .map(|order| (order, Outcome::Unchanged))
        }
        Err(no_answer) => Err(Settled::not(&no_answer)),
    };
    let ended = match found {
        Ok((order, outcome)) if request.validate_only => {
            return Attempt::last(Settled::accepted(&order, outcome));
        }
        Ok((order, outcome)) => finished(caller, order).await.map(|order| (order, outcome)),
        Err(settled) => Err(settled),
    };
    match ended {
        Ok((order, outcome)) => Attempt {
            worth_another: may_end_better(&order, request, changed).then(|| order.id.clone()),
            settled: Settled::of(&order, outcome),
        },
        Err(settled) => Attempt::last(settled),
    }
}

/// Whether an order that came to nothing may come to something when it is placed anew: the processor had not answered,
/// the request is another one now, or nobody had paid in time and now somebody does.
fn may_end_better(order: &Order, request: &PlaceOrderRequest, changed: bool) -> bool {
    let reason = order.failure.as_ref().map(|failure| failure.reason.as_str());
    let timed_out = matches!(reason, Some("PROCESSOR_TIMEOUT" | "PROCESSOR_UNREACHABLE"));
    match order.state() {
        OrderState::Rejected => timed_out || changed,
        OrderState::Expired => !request.payment_method.is_empty(),
        _ => false,
    }
}

impl Attempt {
    fn last(settled: Settled) -> Attempt {
        Attempt {
            settled,
            worth_another: None,
        }
    }
}

/// Reads the order again until nothing more happens to it by itself.
async fn finished(caller: &Caller, mut order: Order) -> Result<Order, Settled> {
    let mut wait = Duration::from_millis(20);
    let mut changed = Instant::now();
    while matches!(
        order.state(),
        OrderState::Pending | OrderState::Confirmed | OrderState::Cancelling
    ) {
        if changed.elapsed() > caller.retry_for {
            let state = order.state().as_str_name();
            return Err(Settled {
                outcome: Outcome::Undecided,
                gross: None,
                reason: format!("STILL_GOING_ON: {state}; weft saga show {}", order.saga_id),
            });
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
        let again = read(
            caller,
            GetOrderRequest {
                id: order.id.clone(),
                reference: String::new(),
            },
        )
        .await?;
        if again.version != order.version {
            (changed, wait) = (Instant::now(), Duration::from_millis(20));
        }
        order = again;
    }
    Ok(order)
}

/// The order that stands in the way of this one, if it is the same.
async fn existing(caller: &Caller, request: &PlaceOrderRequest) -> Result<Order, Settled> {
    let order = read(
        caller,
        GetOrderRequest {
            id: String::new(),
            reference: request.reference.clone(),
        },
    )
    .await?;
    match difference(request, &order) {
        None => Ok(order),
        Some(difference) => Err(Settled {
            outcome: Outcome::Refused,
            gross: None,
            reason: format!("DIFFERS: order {} exists already with {difference}", order.id),
        }),
    }
}

async fn read(caller: &Caller, request: GetOrderRequest) -> Result<Order, Settled> {
    let answer = caller
        .call(request, |message| {
            let mut client = caller.clients.order();
            async move { client.get_order(message).await }
        })
        .await;
    match answer {
        Ok(response) => Ok(response.into_inner().order.unwrap_or_default()),
        Err(no_answer) => Err(Settled::not(&no_answer)),
    }
}

/// What the file says otherwise than the order that exists.
fn difference(request: &PlaceOrderRequest, order: &Order) -> Option<String> {
    if request.patient_id != order.patient_id {
        return Some(format!("patient `{}`", order.patient_id));
    }
    if request.lines.len() != order.lines.len() {
        return Some(format!("{} lines", order.lines.len()));
    }
    let mut pairs = request.lines.iter().zip(&order.lines);
    let differs = pairs.find(|(asked, has)| {
        (asked.code.as_str(), &asked.quantity, &asked.amount)
            != (has.code.as_str(), &has.quantity, &has.amount)
    });
    if let Some((_, has)) = differs {
        return Some(format!("another line {} ({})", has.number, has.code));
    }
    let share = request.patient_share.is_some() && request.patient_share != order.patient_share;
    share.then(|| "another patient share".to_owned())
}

fn exists(status: &tonic::Status) -> bool {
    status.code() == Code::AlreadyExists || reason(status).as_deref() == Some("IDEMPOTENCY_KEY_REUSED")
}

impl Settled {
    fn of(order: &Order, outcome: Outcome) -> Settled {
        match order.state() {
            OrderState::Rejected | OrderState::Expired | OrderState::Cancelled => Settled {
                outcome: Outcome::Refused,
                gross: None,
                reason: failure(order),
            },
            _ => Settled::accepted(order, outcome),
        }
    }

    fn accepted(order: &Order, outcome: Outcome) -> Settled {
        let gross = order.gross.as_ref().and_then(|gross| Money::try_from(gross).ok());
        Settled {
            outcome,
            gross,
            reason: String::new(),
        }
    }

    pub(crate) fn not(no_answer: &NoAnswer) -> Settled {
        let (outcome, status) = match no_answer {
            NoAnswer::Refused(status) => (Outcome::Refused, status),
            NoAnswer::Undecided(status) => (Outcome::Undecided, status),
        };
        Settled {
            outcome,
            gross: None,
            reason: in_a_line(status),
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

    fn ended(state: OrderState, reason: &str) -> Order {
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
    fn an_order_that_nobody_paid_is_placed_anew_once_there_is_a_card() {
        let expired = ended(OrderState::Expired, "PAYMENT_WINDOW_PASSED");
        let card = PlaceOrderRequest {
            payment_method: "tok_visa".to_owned(),
            ..PlaceOrderRequest::default()
        };
        assert!(may_end_better(&expired, &card, false));
        assert!(!may_end_better(&expired, &PlaceOrderRequest::default(), true));
        let declined = ended(OrderState::Rejected, "CARD_DECLINED");
        assert!(!may_end_better(&declined, &card, false) && may_end_better(&declined, &card, true));
        assert!(!may_end_better(&ended(OrderState::Cancelled, ""), &card, true));
    }
}
