//! The changes of one transaction to a payment and its operations, refunds, ledger and events. They are decided
//! without the database, and then written together with the changes of other payments.

use std::time::Duration;

use ::events::Event;
use chassis::{Facility, idempotency::Key};
use prost::{Message, Name};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::Error,
    events,
    ledger::{Booking, Transaction},
    operation::Operation,
    payment::Payment,
    store::{
        RefundState, ledger,
        operations::{self, NewOperation},
        updates::{self, Update},
    },
};

/// The changes to one payment, which the transaction has locked or inserted.
#[derive(Clone, Debug)]
pub struct Changes {
    pub(crate) facility: Facility,
    /// The payment after the changes.
    pub(crate) payment: Payment,
    /// Whether an amount was captured before the changes; only then can the payment have refunds.
    was_captured: bool,
    /// Whether the payment's row has to be written.
    is_saved: bool,
    pub(crate) operations: Vec<Update>,
    /// The operation that the processor has to execute next.
    pub(crate) opened: Option<NewOperation>,
    /// A follow-up operation that has ended already.
    ended: Option<NewOperation>,
    pub(crate) refund: Option<(Uuid, RefundState)>,
    booked: Option<Transaction>,
    pub(crate) events: Vec<Event>,
}

impl Changes {
    /// No changes yet.
    pub(crate) fn new(facility: &Facility, payment: Payment) -> Self {
        Self {
            facility: facility.clone(),
            was_captured: payment.captured > 0,
            payment,
            is_saved: false,
            operations: Vec::new(),
            opened: None,
            ended: None,
            refund: None,
            booked: None,
            events: Vec::new(),
        }
    }

    /// Marks the payment's row as changed, in a transaction of the time `now`.
    pub(crate) fn save(&mut self, now: OffsetDateTime) {
        self.is_saved = true;
        self.payment.updated_at = now;
    }

    /// The payment after the changes, and whether it may have refunds.
    pub(crate) fn response_payment(&self) -> (&Payment, bool) {
        (&self.payment, self.was_captured)
    }

    /// Opens `operation`, leased to this process for `lease`. `key` is set on the first operation of a request.
    pub(crate) fn open(&mut self, operation: Operation, lease: Duration, key: Option<&Key>) {
        self.opened = Some(NewOperation {
            operation,
            lease,
            key: key.cloned(),
        });
    }

    /// Inserts the follow-up `operation`, which has ended already.
    pub(crate) fn insert_ended(&mut self, operation: &Operation) {
        self.ended = Some(NewOperation {
            operation: operation.clone(),
            lease: Duration::ZERO,
            key: None,
        });
    }

    /// Adds to the captured and refunded amounts of an authorization.
    pub(crate) fn add_amounts(&mut self, authorization: Uuid, captured: i64, refunded: i64) {
        let existing = self
            .operations
            .iter_mut()
            .find(|update| update.id == authorization);
        match existing {
            Some(update) => {
                update.captured += captured;
                update.refunded += refunded;
            }
            None => self
                .operations
                .push(Update::amounts(authorization, captured, refunded)),
        }
    }

    /// Adds an event of the payment in its current state.
    pub(crate) fn add_event<M: Message + Name>(&mut self, causation_id: Uuid, message: &M) {
        let event = events::to_event(&self.facility, &self.payment, causation_id, message);
        self.events.push(event);
    }

    /// Sets the ledger transaction, if the booking has one.
    pub(crate) fn book(&mut self, booking: Booking) -> Result<(), Error> {
        self.booked = booking?;
        Ok(())
    }
}

/// Writes the changes to different payments, with one statement per table.
pub(crate) async fn write(conn: &mut PgConnection, changes: &[Changes]) -> Result<(), Error> {
    let saved: Vec<_> = changes
        .iter()
        .filter(|one| one.is_saved)
        .map(|one| (&one.facility, &one.payment))
        .collect();
    // A payment has at most one open operation, so an operation is reopened only after the one that replaced it
    // has ended.
    let (reopened, updates): (Vec<_>, Vec<_>) = changes
        .iter()
        .flat_map(|one| one.operations.iter().map(|update| (&one.facility, update)))
        .partition(|(_, update)| update.leaves_open());
    if !saved.is_empty() || !updates.is_empty() {
        updates::update(conn, &saved, &updates).await?;
    }
    if !reopened.is_empty() {
        updates::update(conn, &[], &reopened).await?;
    }
    let opened: Vec<_> = changes
        .iter()
        .flat_map(|one| {
            one.ended
                .iter()
                .chain(&one.opened)
                .map(|new| (&one.facility, new))
        })
        .collect();
    if !opened.is_empty() {
        operations::insert(conn, &opened).await?;
    }
    let refunds: Vec<_> = changes
        .iter()
        .filter_map(|one| one.refund.map(|(id, state)| (&one.facility, id, state)))
        .collect();
    if !refunds.is_empty() {
        updates::close_refunds(conn, &refunds).await?;
    }
    let booked: Vec<_> = changes
        .iter()
        .filter_map(|one| Some((&one.facility, one.booked.as_ref()?)))
        .collect();
    if !booked.is_empty() {
        ledger::book(conn, &booked).await?;
    }
    let events: Vec<_> = changes
        .iter()
        .flat_map(|one| one.events.iter().cloned())
        .collect();
    if !events.is_empty() {
        ::events::append(conn, &events).await?;
    }
    Ok(())
}
