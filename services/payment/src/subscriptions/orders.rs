//! Books orders, and updates the payment of the patient's balance.

use ::events::{Delivery, Handler, HandlerError};
use chassis::Facility;
use money::Money;
use proto::order::v1::{OrderAdjusted, OrderBalanceDue, OrderFulfilled, OrderReturned, OrderSettled};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{book, decode_amount, decode_amounts, decode_facility, decode_origin};
use crate::{
    changes::{Changes, write},
    error::Error,
    events,
    ledger::{Booking, Transaction},
    payment::{Payment, Purpose, State},
    store::{
        self,
        locks::{self, LockedPayment, Target},
        payments,
    },
};

/// Books the revenue, returns, transfers and write-offs of orders, and updates the payment of the patient's
/// balance.
#[derive(Clone, Copy, Debug)]
pub struct Orders;

impl Orders {
    /// The consumer's name.
    pub const NAME: &'static str = "payment-ledger";
    /// The subjects that it consumes.
    pub const SUBJECTS: [&'static str; 5] = [
        "evt.order.order.fulfilled",
        "evt.order.order.returned",
        "evt.order.order.balance_due",
        "evt.order.order.adjusted",
        "evt.order.order.settled",
    ];
}

impl Handler for Orders {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        let facility = decode_facility(delivery)?;
        if delivery.is::<OrderFulfilled>() {
            return Ok(book(tx, &facility, [fulfilled_booking(delivery)?]).await?);
        }
        if delivery.is::<OrderReturned>() {
            let event: OrderReturned = delivery.decode()?;
            let [share, net] = decode_amounts([&event.patient_share, &event.payer_net])?;
            let origin = decode_origin(delivery, &event.order_id)?;
            book(tx, &facility, [Transaction::order_returned(origin, share, net)]).await?;
            return Ok(());
        }
        if delivery.is::<OrderAdjusted>() {
            return handle_adjusted(tx, &facility, delivery).await;
        }
        if delivery.is::<OrderBalanceDue>() {
            return handle_balance_due(tx, &facility, delivery).await;
        }
        handle_settled(tx, &facility, delivery).await
    }

    async fn handle_all(&self, tx: &mut PgConnection, deliveries: &[Delivery]) -> Result<bool, HandlerError> {
        let Some(first) = deliveries.first() else {
            return Ok(false);
        };
        // Only these events are bookings alone and need no payment.
        if !deliveries.iter().all(Delivery::is::<OrderFulfilled>) {
            return Ok(false);
        }
        let bookings: Vec<_> = deliveries
            .iter()
            .map(fulfilled_booking)
            .collect::<Result<_, _>>()?;
        book(tx, &decode_facility(first)?, bookings).await?;
        Ok(true)
    }
}

/// The booking of an order's revenue.
fn fulfilled_booking(delivery: &Delivery) -> Result<Booking, HandlerError> {
    let event: OrderFulfilled = delivery.decode()?;
    let [share, net] = decode_amounts([&event.patient_share, &event.payer_net])?;
    let origin = decode_origin(delivery, &event.order_id)?;
    Ok(Transaction::order_fulfilled(origin, share, net))
}

async fn handle_balance_due(
    tx: &mut PgConnection,
    facility: &Facility,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    let event: OrderBalanceDue = delivery.decode()?;
    let origin = decode_origin(delivery, &event.order_id)?;
    let [transferred, written_off, balance] =
        decode_amounts([&event.transferred, &event.written_off, &event.balance])?;
    let zero = Money::zero(balance.currency());
    let bookings = [
        Transaction::denial_transferred(origin, transferred),
        Transaction::write_off(origin, written_off, zero),
    ];
    book(tx, facility, bookings).await?;
    let billed = match &event.billed {
        Some(billed) => Billed::Total(decode_amount(billed)?),
        None => Billed::Due(balance),
    };
    Ok(update_balance(tx, facility, (origin.order_id, delivery.version), billed).await?)
}

