//! Renews the lease of a saga while a step is running.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::Instant;

use super::{Engine, Saga};
use crate::{error::Error, store};

impl Engine {
    /// Renews the lease every third of its duration while `work` runs.
    pub(super) async fn with_lease_renewal<T>(
        &self,
        saga: &Saga,
        work: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let lease = self.parts().settings.lease();
        let mut work = pin!(work);
        let mut interval = tokio::time::interval_at(Instant::now() + lease / 3, lease / 3);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = interval.tick() => {}
            }
            match self.renew(saga, lease).await {
                Ok(true) => {}
                Ok(false) => return Err(Error::LeaseLost),
                // The step may continue: the epoch still guards every write.
                Err(error) => {
                    tracing::warn!(saga.id = %saga.id, error.message = %error, "saga lease not renewed");
                }
            }
        }
    }

    async fn renew(&self, saga: &Saga, lease: Duration) -> Result<bool, sqlx::Error> {
        let mut tx = self.parts().database.begin(&saga.facility).await?;
        let renewed = store::sagas::renew(&mut tx, saga, lease).await?;
        tx.commit().await?;
        Ok(renewed)
    }
}
