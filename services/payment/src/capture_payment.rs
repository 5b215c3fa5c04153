//! Takes an authorized amount or a part of it.

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
pub struct CapturePayment {
    pub id: Uuid,
    /// All that was authorized when none is given.
    pub amount: Option<Money>,
}

pub async fn capture_payment(
    desk: &Desk,
    request: &Request,
    command: CapturePayment,
) -> Result<Answer, Error> {
    if command.amount.is_some_and(|amount| !amount.is_positive()) {
        return Err(Error::Invalid {
            field: "amount",
            problem: "must be above zero".to_owned(),
        });
    }
    conduct(desk, request, command).await
}

impl Command for CapturePayment {
    fn target(&self) -> Target {
        Target::Payment(self.id)
    }

    fn decide(&self, found: Vec<Found>, intent: &Intent) -> Result<Changes, Error> {
        let found = found.into_iter().next();
        let found = found.ok_or_else(|| Error::NotFound(self.id.to_string()))?;
        let amount = found.payment.capturable(self.amount)?;
        found.idle()?;
        let authorization = found.standing.authorization;
        let authorization = authorization.ok_or(Error::Orphan(found.payment.id))?;
        let operation = Operation {
            request_id: intent.request_id(),
            ..Operation::following(
                intent.operation_id,
                Kind::Capture,
                found.payment.id,
                authorization,
                amount,
            )
        };
        let mut changes = Changes::none(&intent.request.facility, found.payment);
        intent.open(&mut changes, operation);
        Ok(changes)
    }
}
