//! A saga that its process cannot drive on: it goes on when that passes, or is marked as stuck.

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

/// Between two tries to give a lease back.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

impl Engine {
    /// A saga that this process drove stands still because of an error of its own. When that passes, it goes on; what
    /// does not pass needs a person.
    pub(super) fn handle_error(&self, facility: &Facility, id: Uuid, epoch: i64, error: &Error) {
        match error {
            Error::LeaseLost => {}
            error if error.is_transient() => self.release_lease(facility.clone(), id, epoch),
            error => {
                let text = format!("the saga cannot go on: {error}");
                self.mark_stuck_or_release(facility.clone(), id, epoch, text);
            }
        }
    }

    /// Marks a saga as stuck that this process cannot drive, or gives the lease back if that fails, too.
    fn mark_stuck_or_release(&self, facility: Facility, id: Uuid, epoch: i64, reason: String) {
        let engine = self.clone();
        self.parts().tasks.run(async move {
            let Err(error) = engine.mark_stuck(&facility, id, epoch, &reason).await else {
                return;
            };
            if error.is_transient() {
                return engine.release_lease(facility, id, epoch);
            }
            tracing::error!(saga.id = %id, error.message = %error, "a saga cannot be read; it is set aside as stuck");
            if let Err(error) = engine.mark_row_stuck(&facility, id, epoch, &reason).await {
                tracing::error!(saga.id = %id, error.message = %error, "a saga keeps its lease until that runs out");
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

    /// Gives the lease back as soon as the database is there again: this process is alive, and nobody should wait for
    /// the lease to run out.
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

    /// Looks at a saga again for which something has happened while this process drove it.
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
            tracing::warn!(saga.id = %id, "a saga was not woken; it goes on at the end of its pause");
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
