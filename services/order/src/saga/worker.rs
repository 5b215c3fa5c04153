//! Resumes due sagas: those whose process has died, whose pause is over, or that an event has woken. They are
//! leased for each participant separately and in turn for each facility, so that no saga waits for another
//! participant or behind another facility's backlog.

use chassis::{Facility, facility_tasks::FacilityTasks};
use tokio_util::sync::CancellationToken;

use super::{
    Engine, Participant, SagaContext,
    slots::{Slot, Slots},
};
use crate::{
    error::Error,
    store::{self, sagas::LeasedSaga},
};

/// Resumes due sagas of all facilities, with a bounded number at the same time for each participant.
pub struct Worker {
    engine: Engine,
    slots: Slots,
    claims_sagas: FacilityTasks,
    payment_sagas: FacilityTasks,
}

impl Worker {
    /// Creates a worker that drives sagas with `engine`.
    pub fn new(engine: Engine) -> Worker {
        let slots = Slots::new(engine.parts().settings.concurrency as usize);
        Worker {
            engine,
            slots,
            claims_sagas: FacilityTasks::default(),
            payment_sagas: FacilityTasks::default(),
        }
    }

    /// Runs until `shutdown`, then waits for the steps in progress.
    ///
    /// # Errors
    /// None: errors are logged, and the next poll tries again.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let poll = self.engine.parts().settings.poll();
        while !shutdown.is_cancelled() {
            for participant in Participant::ALL {
                if let Err(error) = self.resume_due(participant).await {
                    tracing::warn!(error.message = %error, "polling for due sagas failed");
                }
            }
            tokio::select! {
                Some(()) = self.claims_sagas.join_next() => {}
                Some(()) = self.payment_sagas.join_next() => {}
                () = self.engine.wait_for_wakeup() => {}
                () = tokio::time::sleep(poll) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.claims_sagas.join_all().await;
        self.payment_sagas.join_all().await;
        Ok(())
    }

    async fn resume_due(&mut self, participant: Participant) -> Result<(), sqlx::Error> {
        let slots = self.slots.acquire_all(participant);
        if slots.is_empty() {
            return Ok(());
        }
        let leased = self.lease(participant, slots.len()).await?;
        for (leased, slot) in leased.into_iter().zip(slots) {
            let facility = leased.facility.clone();
            let resumed = resume(self.engine.clone(), leased, slot);
            self.running_at(participant).spawn(facility, resumed);
        }
        Ok(())
    }

    /// The sagas that were begun at a participant, where facilities take turns.
    fn running_at(&mut self, participant: Participant) -> &mut FacilityTasks {
        match participant {
            Participant::Claims => &mut self.claims_sagas,
            Participant::Payment => &mut self.payment_sagas,
        }
    }

    async fn lease(
        &mut self,
        participant: Participant,
        at_most: usize,
    ) -> Result<Vec<LeasedSaga>, sqlx::Error> {
        let running = self.running_at(participant).by_facility();
        let parts = self.engine.parts();
        let request = store::sagas::LeaseRequest {
            owner: self.engine.owner(),
            lease: parts.settings.lease(),
            at_most: i32::try_from(at_most).unwrap_or(i32::MAX),
            participant,
        };
        let mut tx = parts.database.begin_system().await?;
        let leased = store::sagas::lease_due(&mut tx, &request, &running).await?;
        tx.commit().await?;
        Ok(leased)
    }
}

async fn resume(engine: Engine, leased: LeasedSaga, slot: Slot) {
    let id = leased.id;
    let driven = async {
        let current = match load(&engine, &leased).await {
            Ok(current) => current,
            Err(error) => {
                if let Ok(facility) = Facility::new(&leased.facility) {
                    engine.handle_error(&facility, id, leased.epoch, &error);
                }
                return Err(error);
            }
        };
        engine.resume(current, slot).await
    };
    match driven.await {
        Ok(_) => {}
        Err(Error::LeaseLost) => tracing::info!(saga.id = %id, "saga lease lost to another process"),
        Err(error) => {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(saga.id = %id, error.message = error, "saga interrupted; it will be resumed");
        }
    }
}

async fn load(engine: &Engine, leased: &LeasedSaga) -> Result<SagaContext, Error> {
    let facility = Facility::new(&leased.facility).map_err(|_| store::corrupt("facility"))?;
    let mut tx = engine.parts().database.begin(&facility).await?;
    let saga = store::sagas::get(&mut tx, leased.id)
        .await?
        .ok_or(Error::SagaNotFound(leased.id))?;
    let order = store::orders::get(&mut tx, saga.order_id).await?;
    let order = order.ok_or_else(|| Error::OrderNotFound(saga.order_id.to_string()))?;
    let mut current = SagaContext::new(saga, order);
    if let Some(id) = current.saga.refund_id {
        let refunds = store::refunds::list(&mut tx, current.order.id).await?;
        current.refund = refunds.into_iter().find(|refund| refund.id == id);
    }
    tx.commit().await?;
    Ok(current)
}
