//! Books payments and takebacks of payers.

use events::{Delivery, Handler, HandlerError};
use money::Money;
use proto::claims::v1::{ClaimRemittance, ClaimRemitted, ClaimTakenBack};
use sqlx::PgConnection;

use super::{book, decode_amount, decode_facility, decode_origin};
use crate::ledger::{Booking, Transaction};

/// Books the lines of remittances, with the amounts that the claim has recorded.
#[derive(Clone, Copy, Debug)]
pub struct Remittances;

impl Remittances {
    /// The consumer's name.
    pub const NAME: &'static str = "payment-remittances";
    /// The subjects that it consumes. A denial moves no money, so it is not among them.
    pub const SUBJECTS: [&'static str; 2] = ["evt.claims.claim.remitted", "evt.claims.claim.taken_back"];
}

impl Handler for Remittances {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        let facility = decode_facility(delivery)?;
        Ok(book(tx, &facility, bookings(delivery)?).await?)
    }

    async fn handle_all(&self, tx: &mut PgConnection, deliveries: &[Delivery]) -> Result<bool, HandlerError> {
        let Some(first) = deliveries.first() else {
            return Ok(false);
        };
        let all: Vec<_> = deliveries.iter().map(bookings).collect::<Result<_, _>>()?;
        book(tx, &decode_facility(first)?, all.into_iter().flatten()).await?;
        Ok(true)
    }
}

/// Maps the lines of a remittance to bookings.
fn bookings(delivery: &Delivery) -> Result<[Booking; 2], HandlerError> {
    let remittance = decode_remittance(delivery)?;
    let origin = decode_origin(delivery, &remittance.order_id)?;
    let (mut paid, mut taken_back): (Vec<Money>, Vec<Money>) = (Vec::new(), Vec::new());
    for line in &remittance.lines {
        let Some(wire) = &line.amount else { continue };
        let moved = decode_amount(wire)?;
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

fn decode_remittance(delivery: &Delivery) -> Result<ClaimRemittance, HandlerError> {
    let remittance = if delivery.is::<ClaimTakenBack>() {
        delivery.decode::<ClaimTakenBack>()?.remittance
    } else {
        delivery.decode::<ClaimRemitted>()?.remittance
    };
    remittance.ok_or_else(|| HandlerError::schema("REMITTANCE_MISSING", "the event holds no remittance"))
}
