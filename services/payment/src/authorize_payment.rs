//! Sets the amount of a payment aside on a payment method, or only creates the payment that waits for one.

use money::Money;
use uuid::Uuid;

use crate::{
    changes::Changes,
    command::{Command, Found, Intent},
    conduct::conduct,
    desk::{Answer, Desk, Request},
    error::Error,
    operation::Operation,
    payment::{Payment, Purpose, Refusal, State},
    store::locks::Target,
};

#[derive(Clone, Debug)]
pub struct AuthorizePayment {
    pub order_id: Uuid,
    pub purpose: Purpose,
    pub amount: Money,
    /// Empty: only create the payment.
    pub method: String,
    /// Take the amount as soon as it is set aside.
    pub capture: bool,
}

pub async fn authorize_payment(
    desk: &Desk,
    request: &Request,
    command: AuthorizePayment,
) -> Result<Answer, Error> {
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
    conduct(desk, request, command).await
}

impl Command for AuthorizePayment {
    fn target(&self) -> Target {
        Target::Of(self.order_id, self.purpose)
    }

    fn new_payment(&self) -> Result<Option<Payment>, Error> {
        let mut payment = Payment::new(self.order_id, self.purpose, self.amount);
        if !self.method.is_empty() {
            payment.authorizing(&self.method, None)?;
        }
        Ok(Some(payment))
    }

    fn created(&self, payment: Payment, intent: &Intent) -> Changes {
        let mut changes = Changes::none(&intent.request.facility, payment);
        if changes.payment.state == State::Authorizing {
            let operation = self.operation(&changes.payment, self.amount, intent);
            intent.open(&mut changes, operation);
        }
        changes
    }

    /// The payment exists, from another request: another method may be tried after a decline.
    fn decide(&self, found: Vec<Found>, intent: &Intent) -> Result<Changes, Error> {
        let mut found = found.into_iter().next().ok_or(Error::LostRace)?;
        if self.method.is_empty() && matches!(found.payment.state, State::Created | State::Declined) {
            return Err(Refusal::Exists(found.payment.state).into());
        }
        let due = found.payment.authorizing(&self.method, Some(self.amount))?;
        found.idle()?;
        let operation = self.operation(&found.payment, due, intent);
        let mut changes = Changes::none(&intent.request.facility, found.payment);
        changes.save(found.now);
        intent.open(&mut changes, operation);
        Ok(changes)
    }
}

impl AuthorizePayment {
    fn operation(&self, payment: &Payment, amount: Money, intent: &Intent) -> Operation {
        Operation {
            then_capture: self.capture,
            ..Operation::authorize(intent.operation_id, payment, amount, intent.request_id())
        }
    }
}
