//! A saga that its process cannot drive on: it goes on when that passes, or is marked as stuck.

use std::time::Duration;

use chassis::Facility;
use tokio::time::Instant;
use uuid::Uuid;

use super::Engine;
use crate::{
    error::Error,
    store::{self, sagas::Moved},
    told,
};

/// Between two tries to give a lease back.
const LET_GO_AGAIN: Duration = Duration::from_millis(100);

impl Engine {
    /// A saga that this process drove stands still because of an error of its own. When that passes, it goes on; what
    /// does not pass needs a person.
    pub(super) fn interrupted(&self, facility: &Facility, id: Uuid, epoch: i64, error: &Error) {
        match error {
            Error::LostLease => {}
            error if error.is_passing() => self.let_go(facility.clone(), id, epoch),
            error => {
                let text = format!("the saga cannot go on: {error}");
                self.give_in(facility.clone(), id, epoch, text);
            }
        }
    }

    /// Marks a saga as stuck that this process cannot drive, or gives the lease back if that fails, too.
    fn give_in(&self, facility: Facility, id: Uuid, epoch: i64, reason: String) {
        let engine = self.clone();
        self.parts().tasks.run(async move {
            let Err(error) = engine.mark_stuck(&facility, id, epoch, &reason).await else {
                return;
            };
            if error.is_passing() {
                return engine.let_go(facility, id, epoch);
            }
            tracing::error!(saga.id = %id, error.message = %error, "a saga cannot be read; it is set aside as stuck");
            if let Err(error) = engine.set_aside(&facility, id, epoch, &reason).await {
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
        saga.stuck(reason, self.now() + parts.settings.stuck_retry());
        let saved = store::sagas::save(&mut tx, &[Moved::released(&saga, epoch)]).await?;
        if !saved.is_empty() {
            events::append(&mut tx, &told::of_saga(&mut saga)).await?;
            tx.commit().await?;
            parts.outbox.wake();
        }
        Ok(())
    }

    async fn set_aside(&self, facility: &Facility, id: Uuid, epoch: i64, reason: &str) -> Result<(), Error> {
        let parts = &self.parts();
        let mut tx = parts.database.begin(facility).await?;
        store::sagas::set_aside(&mut tx, (id, epoch), reason, parts.settings.stuck_retry()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives the lease back as soon as the database is there again: this process is alive, and nobody should wait for
    /// the lease to run out.
    fn let_go(&self, facility: Facility, id: Uuid, epoch: i64) {
        let engine = self.clone();
        self.parts().tasks.run(async move {
            let until = Instant::now() + engine.parts().settings.lease();
            while Instant::now() < until {
                if engine.release(&facility, id, epoch).await.is_ok() {
                    return engine.wake();
                }
                tokio::time::sleep(LET_GO_AGAIN).await;
            }
        });
    }

    /// Looks at a saga again for which something has happened while this process drove it.
    pub(super) fn wake_waiting(&self, facility: Facility, id: Uuid) {
        let engine = self.clone();
        self.parts().tasks.run(async move {
            let until = Instant::now() + engine.parts().settings.lease();
            while Instant::now() < until {
                if engine.wake_row(&facility, id).await.is_ok() {
                    return engine.wake();
                }
                tokio::time::sleep(LET_GO_AGAIN).await;
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
