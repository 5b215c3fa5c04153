//! Gives captured money back, in parts if wished.

use money::Money;
use uuid::Uuid;

use crate::{
    changes::Changes,
    command::{Command, Found, Intent},
    conduct::conduct,
    desk::{Answer, Desk, Request},
    error::Error,
    operation::{Kind, Operation},
    store::locks::Target,
};

#[derive(Clone, Debug)]
pub struct RefundPayment {
    pub id: Uuid,
    /// All that is left when none is given.
    pub amount: Option<Money>,
    pub reason: String,
}

pub async fn refund_payment(desk: &Desk, request: &Request, command: RefundPayment) -> Result<Answer, Error> {
    if command.amount.is_some_and(|amount| !amount.is_positive()) {
        return Err(Error::Invalid {
            field: "amount",
            problem: "must be above zero".to_owned(),
        });
    }
    conduct(desk, request, command).await
}

impl Command for RefundPayment {
    fn target(&self) -> Target {
        Target::Payment(self.id)
    }

    fn decide(&self, found: Vec<Found>, intent: &Intent) -> Result<Changes, Error> {
        let found = found.into_iter().next();
        let found = found.ok_or_else(|| Error::NotFound(self.id.to_string()))?;
        found.idle()?;
        let amount = found.payment.refundable_amount(self.amount)?;
        let charge = found.standing.charge.ok_or(Error::Orphan(found.payment.id))?;
        // What one charge is too small for is given back of the others, one after the other.
        let part = Money::new(amount.minor().min(charge.left), amount.currency());
        let operation = Operation {
            request_id: intent.request_id(),
            reason: self.reason.clone(),
            remaining: amount.minor() - part.minor(),
            ..Operation::following(
                intent.operation_id,
                Kind::Refund,
                found.payment.id,
                charge.authorization_id,
                part,
            )
        };
        let mut changes = Changes::none(&intent.request.facility, found.payment);
        changes.payment.touch();
        changes.save(found.now);
        intent.open(&mut changes, operation);
        Ok(changes)
    }
}
