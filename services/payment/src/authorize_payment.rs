//! Sets the amount of a payment aside on a payment method, or only creates the payment that waits for one.

use money::Money;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    conduct::{Begun, Command, conduct},
    desk::{Answer, Desk, Request},
    error::Error,
    operation::Operation,
    payment::{Payment, Purpose, Refusal, State},
    store,
};

#[derive(Clone, Debug)]
pub struct AuthorizePayment {
    pub order_id: Uuid,
    pub purpose: Purpose,
    pub amount: Money,
    /// Empty: only create the payment.
    pub method: String,
}

pub async fn authorize_payment(
    desk: &Desk,
    request: &Request,
    command: &AuthorizePayment,
) -> Result<Answer, Error> {
    if !command.amount.is_positive() {
        return Err(Error::Invalid {
            field: "amount",
            problem: "must be above zero".to_owned(),
        });
    }
    conduct(desk, request, command).await
}

impl Command for AuthorizePayment {
    async fn begin(
        &self,
        desk: &Desk,
        conn: &mut PgConnection,
        request: &Request,
        operation_id: Uuid,
    ) -> Result<Begun, Error> {
        match store::lock_of(conn, self.order_id, self.purpose).await? {
            Some(payment) => self.try_again(desk, conn, request, operation_id, payment).await,
            None => self.create(desk, conn, request, operation_id).await,
        }
    }
}

impl AuthorizePayment {
    async fn create(
        &self,
        desk: &Desk,
        conn: &mut PgConnection,
        request: &Request,
        operation_id: Uuid,
    ) -> Result<Begun, Error> {
        let mut payment = Payment::new(self.order_id, self.purpose, self.amount);
        if !self.method.is_empty() {
            payment.authorizing(&self.method, None)?;
        }
        if !store::insert(conn, request.facility.as_str(), &mut payment).await? {
            return Err(Error::LostRace);
        }
        if payment.state == State::Created {
            return Ok(Begun::Done(payment));
        }
        let operation = Operation::authorize(operation_id, &payment, self.amount, request.key.request_id());
        desk.open(conn, request, &operation).await?;
        Ok(Begun::Wanted(operation))
    }

    /// The payment exists, from another request: another method may be tried after a decline.
    async fn try_again(
        &self,
        desk: &Desk,
        conn: &mut PgConnection,
        request: &Request,
        operation_id: Uuid,
        mut payment: Payment,
    ) -> Result<Begun, Error> {
        if self.method.is_empty() && matches!(payment.state, State::Created | State::Declined) {
            return Err(Refusal::Exists(payment.state).into());
        }
        let due = payment.authorizing(&self.method, Some(self.amount))?;
        if store::operations::open_of(conn, payment.id).await?.is_some() {
            return Err(Error::Busy);
        }
        store::save(conn, &mut payment).await?;
        let operation = Operation::authorize(operation_id, &payment, due, request.key.request_id());
        desk.open(conn, request, &operation).await?;
        Ok(Begun::Wanted(operation))
    }
}
