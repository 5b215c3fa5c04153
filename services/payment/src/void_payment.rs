//! Lets an uncaptured payment go, at whatever point it is. One that never arrived leaves a tombstone.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    conduct::{Begun, Command, conduct},
    desk::{Answer, Desk, Request},
    error::Error,
    operation::{Kind, Operation},
    payment::{Payment, Purpose, Refusal, State},
    publish,
    store::{self, operations},
};

#[derive(Clone, Debug)]
pub struct VoidPayment {
    pub order_id: Uuid,
    pub purpose: Purpose,
    pub reason: String,
}

pub async fn void_payment(desk: &Desk, request: &Request, command: &VoidPayment) -> Result<Answer, Error> {
    conduct(desk, request, command).await
}

impl Command for VoidPayment {
    async fn begin(
        &self,
        desk: &Desk,
        conn: &mut PgConnection,
        request: &Request,
        operation_id: Uuid,
    ) -> Result<Begun, Error> {
        let Some(mut payment) = store::lock_of(conn, self.order_id, self.purpose).await? else {
            let mut tombstone = Payment::tombstone(self.order_id, self.purpose);
            if !store::insert(conn, request.facility.as_str(), &mut tombstone).await? {
                return Err(Error::LostRace);
            }
            return Ok(Begun::Done(tombstone));
        };
        let open = operations::open_of(conn, payment.id).await?;
        let authorization = match (payment.state, open) {
            (State::Voided | State::Expired, _) => return Ok(Begun::Done(payment)),
            (State::Captured, _) => return Err(Refusal::State(payment.state).into()),
            (State::Created | State::Declined, _) => {
                payment.voided()?;
                store::save(conn, &mut payment).await?;
                let event = publish::voided(&payment, &self.reason);
                publish::append(
                    conn,
                    &request.facility,
                    &payment,
                    request.key.request_id(),
                    &event,
                )
                .await?;
                return Ok(Begun::Done(payment));
            }
            // Whether the authorization has arrived or not, the processor is told to let go of it.
            (State::Authorizing | State::Unknown, Some(mut open)) if open.kind == Kind::Authorize => {
                open.abandon();
                operations::close(conn, &open).await?;
                Some(open.id)
            }
            (State::Authorizing | State::Unknown | State::Authorized, Some(_)) => return Err(Error::Busy),
            (State::Authorizing | State::Unknown, None) => None,
            (State::Authorized, None) => operations::authorization_of(conn, payment.id).await?,
        };
        let authorization = authorization.ok_or(Error::Orphan(payment.id))?;
        let amount = payment.money(payment.due()).ok_or(Error::Orphan(payment.id))?;
        let operation = Operation {
            request_id: request.key.request_id(),
            reason: self.reason.clone(),
            ..Operation::following(operation_id, Kind::Void, payment.id, authorization, amount)
        };
        desk.open(conn, request, &operation).await?;
        Ok(Begun::Wanted(operation))
    }
}
