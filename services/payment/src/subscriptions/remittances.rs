//! What payers pay and take back.

use events::{Delivery, Handler, HandlerError};
use money::Money;
use proto::claims::v1::{ClaimRemittance, ClaimRemitted, ClaimTakenBack};
use sqlx::PgConnection;

use super::{amount, book, facility, origin};
use crate::ledger::{Booking, Transaction};

/// Books remittance lines, each as its claim has counted it.
#[derive(Clone, Copy, Debug)]
pub struct Remittances;

impl Remittances {
    /// The consumer's name.
    pub const NAME: &'static str = "payment-remittances";
    /// What it consumes. A denial moves no money.
    pub const SUBJECTS: [&'static str; 2] = ["evt.claims.claim.remitted", "evt.claims.claim.taken_back"];
}

impl Handler for Remittances {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        let facility = facility(delivery)?;
        Ok(book(tx, &facility, bookings(delivery)?).await?)
    }

    async fn handle_all(&self, tx: &mut PgConnection, deliveries: &[Delivery]) -> Result<bool, HandlerError> {
        let Some(first) = deliveries.first() else {
            return Ok(false);
        };
        let all: Vec<_> = deliveries.iter().map(bookings).collect::<Result<_, _>>()?;
        book(tx, &facility(first)?, all.into_iter().flatten()).await?;
        Ok(true)
    }
}

/// What the lines of a remittance move.
fn bookings(delivery: &Delivery) -> Result<[Booking; 2], HandlerError> {
    let remittance = remittance(delivery)?;
    let origin = origin(delivery, &remittance.order_id)?;
    let (mut paid, mut taken_back): (Vec<Money>, Vec<Money>) = (Vec::new(), Vec::new());
    for line in &remittance.lines {
        let Some(wire) = &line.amount else { continue };
        let moved = amount(wire)?;
        if moved.is_negative() {
            let back = moved.checked_neg();
            taken_back
                .push(back.map_err(|error| HandlerError::schema("AMOUNT_MALFORMED", error.to_string()))?);
        } else {
            paid.push(moved);
        }
    }
    Ok([
        Transaction::remittance_paid(origin, paid),
        Transaction::takeback(origin, taken_back),
    ])
}

fn remittance(delivery: &Delivery) -> Result<ClaimRemittance, HandlerError> {
    let remittance = if delivery.is::<ClaimTakenBack>() {
        delivery.decode::<ClaimTakenBack>()?.remittance
    } else {
        delivery.decode::<ClaimRemitted>()?.remittance
    };
    remittance.ok_or_else(|| HandlerError::schema("REMITTANCE_MISSING", "the event holds no remittance"))
}
