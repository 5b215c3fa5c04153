//! Resumes sagas that are due: whose process has died, whose pause is over, or that an event has woken.

use chassis::Facility;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Caller, Engine, Run};
use crate::{
    error::Error,
    store::{self, sagas::Claimed},
};

/// Resumes due sagas of all facilities, a bounded number at once.
pub struct Worker(Engine);

impl Worker {
    /// A worker that drives by `engine`.
    pub fn new(engine: Engine) -> Worker {
        Worker(engine)
    }

    /// Works until `shutdown`, then finishes the steps that are under way.
    ///
    /// # Errors
    /// None: what goes wrong is logged, and tried again at the next look.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let settings = &self.0.parts().settings;
        let concurrency = settings.concurrency as usize;
        let mut driven = JoinSet::new();
        while !shutdown.is_cancelled() {
            let free = concurrency - driven.len();
            let claimed = match self.claim(free).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    tracing::warn!(error.message = %error, "due sagas cannot be looked for");
                    Vec::new()
                }
            };
            let busy = !claimed.is_empty() && claimed.len() == free;
            for claimed in claimed {
                driven.spawn(resume(self.0.clone(), claimed));
            }
            tokio::select! {
                Some(_) = driven.join_next() => {}
                () = self.0.woken(), if !busy => {}
                () = tokio::time::sleep(settings.poll()) => {}
                () = shutdown.cancelled() => {}
            }
            while driven.try_join_next().is_some() {}
        }
        while driven.join_next().await.is_some() {}
        Ok(())
    }

    async fn claim(&self, at_most: usize) -> Result<Vec<Claimed>, sqlx::Error> {
        let parts = self.0.parts();
        let Ok(at_most @ 1..) = i32::try_from(at_most) else {
            return Ok(Vec::new());
        };
        let mut tx = parts.database.begin_system().await?;
        let claimed =
            store::sagas::claim_due(&mut tx, self.0.owner(), parts.settings.lease(), at_most).await?;
        tx.commit().await?;
        Ok(claimed)
    }
}

async fn resume(engine: Engine, claimed: Claimed) {
    let id = claimed.id;
    let driven = async {
        let run = match load(&engine, &claimed).await {
            Ok(run) => run,
            Err(error) => {
                if let Ok(facility) = Facility::new(&claimed.facility) {
                    engine.interrupted(&facility, id, claimed.epoch, &error);
                }
                return Err(error);
            }
        };
        engine.drive(run, &Caller::Nobody, None).await
    };
    match driven.await {
        Ok(_) => {}
        Err(Error::LostLease) => tracing::info!(saga.id = %id, "another process has taken a saga over"),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(saga.id = %id, error.message = error, "a saga was interrupted; it is resumed later");
        }
    }
}

async fn load(engine: &Engine, claimed: &Claimed) -> Result<Run, Error> {
    let facility = Facility::new(&claimed.facility).map_err(|_| store::corrupt("facility"))?;
    let mut tx = engine.parts().database.begin(&facility).await?;
    let saga = store::sagas::get(&mut tx, claimed.id)
        .await?
        .ok_or(Error::NoSaga(claimed.id))?;
    let order = store::orders::get(&mut tx, saga.order_id).await?;
    let order = order.ok_or_else(|| Error::NoOrder(saga.order_id.to_string()))?;
    let mut run = Run::new(saga, order);
    if let Some(id) = run.saga.refund_id {
        let refunds = store::refunds::of(&mut tx, run.order.id).await?;
        run.refund = refunds.into_iter().find(|refund| refund.id == id);
    }
    tx.commit().await?;
    Ok(run)
}
