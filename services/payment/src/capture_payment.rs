//! Captures an authorized amount or a part of it.

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
pub struct CapturePayment {
    pub id: Uuid,
    /// `None` captures all that was authorized.
    pub amount: Option<Money>,
}

pub async fn execute(app: &App, request: &Request, command: CapturePayment) -> Result<Response, Error> {
    if command.amount.is_some_and(|amount| !amount.is_positive()) {
        return Err(Error::Invalid {
            field: "amount",
            problem: "must be above zero".to_owned(),
        });
    }
    execute::run(app, request, command).await
}

impl Command for CapturePayment {
    fn target(&self) -> Target {
        Target::Payment(self.id)
    }

    fn decide(&self, found: Vec<PaymentSnapshot>, pending: &PendingCommand) -> Result<Changes, Error> {
        let found = found.into_iter().next();
        let found = found.ok_or_else(|| Error::NotFound(self.id.to_string()))?;
        let amount = found.payment.amount_to_capture(self.amount)?;
        found.ensure_idle()?;
        let authorization = found.operations.authorization;
        let authorization = authorization.ok_or(Error::Inconsistent(found.payment.id))?;
        let operation = Operation {
            request_id: pending.request_id(),
            ..Operation::on_authorization(
                pending.operation_id,
                Kind::Capture,
                found.payment.id,
                authorization,
                amount,
            )
        };
        let mut changes = Changes::new(&pending.request.facility, found.payment);
        pending.open(&mut changes, operation);
        Ok(changes)
    }
}
