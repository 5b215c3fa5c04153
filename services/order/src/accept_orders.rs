//! Inserts new orders that arrive at the same time in one transaction.

use std::sync::Arc;

use chassis::{
    audit,
    batch::Command,
    idempotency::{self, Key},
    postgres::Database,
};
use events::{Event, Outbox};
use uuid::Uuid;

use crate::{
    error::Error,
    order::{Line, Order},
    saga::Saga,
    store::{self, orders::NewRow, sagas::Lease},
};

/// An order with everything that its first transaction writes.
pub struct AcceptedOrder {
    pub order: Order,
    pub lines: Arc<[Line]>,
    /// The encoded claim.
    pub claim: Option<Vec<u8>>,
    pub key: Key,
    pub saga: Saga,
    pub lease: Lease,
    pub events: Vec<Event>,
    pub origin: audit::Origin,
}

impl AcceptedOrder {
    fn row(&self) -> NewRow<'_> {
        NewRow {
            order: &self.order,
            lines: &self.lines,
            claim: self.claim.as_deref(),
            key: &self.key,
        }
    }

    fn request(&self) -> idempotency::NewKey<'_> {
        idempotency::NewKey {
            facility: &self.order.facility,
            key: &self.key,
            resource_id: self.order.id,
            response: None,
        }
    }
}

/// Inserts new orders.
pub struct AcceptOrders {
    pub database: Database,
    pub outbox: Outbox,
}

impl Command for AcceptOrders {
    type Item = AcceptedOrder;
    /// Whether the order was inserted. If not, its reference is taken, or the request has created an order before.
    type Outcome = bool;
    type Error = Error;

    fn aggregate(&self, accepted: &AcceptedOrder) -> Uuid {
        accepted.order.id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, accepted: &[Arc<AcceptedOrder>]) -> Result<Vec<bool>, Error> {
        let facilities = accepted.iter().map(|accepted| &accepted.order.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let orders: Vec<_> = accepted.iter().map(|accepted| accepted.row()).collect();
        let written = store::orders::insert(&mut tx, &orders).await?;
        let is_written = |accepted: &Arc<AcceptedOrder>| written.contains(&accepted.order.id);
        if !written.is_empty() {
            let new: Vec<_> = accepted.iter().filter(|accepted| is_written(accepted)).collect();
            let requests: Vec<_> = new.iter().map(|accepted| accepted.request()).collect();
            if idempotency::acquire_all(&mut tx, &requests)
                .await?
                .contains(&false)
            {
                return Err(Error::AlreadyCreated);
            }
            audit::record_effects(&mut tx, new.iter().map(|accepted| &accepted.origin)).await?;
            let sagas: Vec<_> = new
                .iter()
                .map(|accepted| (&accepted.saga, accepted.lease))
                .collect();
            store::sagas::insert(&mut tx, &sagas).await?;
            let events: Vec<_> = new.iter().flat_map(|accepted| accepted.events.clone()).collect();
            events::append(&mut tx, &events).await?;
        }
        tx.commit().await?;
        self.outbox.wake();
        Ok(accepted.iter().map(is_written).collect())
    }
}
