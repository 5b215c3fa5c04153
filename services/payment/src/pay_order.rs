//! Pays what waits for a payment method: the share of an unpaid order, or the balance that the payer left.

use uuid::Uuid;

use crate::{
    changes::Changes,
    command::{Command, Found, Intent},
    conduct::conduct,
    desk::{Answer, Desk, Request},
    error::Error,
    operation::Operation,
    payment::{Purpose, State},
    store::locks::Target,
};

#[derive(Clone, Debug)]
pub struct PayOrder {
    pub order_id: Uuid,
    pub method: String,
}

pub async fn pay_order(desk: &Desk, request: &Request, command: PayOrder) -> Result<Answer, Error> {
    conduct(desk, request, command).await
}

impl Command for PayOrder {
    fn target(&self) -> Target {
        Target::Order(self.order_id)
    }

    fn decide(&self, found: Vec<Found>, intent: &Intent) -> Result<Changes, Error> {
        let mut found = self.waiting(found)?;
        let due = found.payment.authorizing(&self.method, None)?;
        found.idle()?;
        let operation = Operation {
            // Nobody else comes to capture a balance; the share is captured when the order is fulfilled.
            then_capture: found.payment.purpose == Purpose::Balance,
            ..Operation::authorize(intent.operation_id, &found.payment, due, intent.request_id())
        };
        let mut changes = Changes::none(&intent.request.facility, found.payment);
        changes.save(found.now);
        intent.open(&mut changes, operation);
        Ok(changes)
    }
}

impl PayOrder {
    /// The payment that waits; the balance comes after the share and cannot be due before it.
    fn waiting(&self, mut found: Vec<Found>) -> Result<Found, Error> {
        found.sort_by_key(|found| found.payment.purpose == Purpose::Balance);
        let waits = |found: &Found| {
            matches!(found.payment.state, State::Created | State::Declined) && found.payment.due() > 0
        };
        let latest = found.last().map(|found| found.payment.state);
        found.into_iter().find(waits).ok_or_else(|| match latest {
            Some(state) => Error::NothingDue(state),
            None => Error::NotFound(format!("of order {}", self.order_id)),
        })
    }
}
