//! What becomes of orders.

use chassis::Facility;
use events::{Delivery, Handler, HandlerError};
use money::Money;
use proto::order::v1::{OrderBalanceDue, OrderFulfilled, OrderReturned, OrderSettled};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{amounts, facility, origin};
use crate::{
    error::Error,
    ledger::Transaction,
    payment::{Payment, Purpose, State},
    publish,
    settle::book,
    store,
};

/// Books what orders earn, return, transfer and write off, and keeps the payment of the patient's balance.
#[derive(Clone, Copy, Debug)]
pub struct Orders;

impl Orders {
    /// The consumer's name.
    pub const NAME: &'static str = "payment-ledger";
    /// What it consumes.
    pub const SUBJECTS: [&'static str; 4] = [
        "evt.order.order.fulfilled",
        "evt.order.order.returned",
        "evt.order.order.balance_due",
        "evt.order.order.settled",
    ];
}

impl Handler for Orders {
    async fn handle(&self, tx: &mut PgConnection, delivery: &Delivery) -> Result<(), HandlerError> {
        let facility = facility(delivery)?;
        if delivery.is::<OrderFulfilled>() {
            let event: OrderFulfilled = delivery.decode()?;
            let [share, net] = amounts([&event.patient_share, &event.payer_net])?;
            let booking = Transaction::order_fulfilled(origin(delivery, &event.order_id)?, share, net);
            return Ok(book(tx, &facility, booking).await?);
        }
        if delivery.is::<OrderReturned>() {
            let event: OrderReturned = delivery.decode()?;
            let [share, net] = amounts([&event.patient_share, &event.payer_net])?;
            let booking = Transaction::order_returned(origin(delivery, &event.order_id)?, share, net);
            return Ok(book(tx, &facility, booking).await?);
        }
        if delivery.is::<OrderBalanceDue>() {
            return balance_due(tx, &facility, delivery).await;
        }
        settled(tx, &facility, delivery).await
    }
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
    book(tx, facility, Transaction::denial_transferred(origin, transferred)).await?;
    book(tx, facility, Transaction::write_off(origin, written_off, nothing)).await?;
    Ok(ask_for(tx, facility, origin.order_id, balance).await?)
}

/// The payment of the balance waits for a payment method, over what the patient owes now.
async fn ask_for(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
    balance: Money,
) -> Result<(), Error> {
    match store::lock_of(tx, order_id, Purpose::Balance).await? {
        Some(mut payment) => {
            payment.owes(balance)?;
            store::save(tx, &mut payment).await?;
        }
        None if balance.is_positive() => {
            let mut payment = Payment::new(order_id, Purpose::Balance, balance);
            if !store::insert(tx, facility.as_str(), &mut payment).await? {
                return Err(Error::LostRace);
            }
        }
        None => {}
    }
    Ok(())
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
        book(tx, facility, Transaction::write_off(origin, payers, patients)).await?;
    }
    Ok(let_go(tx, facility, origin.order_id, delivery.id).await?)
}

/// Nobody owes anything any more: a balance that still waits for a payment method must not be paid.
async fn let_go(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
    cause: Uuid,
) -> Result<(), Error> {
    let Some(mut payment) = store::lock_of(tx, order_id, Purpose::Balance).await? else {
        return Ok(());
    };
    if !matches!(payment.state, State::Created | State::Declined) {
        return Ok(());
    }
    payment.voided()?;
    store::save(tx, &mut payment).await?;
    publish::append(
        tx,
        facility,
        &payment,
        cause,
        &publish::voided(&payment, "ORDER_SETTLED"),
    )
    .await
}
