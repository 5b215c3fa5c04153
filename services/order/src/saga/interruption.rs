//! Handles errors of this process while it drives a saga: the saga is released and resumed, or marked as stuck.

use std::time::Duration;

use chassis::Facility;
use tokio::time::Instant;
use uuid::Uuid;

use super::Engine;
use crate::{
    error::Error,
    events,
    store::{self, sagas::SagaUpdate},
};

/// Time between two tries to release a lease or to wake a saga.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

impl Engine {
    /// Handles an error that interrupted a saga: a transient error releases the lease, so that the saga is
    /// resumed; any other error marks the saga as stuck.
    pub(super) fn handle_error(&self, facility: &Facility, id: Uuid, epoch: i64, error: &Error) {
        match error {
            Error::LeaseLost => {}
            error if error.is_transient() => self.release_lease(facility.clone(), id, epoch),
            error => {
                let text = format!("the saga cannot continue: {error}");
                self.mark_stuck_or_release(facility.clone(), id, epoch, text);
            }
        }
    }

    /// Marks a saga as stuck, or releases the lease if that fails with a transient error.
    fn mark_stuck_or_release(&self, facility: Facility, id: Uuid, epoch: i64, reason: String) {
        let engine = self.clone();
        self.parts().tasks.run(async move {
            let Err(error) = engine.mark_stuck(&facility, id, epoch, &reason).await else {
                return;
            };
            if error.is_transient() {
                return engine.release_lease(facility, id, epoch);
            }
            tracing::error!(saga.id = %id, error.message = %error, "saga unreadable; marking its row as stuck");
            if let Err(error) = engine.mark_row_stuck(&facility, id, epoch, &reason).await {
                tracing::error!(saga.id = %id, error.message = %error, "saga not marked as stuck; its lease has to expire");
            }
        });
    }

    async fn mark_stuck(&self, facility: &Facility, id: Uuid, epoch: i64, reason: &str) -> Result<(), Error> {
        let parts = &self.parts();
        let mut tx = parts.database.begin(facility).await?;
        let Some(mut saga) = store::sagas::lock(&mut tx, id).await? else {
            return Ok(());
        };
        if saga.has_ended() {
            return Ok(());
        }
        saga.mark_stuck(reason, self.now() + parts.settings.stuck_retry());
        let saved = store::sagas::save(&mut tx, &[SagaUpdate::released(&saga, epoch)]).await?;
        if !saved.is_empty() {
            ::events::append(&mut tx, &events::take_from_saga(&mut saga)).await?;
            tx.commit().await?;
            parts.outbox.wake();
        }
        Ok(())
    }

    async fn mark_row_stuck(
        &self,
        facility: &Facility,
        id: Uuid,
        epoch: i64,
        reason: &str,
    ) -> Result<(), Error> {
        let parts = &self.parts();
        let mut tx = parts.database.begin(facility).await?;
        store::sagas::mark_row_stuck(&mut tx, (id, epoch), reason, parts.settings.stuck_retry()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Releases the lease as soon as the database is available, so that the saga need not wait until the lease
    /// expires.
    fn release_lease(&self, facility: Facility, id: Uuid, epoch: i64) {
        let engine = self.clone();
        self.parts().tasks.run(async move {
            let until = Instant::now() + engine.parts().settings.lease();
            while Instant::now() < until {
                if engine.release(&facility, id, epoch).await.is_ok() {
                    return engine.wake();
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        });
    }

    /// Wakes a saga about which an event was received while this process drove it. Retries for the time of a
    /// lease.
    pub(super) fn wake_with_retries(&self, facility: Facility, id: Uuid) {
        let engine = self.clone();
        self.parts().tasks.run(async move {
            let until = Instant::now() + engine.parts().settings.lease();
            while Instant::now() < until {
                if engine.wake_row(&facility, id).await.is_ok() {
                    return engine.wake();
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            tracing::warn!(saga.id = %id, "saga not woken; it continues when its pause ends");
        });
    }

    async fn wake_row(&self, facility: &Facility, id: Uuid) -> Result<(), sqlx::Error> {
        let mut tx = self.parts().database.begin(facility).await?;
        store::sagas::wake(&mut tx, id).await?;
        tx.commit().await
    }

    async fn release(&self, facility: &Facility, id: Uuid, epoch: i64) -> Result<(), sqlx::Error> {
        let mut tx = self.parts().database.begin(facility).await?;
        store::sagas::release(&mut tx, id, epoch).await?;
        tx.commit().await
    }
}
