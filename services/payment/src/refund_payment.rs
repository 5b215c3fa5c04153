//! Refunds a captured amount or a part of it.

use money::Money;
use uuid::Uuid;

use crate::{
    app::App,
    changes::Changes,
    command::{Command, PaymentSnapshot, PendingCommand},
    error::Error,
    execute,
    operation::{Kind, Operation},
    request::Request,
    response::Response,
    store::locks::Target,
};

#[derive(Clone, Debug)]
pub struct RefundPayment {
    pub id: Uuid,
    /// `None` refunds all that is left.
    pub amount: Option<Money>,
    pub reason: String,
}

pub async fn execute(app: &App, request: &Request, command: RefundPayment) -> Result<Response, Error> {
    if command.amount.is_some_and(|amount| !amount.is_positive()) {
        return Err(Error::Invalid {
            field: "amount",
            problem: "must be above zero".to_owned(),
        });
    }
    execute::run(app, request, command).await
}

impl Command for RefundPayment {
    fn target(&self) -> Target {
        Target::Payment(self.id)
    }

    fn decide(&self, found: Vec<PaymentSnapshot>, pending: &PendingCommand) -> Result<Changes, Error> {
        let found = found.into_iter().next();
        let found = found.ok_or_else(|| Error::NotFound(self.id.to_string()))?;
        found.ensure_idle()?;
        let amount = found.payment.amount_to_refund(self.amount)?;
        let charge = found
            .operations
            .charge
            .ok_or(Error::Inconsistent(found.payment.id))?;
        // What exceeds this charge is refunded from the other charges, one after the other.
        let part = Money::new(amount.minor().min(charge.left), amount.currency());
        let operation = Operation {
            request_id: pending.request_id(),
            reason: self.reason.clone(),
            remaining: amount.minor() - part.minor(),
            ..Operation::on_authorization(
                pending.operation_id,
                Kind::Refund,
                found.payment.id,
                charge.authorization_id,
                part,
            )
        };
        let mut changes = Changes::new(&pending.request.facility, found.payment);
        changes.payment.increment_version();
        changes.save(found.now);
        pending.open(&mut changes, operation);
        Ok(changes)
    }
}
