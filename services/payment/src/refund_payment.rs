//! Gives captured money back, in parts if wished.

use money::Money;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    conduct::{Begun, Command, conduct},
    desk::{Answer, Desk, Request},
    error::Error,
    operation::{Kind, Operation},
    store::{self, operations},
};

#[derive(Clone, Debug)]
pub struct RefundPayment {
    pub id: Uuid,
    /// All that is left when none is given.
    pub amount: Option<Money>,
    pub reason: String,
}

pub async fn refund_payment(
    desk: &Desk,
    request: &Request,
    command: &RefundPayment,
) -> Result<Answer, Error> {
    if command.amount.is_some_and(|amount| !amount.is_positive()) {
        return Err(Error::Invalid {
            field: "amount",
            problem: "must be above zero".to_owned(),
        });
    }
    conduct(desk, request, command).await
}

impl Command for RefundPayment {
    async fn begin(
        &self,
        desk: &Desk,
        conn: &mut PgConnection,
        request: &Request,
        operation_id: Uuid,
    ) -> Result<Begun, Error> {
        let found = store::lock(conn, self.id).await?;
        let mut payment = found.ok_or_else(|| Error::NotFound(self.id.to_string()))?;
        if operations::open_of(conn, payment.id).await?.is_some() {
            return Err(Error::Busy);
        }
        let amount = payment.refundable_amount(self.amount)?;
        let charge = operations::charge_of(conn, payment.id)
            .await?
            .ok_or(Error::Orphan(payment.id))?;
        // What one charge is too small for is given back of the others, one after the other.
        let part = Money::new(amount.minor().min(charge.left), amount.currency());
        let operation = Operation {
            request_id: request.key.request_id(),
            reason: self.reason.clone(),
            remaining: amount.minor() - part.minor(),
            ..Operation::following(
                operation_id,
                Kind::Refund,
                payment.id,
                charge.authorization_id,
                part,
            )
        };
        payment.touch();
        store::save(conn, &mut payment).await?;
        desk.open(conn, request, &operation).await?;
        operations::insert_refund(conn, request.facility.as_str(), &operation).await?;
        Ok(Begun::Wanted(operation))
    }
}
