//! What becomes of orders.

use chassis::Facility;
use events::{Delivery, Handler, HandlerError};
use money::Money;
use proto::order::v1::{OrderAdjusted, OrderBalanceDue, OrderFulfilled, OrderReturned, OrderSettled};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{amount, amounts, book, facility, origin};
use crate::{
    changes::{Changes, write},
    error::Error,
    ledger::{Booking, Transaction},
    payment::{Payment, Purpose, State},
    publish,
    store::{
        self,
        locks::{self, Locked, Target},
        payments,
    },
};

/// Books what orders earn, return, transfer and write off, and keeps the payment of the patient's balance.
#[derive(Clone, Copy, Debug)]
pub struct Orders;

impl Orders {
    /// The consumer's name.
    pub const NAME: &'static str = "payment-ledger";
    /// What it consumes.
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
        let facility = facility(delivery)?;
        if delivery.is::<OrderFulfilled>() {
            return Ok(book(tx, &facility, [fulfilled(delivery)?]).await?);
        }
        if delivery.is::<OrderReturned>() {
            let event: OrderReturned = delivery.decode()?;
            let [share, net] = amounts([&event.patient_share, &event.payer_net])?;
            let origin = origin(delivery, &event.order_id)?;
            book(tx, &facility, [Transaction::order_returned(origin, share, net)]).await?;
            return Ok(());
        }
        if delivery.is::<OrderAdjusted>() {
            return adjusted(tx, &facility, delivery).await;
        }
        if delivery.is::<OrderBalanceDue>() {
            return balance_due(tx, &facility, delivery).await;
        }
        settled(tx, &facility, delivery).await
    }

    async fn handle_all(&self, tx: &mut PgConnection, deliveries: &[Delivery]) -> Result<bool, HandlerError> {
        let Some(first) = deliveries.first() else {
            return Ok(false);
        };
        // Nothing but bookings: no payment is looked at.
        if !deliveries.iter().all(Delivery::is::<OrderFulfilled>) {
            return Ok(false);
        }
        let bookings: Vec<_> = deliveries.iter().map(fulfilled).collect::<Result<_, _>>()?;
        book(tx, &facility(first)?, bookings).await?;
        Ok(true)
    }
}

/// What an order has earned.
fn fulfilled(delivery: &Delivery) -> Result<Booking, HandlerError> {
    let event: OrderFulfilled = delivery.decode()?;
    let [share, net] = amounts([&event.patient_share, &event.payer_net])?;
    let origin = origin(delivery, &event.order_id)?;
    Ok(Transaction::order_fulfilled(origin, share, net))
}

async fn balance_due(
    tx: &mut PgConnection,
    facility: &Facility,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    let event: OrderBalanceDue = delivery.decode()?;
    let origin = origin(delivery, &event.order_id)?;
    let [transferred, written_off, balance] =
        amounts([&event.transferred, &event.written_off, &event.balance])?;
    let nothing = Money::zero(balance.currency());
    let bookings = [
        Transaction::denial_transferred(origin, transferred),
        Transaction::write_off(origin, written_off, nothing),
    ];
    book(tx, facility, bookings).await?;
    let ask = match &event.billed {
        Some(billed) => Ask::InAll(amount(billed)?),
        None => Ask::More(balance),
    };
    Ok(ask_for(tx, facility, (origin.order_id, delivery.version), ask).await?)
}

async fn adjusted(
    tx: &mut PgConnection,
    facility: &Facility,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    let event: OrderAdjusted = delivery.decode()?;
    let origin = origin(delivery, &event.order_id)?;
    let [billed, transferred, written_off, patient_written_off] = amounts([
        &event.billed,
        &event.transferred,
        &event.written_off,
        &event.patient_written_off,
    ])?;
    let [_, transfer_reversed, payers, patients, rounding] = amounts([
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
    Ok(ask_for(tx, facility, order, Ask::InAll(billed)).await?)
}

/// What the patient is asked for.
#[derive(Clone, Copy)]
enum Ask {
    /// So much in all.
    InAll(Money),
    /// So much beside what was captured before.
    More(Money),
}

/// The payment of the balance waits for a payment method when something of it is due. What a later version of the order has
/// said stands.
async fn ask_for(
    tx: &mut PgConnection,
    facility: &Facility,
    (order_id, version): (Uuid, i64),
    ask: Ask,
) -> Result<(), Error> {
    let (Ask::InAll(balance) | Ask::More(balance)) = ask;
    match balance_of(tx, facility, order_id).await? {
        Some(Locked { mut payment, now, .. }) => {
            if !store::ask(tx, payment.id, version).await? {
                return Ok(());
            }
            match ask {
                Ask::InAll(billed) => payment.bills(billed)?,
                Ask::More(balance) => payment.owes(balance)?,
            }
            let mut changes = Changes::none(facility, payment);
            changes.save(now);
            write(tx, &[changes]).await?;
        }
        None if balance.is_positive() => {
            let payment = Payment::new(order_id, Purpose::Balance, balance);
            if payments::insert(tx, &[(facility, &payment)]).await?.is_empty() {
                return Err(Error::LostRace);
            }
            store::ask(tx, payment.id, version).await?;
        }
        None => {}
    }
    Ok(())
}

/// Locks the payment of the order's balance.
async fn balance_of(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
) -> Result<Option<Locked>, sqlx::Error> {
    locks::lock_one(tx, facility, Target::Of(order_id, Purpose::Balance)).await
}

async fn settled(
    tx: &mut PgConnection,
    facility: &Facility,
    delivery: &Delivery,
) -> Result<(), HandlerError> {
    let event: OrderSettled = delivery.decode()?;
    let origin = origin(delivery, &event.order_id)?;
    if event.written_off.is_some() || event.patient_written_off.is_some() {
        let [payers, patients] = amounts([&event.written_off, &event.patient_written_off])?;
        book(tx, facility, [Transaction::write_off(origin, payers, patients)]).await?;
    }
    Ok(let_go(tx, facility, origin.order_id, delivery).await?)
}

/// Nobody owes anything any more: a balance that still waits for a payment method must not be paid.
async fn let_go(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
    delivery: &Delivery,
) -> Result<(), Error> {
    let Some(Locked { payment, now, .. }) = balance_of(tx, facility, order_id).await? else {
        return Ok(());
    };
    if !store::ask(tx, payment.id, delivery.version).await? {
        return Ok(());
    }
    if !matches!(payment.state, State::Created | State::Declined) {
        return Ok(());
    }
    let mut changes = Changes::none(facility, payment);
    let payment = &mut changes.payment;
    // What was captured before stays captured; only the rest is let go.
    let captured = payment.money(payment.captured);
    if let Some(captured) = captured.filter(|captured| captured.is_positive()) {
        payment.bills(captured)?;
    } else {
        payment.voided()?;
        let event = publish::voided(payment, "ORDER_SETTLED");
        changes.tell(delivery.id, &event);
    }
    changes.save(now);
    write(tx, &[changes]).await
}
