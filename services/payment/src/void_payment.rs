//! Voids a payment in any state before its capture. If the payment does not exist yet, a tombstone is created.

use uuid::Uuid;

use crate::{
    app::App,
    changes::Changes,
    command::{Command, PaymentSnapshot, PendingCommand},
    error::Error,
    events, execute,
    operation::{Kind, Operation},
    payment::{Payment, Purpose, Refusal, State},
    request::Request,
    response::Response,
    store::{locks::Target, updates::Update},
};

#[derive(Clone, Debug)]
pub struct VoidPayment {
    pub order_id: Uuid,
    pub purpose: Purpose,
    pub reason: String,
}

pub async fn execute(app: &App, request: &Request, command: VoidPayment) -> Result<Response, Error> {
    execute::run(app, request, command).await
}

impl Command for VoidPayment {
    fn target(&self) -> Target {
        Target::OrderPurpose(self.order_id, self.purpose)
    }

    fn new_payment(&self) -> Result<Option<Payment>, Error> {
        Ok(Some(Payment::tombstone(self.order_id, self.purpose)))
    }

    fn decide(&self, found: Vec<PaymentSnapshot>, pending: &PendingCommand) -> Result<Changes, Error> {
        let PaymentSnapshot {
            payment,
            operations,
            now,
        } = found.into_iter().next().ok_or(Error::LostRace)?;
        let mut changes = Changes::new(&pending.request.facility, payment);
        let state = changes.payment.state;
        let authorization = match (state, operations.open) {
            (State::Voided | State::Expired, _) => return Ok(changes),
            (State::Captured, _) => return Err(Refusal::State(state).into()),
            (State::Created | State::Declined, _) => {
                changes.payment.void()?;
                changes.save(now);
                let event = events::voided(&changes.payment, &self.reason);
                changes.add_event(pending.request_id(), &event);
                return Ok(changes);
            }
            // The processor voids the authorization, whether it has arrived or not.
            (State::Authorizing | State::Unknown, Some((open, Kind::Authorize))) => {
                changes.operations.push(Update::abandoned(open));
                Some(open)
            }
            (State::Authorizing | State::Unknown | State::Authorized, Some(_)) => return Err(Error::Busy),
            (State::Authorizing | State::Unknown, None) => None,
            (State::Authorized, None) => operations.authorization,
        };
        let id = changes.payment.id;
        let authorization = authorization.ok_or(Error::Inconsistent(id))?;
        let due = changes.payment.money(changes.payment.due());
        let amount = due.ok_or(Error::Inconsistent(id))?;
        let operation = Operation {
            request_id: pending.request_id(),
            reason: self.reason.clone(),
            ..Operation::on_authorization(pending.operation_id, Kind::Void, id, authorization, amount)
        };
        pending.open(&mut changes, operation);
        Ok(changes)
    }
}
