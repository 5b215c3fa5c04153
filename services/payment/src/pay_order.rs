//! Pays what waits for a payment method: the share of an unpaid order, or the balance that the payer left.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    conduct::{Begun, Command, conduct},
    desk::{Answer, Desk, Request},
    error::Error,
    operation::Operation,
    payment::{Payment, Purpose, State},
    store,
};

#[derive(Clone, Debug)]
pub struct PayOrder {
    pub order_id: Uuid,
    pub method: String,
}

pub async fn pay_order(desk: &Desk, request: &Request, command: &PayOrder) -> Result<Answer, Error> {
    conduct(desk, request, command).await
}

impl Command for PayOrder {
    async fn begin(
        &self,
        desk: &Desk,
        conn: &mut PgConnection,
        request: &Request,
        operation_id: Uuid,
    ) -> Result<Begun, Error> {
        let mut payment = self.waiting(conn).await?;
        let due = payment.authorizing(&self.method, None)?;
        if store::operations::open_of(conn, payment.id).await?.is_some() {
            return Err(Error::Busy);
        }
        store::save(conn, &mut payment).await?;
        let operation = Operation {
            // Nobody else comes to capture a balance; the share is captured when the order is fulfilled.
            then_capture: payment.purpose == Purpose::Balance,
            ..Operation::authorize(operation_id, &payment, due, request.key.request_id())
        };
        desk.open(conn, request, &operation).await?;
        Ok(Begun::Wanted(operation))
    }
}

impl PayOrder {
    /// The payment that waits; the balance comes after the share and cannot be due before it.
    async fn waiting(&self, conn: &mut PgConnection) -> Result<Payment, Error> {
        let mut latest = None;
        for purpose in [Purpose::Share, Purpose::Balance] {
            match store::lock_of(conn, self.order_id, purpose).await? {
                Some(payment)
                    if matches!(payment.state, State::Created | State::Declined) && payment.due() > 0 =>
                {
                    return Ok(payment);
                }
                found => latest = found.or(latest),
            }
        }
        Err(latest.map_or_else(
            || Error::NotFound(format!("of order {}", self.order_id)),
            |payment| Error::NothingDue(payment.state),
        ))
    }
}
