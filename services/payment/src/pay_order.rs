//! Authorizes the payment of an order that waits for a payment method: the patient's share, or the balance that
//! the payer has denied.

use uuid::Uuid;

use crate::{
    app::App,
    changes::Changes,
    command::{Command, PaymentSnapshot, PendingCommand},
    error::Error,
    execute,
    operation::Operation,
    payment::{Purpose, State},
    request::Request,
    response::Response,
    store::locks::Target,
};

#[derive(Clone, Debug)]
pub struct PayOrder {
    pub order_id: Uuid,
    pub method: String,
}

pub async fn execute(app: &App, request: &Request, command: PayOrder) -> Result<Response, Error> {
    execute::run(app, request, command).await
}

impl Command for PayOrder {
    fn target(&self) -> Target {
        Target::Order(self.order_id)
    }

    fn decide(&self, found: Vec<PaymentSnapshot>, pending: &PendingCommand) -> Result<Changes, Error> {
        let mut found = self.find_waiting(found)?;
        let due = found.payment.begin_authorization(&self.method, None)?;
        found.ensure_idle()?;
        let operation = Operation {
            // The share is captured when the order is fulfilled; nothing captures a balance later.
            then_capture: found.payment.purpose == Purpose::Balance,
            ..Operation::authorize(pending.operation_id, &found.payment, due, pending.request_id())
        };
        let mut changes = Changes::new(&pending.request.facility, found.payment);
        changes.save(found.now);
        pending.open(&mut changes, operation);
        Ok(changes)
    }
}

impl PayOrder {
    /// The payment that waits for a payment method. The balance cannot be due before the share.
    fn find_waiting(&self, mut found: Vec<PaymentSnapshot>) -> Result<PaymentSnapshot, Error> {
        found.sort_by_key(|found| found.payment.purpose == Purpose::Balance);
        let waits = |found: &PaymentSnapshot| {
            matches!(found.payment.state, State::Created | State::Declined) && found.payment.due() > 0
        };
        let latest = found.last().map(|found| found.payment.state);
        found.into_iter().find(waits).ok_or_else(|| match latest {
            Some(state) => Error::NothingDue(state),
            None => Error::NotFound(format!("of order {}", self.order_id)),
        })
    }
}
