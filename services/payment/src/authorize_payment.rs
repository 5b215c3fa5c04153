//! Authorizes the amount of a payment on a payment method, or only creates the payment, which then waits for one.

use money::Money;
use uuid::Uuid;

use crate::{
    app::App,
    changes::Changes,
    command::{Command, PaymentSnapshot, PendingCommand},
    error::Error,
    execute,
    operation::Operation,
    payment::{Payment, Purpose, Refusal, State},
    request::Request,
    response::Response,
    store::locks::Target,
};

#[derive(Clone, Debug)]
pub struct AuthorizePayment {
    pub order_id: Uuid,
    pub purpose: Purpose,
    pub amount: Money,
    /// The payment method's token. If it is empty, the payment is only created.
    pub method: String,
    /// Capture the amount as soon as it is authorized.
    pub capture: bool,
}

pub async fn execute(app: &App, request: &Request, command: AuthorizePayment) -> Result<Response, Error> {
    if !command.amount.is_positive() {
        return Err(Error::Invalid {
            field: "amount",
            problem: "must be above zero".to_owned(),
        });
    }
    if command.capture && command.method.is_empty() {
        return Err(Error::Invalid {
            field: "capture",
            problem: "needs a payment method".to_owned(),
        });
    }
    execute::run(app, request, command).await
}

impl Command for AuthorizePayment {
    fn target(&self) -> Target {
        Target::OrderPurpose(self.order_id, self.purpose)
    }

    fn new_payment(&self) -> Result<Option<Payment>, Error> {
        let mut payment = Payment::new(self.order_id, self.purpose, self.amount);
        if !self.method.is_empty() {
            payment.begin_authorization(&self.method, None)?;
        }
        Ok(Some(payment))
    }

    fn created(&self, payment: Payment, pending: &PendingCommand) -> Changes {
        let mut changes = Changes::new(&pending.request.facility, payment);
        if changes.payment.state == State::Authorizing {
            let operation = self.operation(&changes.payment, self.amount, pending);
            pending.open(&mut changes, operation);
        }
        changes
    }

    /// Another request has created the payment. After a decline another method may be tried.
    fn decide(&self, found: Vec<PaymentSnapshot>, pending: &PendingCommand) -> Result<Changes, Error> {
        let mut found = found.into_iter().next().ok_or(Error::LostRace)?;
        if self.method.is_empty() && matches!(found.payment.state, State::Created | State::Declined) {
            return Err(Refusal::Exists(found.payment.state).into());
        }
        let due = found
            .payment
            .begin_authorization(&self.method, Some(self.amount))?;
        found.ensure_idle()?;
        let operation = self.operation(&found.payment, due, pending);
        let mut changes = Changes::new(&pending.request.facility, found.payment);
        changes.save(found.now);
        pending.open(&mut changes, operation);
        Ok(changes)
    }
}

impl AuthorizePayment {
    fn operation(&self, payment: &Payment, amount: Money, pending: &PendingCommand) -> Operation {
        Operation {
            then_capture: self.capture,
            ..Operation::authorize(pending.operation_id, payment, amount, pending.request_id())
        }
    }
}
