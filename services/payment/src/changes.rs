//! What one transaction changes in a payment and around it: decided first, without the database, and written then,
//! together with the changes of other payments.

use std::time::Duration;

use chassis::{Facility, idempotency::Key};
use events::Event;
use prost::{Message, Name};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    error::Error,
    ledger::{Booking, Transaction},
    operation::Operation,
    payment::Payment,
    publish,
    store::{
        RefundState, ledger,
        operations::{self, Opened},
        updates::{self, Update},
    },
};

/// The changes around one payment, which the transaction has locked or written.
#[derive(Clone, Debug)]
pub struct Changes {
    pub(crate) facility: Facility,
    /// As it is afterwards.
    pub(crate) payment: Payment,
    /// Whether something of it was captured before: nothing is refunded of what was never captured.
    was_captured: bool,
    /// Whether its row is to be written.
    is_saved: bool,
    pub(crate) operations: Vec<Update>,
    /// What is wanted of the processor next.
    pub(crate) opened: Option<Opened>,
    /// What followed by itself, and has ended already.
    followed: Option<Opened>,
    pub(crate) refund: Option<(Uuid, RefundState)>,
    booked: Option<Transaction>,
    pub(crate) events: Vec<Event>,
}

impl Changes {
    /// None yet.
    pub(crate) fn none(facility: &Facility, payment: Payment) -> Self {
        Self {
            facility: facility.clone(),
            was_captured: payment.captured > 0,
            payment,
            is_saved: false,
            operations: Vec::new(),
            opened: None,
            followed: None,
            refund: None,
            booked: None,
            events: Vec::new(),
        }
    }

    /// The payment has changed, in a transaction of the time `now`.
    pub(crate) fn save(&mut self, now: OffsetDateTime) {
        self.is_saved = true;
        self.payment.updated_at = now;
    }

    /// The payment as it is afterwards, and whether it may have refunds.
    pub(crate) fn shown(&self) -> (&Payment, bool) {
        (&self.payment, self.was_captured)
    }

    /// The processor is to be asked for `operation`, by the one who writes it down; `key` is that of the request that
    /// begins with it.
    pub(crate) fn open(&mut self, operation: Operation, lease: Duration, key: Option<&Key>) {
        self.opened = Some(Opened {
            operation,
            lease,
            key: key.cloned(),
        });
    }

    /// `operation` followed by itself, and has ended.
    pub(crate) fn followed_by(&mut self, operation: &Operation) {
        self.followed = Some(Opened {
            operation: operation.clone(),
            lease: Duration::ZERO,
            key: None,
        });
    }

    /// So much more was taken of an authorization, or given back of it.
    pub(crate) fn moved(&mut self, authorization: Uuid, captured: i64, refunded: i64) {
        let known = self
            .operations
            .iter_mut()
            .find(|update| update.id == authorization);
        match known {
            Some(update) => {
                update.captured += captured;
                update.refunded += refunded;
            }
            None => self
                .operations
                .push(Update::moved(authorization, captured, refunded)),
        }
    }

    /// This is told of the payment as it is now.
    pub(crate) fn tell<M: Message + Name>(&mut self, causation_id: Uuid, message: &M) {
        let event = publish::event(&self.facility, &self.payment, causation_id, message);
        self.events.push(event);
    }

    /// Books what there is to book.
    pub(crate) fn book(&mut self, booking: Booking) -> Result<(), Error> {
        self.booked = booking?;
        Ok(())
    }
}

/// Writes changes around different payments, one statement for each table.
pub(crate) async fn write(conn: &mut PgConnection, changes: &[Changes]) -> Result<(), Error> {
    let saved: Vec<_> = changes
        .iter()
        .filter(|one| one.is_saved)
        .map(|one| (&one.facility, &one.payment))
        .collect();
    // What was closed comes back only after that which has closed it is closed: a payment has one open operation.
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
            one.followed
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
        events::append(conn, &events).await?;
    }
    Ok(())
}
