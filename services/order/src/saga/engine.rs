//! Drives sagas step by step, and saves them in one transaction when they pause, compensate or end.

mod commit;

use std::{pin::pin, sync::Arc};

use chassis::{
    Tasks,
    batch::{Batcher, Limits},
    postgres::Database,
};
use mesh::Context;
use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};
use tonic::Status;
use uuid::Uuid;

use super::{
    Action, Origin, Outcome, Participants, Saga, SagaContext, ServiceCredentials, Step,
    active_sagas::ActiveSagas,
    apply::Rules,
    checkpoint::{CheckpointResult, CheckpointWriter},
    participants::StepCall,
    slots::Slot,
    transition::{Transition, decide},
    unsaved::UnsavedTransitions,
};
use crate::{
    config,
    error::Error,
    events,
    order_notifier::OrderNotifier,
    response::PendingResponse,
    settlement::DenialPolicy,
    store::{self, sagas::Lease},
};

/// Drives sagas. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    parts: Parts,
    checkpoints: Batcher<CheckpointWriter>,
    /// The id of this process as the owner of leases.
    owner: Uuid,
    active_sagas: ActiveSagas,
    wakeup: Notify,
}

/// The dependencies and settings of an engine.
pub struct Parts {
    pub tasks: Tasks,
    pub database: Database,
    pub participants: Participants,
    pub credentials: ServiceCredentials,
    pub outbox: ::events::Outbox,
    pub order_notifier: OrderNotifier,
    pub denial_policy: Arc<DenialPolicy>,
    pub settings: config::Saga,
    pub payment_window: time::Duration,
}

/// Sagas that may wait to be saved. Their number is bounded where they begin.
const MAX_WAITING_CHECKPOINTS: usize = 100_000;

impl Engine {
    /// Creates an engine with its own lease owner id.
    pub fn new(parts: Parts) -> Engine {
        let limits = Limits {
            waiting: MAX_WAITING_CHECKPOINTS,
            ..Limits::default()
        };
        let checkpoints = CheckpointWriter(parts.database.clone());
        Engine(Arc::new(Inner {
            checkpoints: Batcher::new(checkpoints, limits, parts.tasks.clone()),
            parts,
            owner: Uuid::new_v4(),
            active_sagas: ActiveSagas::default(),
            wakeup: Notify::new(),
        }))
    }

    /// The lease under which this process begins and drives a saga.
    pub fn lease(&self) -> Lease {
        Lease::Held(self.0.owner, self.0.parts.settings.lease())
    }

    /// The lease to save a saga with: released if it has ended or waits.
    fn lease_for(&self, saga: &Saga) -> Lease {
        if saga.has_ended() || saga.wake_at.is_some() {
            Lease::Released
        } else {
            self.lease()
        }
    }

    /// The orders whose sagas this process drives.
    pub fn active_sagas(&self) -> ActiveSagas {
        self.0.active_sagas.clone()
    }

    /// Makes the worker poll for due sagas at once.
    pub fn wake(&self) {
        self.0.wakeup.notify_one();
    }

