//! Resumes sagas that are due: whose process has died, whose pause is over, or that an event has woken. They are taken by the
//! participant that they call and in turn of the facilities, so that none waits for a slow participant or behind a backlog
//! that is not its own.

use chassis::{Facility, running::Running};
use tokio_util::sync::CancellationToken;

use super::{
    Engine, Participant, Run,
    places::{Place, Places},
};
use crate::{
    error::Error,
    store::{self, sagas::Claimed},
};

/// Resumes due sagas of all facilities, a bounded number at once for each participant.
pub struct Worker {
    engine: Engine,
    places: Places,
    at_claims: Running,
    at_payment: Running,
}

impl Worker {
    /// A worker that drives by `engine`.
    pub fn new(engine: Engine) -> Worker {
        let places = Places::new(engine.parts().settings.concurrency as usize);
        Worker {
            engine,
            places,
            at_claims: Running::default(),
            at_payment: Running::default(),
        }
    }

    /// Works until `shutdown`, then finishes the steps that are under way.
    ///
    /// # Errors
    /// None: what goes wrong is logged, and tried again at the next look.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let poll = self.engine.parts().settings.poll();
        while !shutdown.is_cancelled() {
            for participant in Participant::ALL {
                if let Err(error) = self.resume_due(participant).await {
                    tracing::warn!(error.message = %error, "due sagas cannot be looked for");
                }
            }
            tokio::select! {
                Some(()) = self.at_claims.ended() => {}
                Some(()) = self.at_payment.ended() => {}
                () = self.engine.woken() => {}
                () = tokio::time::sleep(poll) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.at_claims.all_ended().await;
        self.at_payment.all_ended().await;
        Ok(())
    }

    async fn resume_due(&mut self, participant: Participant) -> Result<(), sqlx::Error> {
        let places = self.places.take_all(participant);
        if places.is_empty() {
            return Ok(());
        }
        let claimed = self.claim(participant, places.len()).await?;
        for (claimed, place) in claimed.into_iter().zip(places) {
            let facility = claimed.facility.clone();
            let resumed = resume(self.engine.clone(), claimed, place);
            self.running(participant).spawn(facility, resumed);
        }
        Ok(())
    }

    /// What was begun at a participant: facilities take turns there.
    fn running(&mut self, participant: Participant) -> &mut Running {
        match participant {
            Participant::Claims => &mut self.at_claims,
            Participant::Payment => &mut self.at_payment,
        }
    }

    async fn claim(&mut self, participant: Participant, at_most: usize) -> Result<Vec<Claimed>, sqlx::Error> {
        let running = self.running(participant).by_facility();
        let parts = self.engine.parts();
        let claim = store::sagas::Claim {
            owner: self.engine.owner(),
            lease: parts.settings.lease(),
            at_most: i32::try_from(at_most).unwrap_or(i32::MAX),
            participant,
        };
        let mut tx = parts.database.begin_system().await?;
        let claimed = store::sagas::claim_due(&mut tx, &claim, &running).await?;
        tx.commit().await?;
        Ok(claimed)
    }
}

async fn resume(engine: Engine, claimed: Claimed, place: Place) {
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
        engine.resume(run, place).await
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