async fn handle_adjusted(
    tx: &mut PgConnection,
    facility: &Facility,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    let event: OrderAdjusted = delivery.decode()?;
    let origin = decode_origin(delivery, &event.order_id)?;
    let [billed, transferred, written_off, patient_written_off] = decode_amounts([
        &event.billed,
        &event.transferred,
        &event.written_off,
        &event.patient_written_off,
    ])?;
    let [_, transfer_reversed, payers, patients, rounding] = decode_amounts([
        &event.billed,
        &event.transfer_reversed,
        &event.write_off_reversed,
        &event.patient_write_off_reversed,
        &event.rounding,
    ])?;
    let bookings = [
        Transaction::denial_transferred(origin, transferred),
        Transaction::write_off(origin, written_off, patient_written_off),
        Transaction::transfer_reversed(origin, transfer_reversed),
        Transaction::write_off_reversed(origin, payers, patients),
        Transaction::rounding(origin, rounding),
    ];
    book(tx, facility, bookings).await?;
    let order = (origin.order_id, delivery.version);
    Ok(update_balance(tx, facility, order, Billed::Total(billed)).await?)
}

/// The amount that the patient is billed.
#[derive(Clone, Copy)]
enum Billed {
    /// The total amount.
    Total(Money),
    /// The amount due, in addition to what was captured before.
    Due(Money),
}

/// Updates or creates the payment of the balance. It waits for a payment method if an amount is due. Does nothing
/// if a later version of the order has updated it already.
async fn update_balance(
    tx: &mut PgConnection,
    facility: &Facility,
    (order_id, version): (Uuid, i64),
    billed: Billed,
) -> Result<(), Error> {
    let (Billed::Total(balance) | Billed::Due(balance)) = billed;
    match lock_balance(tx, facility, order_id).await? {
        Some(LockedPayment { mut payment, now, .. }) => {
            if !store::record_order_version(tx, payment.id, version).await? {
                return Ok(());
            }
            match billed {
                Billed::Total(billed) => payment.set_billed(billed)?,
                Billed::Due(balance) => payment.set_due(balance)?,
            }
            let mut changes = Changes::new(facility, payment);
            changes.save(now);
            write(tx, &[changes]).await?;
        }
        None if balance.is_positive() => {
            let payment = Payment::new(order_id, Purpose::Balance, balance);
            if payments::insert(tx, &[(facility, &payment)]).await?.is_empty() {
                return Err(Error::LostRace);
            }
            store::record_order_version(tx, payment.id, version).await?;
        }
        None => {}
    }
    Ok(())
}

/// Locks the payment of the order's balance.
async fn lock_balance(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
) -> Result<Option<LockedPayment>, sqlx::Error> {
    locks::lock_payment(tx, facility, Target::OrderPurpose(order_id, Purpose::Balance)).await
}

async fn handle_settled(
    tx: &mut PgConnection,
    facility: &Facility,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    let event: OrderSettled = delivery.decode()?;
    let origin = decode_origin(delivery, &event.order_id)?;
    if event.written_off.is_some() || event.patient_written_off.is_some() {
        let [payers, patients] = decode_amounts([&event.written_off, &event.patient_written_off])?;
        book(tx, facility, [Transaction::write_off(origin, payers, patients)]).await?;
    }
    Ok(close_balance(tx, facility, origin.order_id, delivery).await?)
}

/// Closes a balance that still waits for a payment method: the order is settled, so it must not be paid any more.
async fn close_balance(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
    delivery: &Delivery,
) -> Result<(), Error> {
    let Some(LockedPayment { payment, now, .. }) = lock_balance(tx, facility, order_id).await? else {
        return Ok(());
    };
    if !store::record_order_version(tx, payment.id, delivery.version).await? {
        return Ok(());
    }
    if !matches!(payment.state, State::Created | State::Declined) {
        return Ok(());
    }
    let mut changes = Changes::new(facility, payment);
    let payment = &mut changes.payment;
    // Captured amounts stay captured; only the rest is cancelled.
    let captured = payment.money(payment.captured);
    if let Some(captured) = captured.filter(|captured| captured.is_positive()) {
        payment.set_billed(captured)?;
    } else {
        payment.void()?;
        let event = events::voided(payment, "ORDER_SETTLED");
        changes.add_event(delivery.id, &event);
    }
    changes.save(now);
    write(tx, &[changes]).await
}
