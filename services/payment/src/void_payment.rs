//! Lets an uncaptured payment go, at whatever point it is. One that never arrived leaves a tombstone.

use uuid::Uuid;

use crate::{
    changes::Changes,
    command::{Command, Found, Intent},
    conduct::conduct,
    desk::{Answer, Desk, Request},
    error::Error,
    operation::{Kind, Operation},
    payment::{Payment, Purpose, Refusal, State},
    publish,
    store::{locks::Target, updates::Update},
};

#[derive(Clone, Debug)]
pub struct VoidPayment {
    pub order_id: Uuid,
    pub purpose: Purpose,
    pub reason: String,
}

pub async fn void_payment(desk: &Desk, request: &Request, command: VoidPayment) -> Result<Answer, Error> {
    conduct(desk, request, command).await
}

impl Command for VoidPayment {
    fn target(&self) -> Target {
        Target::Of(self.order_id, self.purpose)
    }

    fn new_payment(&self) -> Result<Option<Payment>, Error> {
        Ok(Some(Payment::tombstone(self.order_id, self.purpose)))
    }

    fn decide(&self, found: Vec<Found>, intent: &Intent) -> Result<Changes, Error> {
        let Found {
            payment,
            standing,
            now,
        } = found.into_iter().next().ok_or(Error::LostRace)?;
        let mut changes = Changes::none(&intent.request.facility, payment);
        let state = changes.payment.state;
        let authorization = match (state, standing.open) {
            (State::Voided | State::Expired, _) => return Ok(changes),
            (State::Captured, _) => return Err(Refusal::State(state).into()),
            (State::Created | State::Declined, _) => {
                changes.payment.voided()?;
                changes.save(now);
                let event = publish::voided(&changes.payment, &self.reason);
                changes.tell(intent.request_id(), &event);
                return Ok(changes);
            }
            // Whether the authorization has arrived or not, the processor is told to let go of it.
            (State::Authorizing | State::Unknown, Some((open, Kind::Authorize))) => {
                changes.operations.push(Update::abandoned(open));
                Some(open)
            }
            (State::Authorizing | State::Unknown | State::Authorized, Some(_)) => return Err(Error::Busy),
            (State::Authorizing | State::Unknown, None) => None,
            (State::Authorized, None) => standing.authorization,
        };
        let id = changes.payment.id;
        let authorization = authorization.ok_or(Error::Orphan(id))?;
        let due = changes.payment.money(changes.payment.due());
        let amount = due.ok_or(Error::Orphan(id))?;
        let operation = Operation {
            request_id: intent.request_id(),
            reason: self.reason.clone(),
            ..Operation::following(intent.operation_id, Kind::Void, id, authorization, amount)
        };
        intent.open(&mut changes, operation);
        Ok(changes)
    }
}
