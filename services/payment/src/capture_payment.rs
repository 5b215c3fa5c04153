//! Takes an authorized amount or a part of it.

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
pub struct CapturePayment {
    pub id: Uuid,
    /// All that was authorized when none is given.
    pub amount: Option<Money>,
}

pub async fn capture_payment(
    desk: &Desk,
    request: &Request,
    command: &CapturePayment,
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
    async fn begin(
        &self,
        desk: &Desk,
        conn: &mut PgConnection,
        request: &Request,
        operation_id: Uuid,
    ) -> Result<Begun, Error> {
        let payment = store::lock(conn, self.id)
            .await?
            .ok_or_else(|| Error::NotFound(self.id.to_string()))?;
        let amount = payment.capturable(self.amount)?;
        if operations::open_of(conn, payment.id).await?.is_some() {
            return Err(Error::Busy);
        }
        let authorization = operations::authorization_of(conn, payment.id).await?;
        let authorization = authorization.ok_or(Error::Orphan(payment.id))?;
        let operation = Operation {
            request_id: request.key.request_id(),
            ..Operation::following(operation_id, Kind::Capture, payment.id, authorization, amount)
        };
        desk.open(conn, request, &operation).await?;
        Ok(Begun::Wanted(operation))
    }
}
