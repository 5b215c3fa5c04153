//! Saves a saga with its order, refund, response and events.

use chassis::idempotency;
use sqlx::PgConnection;

use super::Engine;
use crate::{
    error::Error,
    events,
    response::PendingResponse,
    saga::{SagaContext, checkpoint::Checkpoint, unsaved::UnsavedTransitions},
    store::{
        self,
        sagas::{Lease, SagaUpdate},
    },
};

impl Engine {
    /// The checkpoint, if only an order, its saga and a response are to be saved.
    pub(super) fn checkpoint(
        &self,
        written: &SagaContext,
        next: &SagaContext,
        pending: Option<&PendingResponse>,
    ) -> Option<Checkpoint> {
        let is_plain =
            next.successor.is_none() && next.refund == written.refund && next.order.refund_count == 0;
        if !is_plain {
            return None;
        }
        Some(Checkpoint::new(
            written,
            next,
            self.lease_for(&next.saga),
            pending,
        ))
    }

    pub(super) async fn commit_in_own_transaction(
        &self,
        unsaved: &mut UnsavedTransitions,
        mut next: SagaContext,
        pending: Option<&PendingResponse>,
    ) -> Result<SagaContext, Error> {
        let parts = &self.0.parts;
        let written = &mut unsaved.saved;
        let mut tx = parts.database.begin(&written.saga.facility).await?;
        if next.order.version != written.order.version
            && store::orders::save(&mut tx, &[(&next.order, written.order.version)])
                .await?
                .is_empty()
        {
            // An event has changed the order since it was read.
            let locked = store::orders::lock(&mut tx, written.order.id).await?;
            written.order = locked.ok_or_else(|| Error::OrderNotFound(written.order.id.to_string()))?;
            next = unsaved.reapply(&self.rules())?;
            store::orders::save(&mut tx, &[(&next.order, unsaved.saved.order.version)]).await?;
        }
        self.write_saga(&mut tx, &unsaved.saved, &mut next).await?;
        if let Some(pending) = pending {
            next.response = Some(pending.store(&mut tx, &next.order).await?);
        }
        tx.commit().await?;
        Ok(next)
    }

    pub(super) fn after_commit(
        &self,
        unsaved: &mut UnsavedTransitions,
        next: &mut SagaContext,
        pending: Option<&PendingResponse>,
    ) {
        let parts = &self.0.parts;
        next.saga.finished_steps.clear();
        if next.successor.take().is_some() {
            self.wake();
        }
        if let Some(pending) = pending {
            idempotency::notify_waiters(&parts.database, &next.order.facility, &pending.key);
        }
        parts.outbox.wake();
        parts.order_notifier.notify(next.order.id);
        *unsaved = UnsavedTransitions::new(next);
    }

    /// Writes the changes from `current` to `next`, except the order's row, and appends the events.
    pub(crate) async fn write_saga(
        &self,
        conn: &mut PgConnection,
        current: &SagaContext,
        next: &mut SagaContext,
    ) -> Result<(), Error> {
        let update = SagaUpdate {
            saga: &next.saga,
            epoch: current.saga.epoch,
            lease: self.lease_for(&next.saga),
        };
        if store::sagas::save(conn, &[update]).await?.is_empty() {
            return Err(Error::LeaseLost);
        }
        if let Some(refund) = next.refund.as_ref().filter(|_| next.refund != current.refund) {
            store::refunds::save(conn, refund).await?;
        }
        let mut events = events::take_from_order(&mut next.order, Some(next.saga.id), None);
        events.extend(events::take_from_saga(&mut next.saga));
        if let Some(successor) = &mut next.successor {
            store::sagas::insert(conn, &[(successor, Lease::Released)]).await?;
            events.extend(events::take_from_saga(successor));
        }
        ::events::append(conn, &events).await?;
        Ok(())
    }
}