    /// The time by the database's clock, which determines when sagas are due.
    pub(super) fn now(&self) -> OffsetDateTime {
        self.0.parts.database.clock().now()
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(super) fn owner(&self) -> Uuid {
        self.0.owner
    }

    pub(super) async fn wait_for_wakeup(&self) {
        self.0.wakeup.notified().await;
    }

    /// Drives a saga whose lease this process holds until it has ended or waits. When the order comes to rest, the
    /// response is stored in the same transaction.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when another process has taken over; database errors, after which the saga is resumed
    /// as soon as the database is available.
    pub async fn drive(
        &self,
        current: SagaContext,
        origin: &Origin,
        pending: Option<&PendingResponse>,
    ) -> Result<SagaContext, Error> {
        self.drive_with_slot(current, origin, pending, None).await
    }

    /// As [`Engine::drive`], in the background. When the next step calls a participant without a free slot, the
    /// saga is made due at once and left to a later poll.
    pub(super) async fn resume(&self, current: SagaContext, slot: Slot) -> Result<SagaContext, Error> {
        self.drive_with_slot(current, &Origin::Background, None, Some(slot))
            .await
    }

    async fn drive_with_slot(
        &self,
        current: SagaContext,
        origin: &Origin,
        pending: Option<&PendingResponse>,
        slot: Option<Slot>,
    ) -> Result<SagaContext, Error> {
        let (facility, id, epoch) = (current.saga.facility.clone(), current.saga.id, current.saga.epoch);
        let guard = self.0.active_sagas.begin(current.order.id);
        let result = self.drive_steps(current, origin, pending, slot).await;
        let notified = guard.end();
        if let Err(error) = &result {
            self.handle_error(&facility, id, epoch, error);
        }
        // Another process may have saved the saga as waiting before the event was received.
        if notified && !result.as_ref().is_ok_and(|current| current.saga.has_ended()) {
            self.wake_with_retries(facility, id);
        }
        result
    }

    async fn drive_steps(
        &self,
        mut current: SagaContext,
        origin: &Origin,
        pending: Option<&PendingResponse>,
        mut slot: Option<Slot>,
    ) -> Result<SagaContext, Error> {
        let mut unsaved = UnsavedTransitions::new(&current);
        if current.saga.plan.is_empty() && !current.saga.has_ended() {
            current = self
                .advance(&mut unsaved, &current, Transition::EmptyPlan, pending)
                .await?;
        }
        while let (Some(action), None) = (current.saga.action(), current.saga.wake_at) {
            if let Some(slot) = &mut slot
                && !slot.switch_to(action.step.participant())
            {
                return self
                    .advance(&mut unsaved, &current, Transition::Requeue, pending)
                    .await;
            }
            let context = self.call_context(origin, &current.saga.facility)?;
            self.load_claim(&mut current, action).await?;
            let (tried, checkpoint) = self.attempt(&mut unsaved, &current, action, &context).await?;
            current = checkpoint.unwrap_or(current);
            if let Err(status) = &tried {
                tracing::warn!(
                    saga.id = %current.saga.id, order.id = %current.order.id, saga.step = action.step.name(),
                    saga.compensation = action.compensation, saga.attempts = current.saga.attempts + 1,
                    error.message = super::outcome::describe(status), "saga step failed"
                );
            }
            let by = (&self.0.parts.settings, self.now());
            let transition = decide(&current.saga, by, (origin, &context), tried);
            current = self.advance(&mut unsaved, &current, transition, pending).await?;
        }
        Ok(current)
    }

    /// Applies `transition` to `current`; saves the result unless the saga continues at once.
    async fn advance(
        &self,
        unsaved: &mut UnsavedTransitions,
        current: &SagaContext,
        transition: Transition,
        pending: Option<&PendingResponse>,
    ) -> Result<SagaContext, Error> {
        let next = current.apply(&transition, &self.rules())?;
        unsaved.transitions.push(transition);
        if next.saga.continues_at_once() && !next.is_at_rest() && Instant::now() < unsaved.save_by {
            return Ok(next);
        }
        self.commit(unsaved, next, pending).await
    }

    /// Reads the claim that a resumed saga is about to prepare.
    async fn load_claim(&self, current: &mut SagaContext, action: Action) -> Result<(), Error> {
        let prepares = action.step == Step::PrepareClaim && !action.compensation;
        if prepares && current.claim.is_none() {
            let mut tx = self.0.parts.database.begin(&current.saga.facility).await?;
            current.claim = store::orders::get_claim(&mut tx, current.order.id)
                .await?
                .map(Arc::new);
            tx.commit().await?;
        }
        Ok(())
    }

    /// Makes one try and renews the lease while it lasts. If it takes long, the transitions before it are saved in
    /// the meantime; then the saved context is returned too.
    async fn attempt(
        &self,
        unsaved: &mut UnsavedTransitions,
        current: &SagaContext,
        action: Action,
        context: &Context,
    ) -> Result<(Result<Outcome, Status>, Option<SagaContext>), Error> {
        let parts = &self.0.parts;
        let refunds = match action.step {
            Step::RefundPayment | Step::RefundBalance => {
                let mut tx = parts.database.begin(&current.saga.facility).await?;
                let refunds = store::refunds::list(&mut tx, current.order.id).await?;
                tx.commit().await?;
                refunds
            }
            _ => Vec::new(),
        };
        let call = StepCall {
            saga: &current.saga,
            action,
            order: &current.order,
            refund: current.refund.as_ref(),
            refunds: &refunds,
            claim: current.claim.as_deref(),
            now: self.now(),
        };
        let mut trying =
            pin!(self.with_lease_renewal(&current.saga, parts.participants.execute(context, &call)));
        if unsaved.transitions.is_empty() {
            return Ok((trying.await?, None));
        }
        tokio::select! {
            tried = &mut trying => Ok((tried?, None)),
            () = tokio::time::sleep_until(unsaved.save_by) => {
                let written = self.commit(unsaved, current.clone(), None).await?;
                Ok((trying.await?, Some(written)))
            }
        }
    }

    /// Saves order, saga, steps, events and response in one transaction, from the last saved context to `next`.
    /// The order's row is locked before the saga's, as everywhere.
    async fn commit(
        &self,
        unsaved: &mut UnsavedTransitions,
        mut next: SagaContext,
        pending: Option<&PendingResponse>,
    ) -> Result<SagaContext, Error> {
        let replies = pending.filter(|_| next.is_at_rest());
        if next.saga.wake_at.is_some() && self.0.active_sagas.mark_waiting(next.order.id) {
            next.saga.wake_at = Some(self.now());
        }
        if let Some(checkpoint) = self.checkpoint(&unsaved.saved, &next, replies)
            && let CheckpointResult::Saved { response } = self.0.checkpoints.submit(checkpoint, None).await?
        {
            next.response = response;
            let _ = events::take_from_order(&mut next.order, None, None);
            let _ = events::take_from_saga(&mut next.saga);
        } else {
            next = self.commit_in_own_transaction(unsaved, next, replies).await?;
        }
        self.after_commit(unsaved, &mut next, replies);
        Ok(next)
    }

    pub(crate) fn rules(&self) -> Rules<'_> {
        let parts = &self.0.parts;
        Rules {
            denial_policy: &parts.denial_policy,
            payment_window: parts.payment_window,
            stuck_after: parts.settings.stuck_after(),
            now: self.now(),
        }
    }
}
