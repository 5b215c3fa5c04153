//! Drives sagas: step by step, and one transaction for what has followed when a saga pauses, turns back or ends.

use std::{pin::pin, sync::Arc};

use chassis::{
    Tasks,
    batch::{Batcher, Limits},
    idempotency,
    postgres::Database,
};
use mesh::Context;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};
use tonic::Status;
use uuid::Uuid;

use super::{
    Action, Caller, Outcome, Participants, Run, Saga, ServiceCaller, Step,
    checkpoint::{Checkpoint, Checkpoints, Written},
    decide::{Movement, decide},
    driven::Driven,
    follow::Rules,
    journal::Journal,
    participants::Task,
    places::Place,
};
use crate::{
    answer::Reply,
    changes::Changes,
    config,
    error::Error,
    settlement::DenialPolicy,
    store::{
        self,
        sagas::{Lease, Moved},
    },
    told,
};

/// Drives sagas. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    parts: Parts,
    checkpoints: Batcher<Checkpoints>,
    /// This process, as the holder of leases.
    owner: Uuid,
    driven: Driven,
    wakeup: Notify,
}

/// What an engine is made of.
pub struct Parts {
    pub tasks: Tasks,
    pub database: Database,
    pub participants: Participants,
    pub caller: ServiceCaller,
    pub outbox: events::Outbox,
    pub changes: Changes,
    pub denials: Arc<DenialPolicy>,
    pub settings: config::Saga,
    pub payment_window: time::Duration,
}

/// Sagas that wait to be written. They are bounded where they are begun.
const CHECKPOINTS: usize = 100_000;

impl Engine {
    /// An engine with a lease name of its own.
    pub fn new(parts: Parts) -> Engine {
        let limits = Limits {
            waiting: CHECKPOINTS,
            ..Limits::default()
        };
        let checkpoints = Checkpoints(parts.database.clone());
        Engine(Arc::new(Inner {
            checkpoints: Batcher::new(checkpoints, limits, parts.tasks.clone()),
            parts,
            owner: Uuid::new_v4(),
            driven: Driven::default(),
            wakeup: Notify::new(),
        }))
    }

    /// The lease under which this process begins a saga and drives it.
    pub fn lease(&self) -> Lease {
        Lease::Kept(self.0.owner, self.0.parts.settings.lease())
    }

    /// The lease of a saga that is written: none if it has ended or waits.
    fn lease_of(&self, saga: &Saga) -> Lease {
        match saga.has_ended() || saga.wake_at.is_some() {
            true => Lease::Released,
            false => self.lease(),
        }
    }

    /// The orders whose sagas this process drives.
    pub fn driven(&self) -> Driven {
        self.0.driven.clone()
    }

    /// Looks for due sagas at once, instead of at the next look.
    pub fn wake(&self) {
        self.0.wakeup.notify_one();
    }

    /// The time by the database's clock, which says when sagas are due.
    pub(super) fn now(&self) -> OffsetDateTime {
        self.0.parts.database.clock().now()
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(super) fn owner(&self) -> Uuid {
        self.0.owner
    }

    pub(super) async fn woken(&self) {
        self.0.wakeup.notified().await;
    }

    /// Drives a saga whose lease this process holds, until it has ended or waits. When the order comes to rest, the
    /// reply is stored with it.
    ///
    /// # Errors
    /// [`Error::LostLease`] when another process has taken over; database errors, after which the saga is resumed as
    /// soon as the database is back.
    pub async fn drive(&self, run: Run, caller: &Caller, reply: Option<&Reply>) -> Result<Run, Error> {
        self.drive_at(run, caller, reply, None).await
    }

    /// As [`Engine::drive`], for nobody. When its next step calls a participant that has no place for it, the saga is due
    /// again at once, and not driven on.
    pub(super) async fn resume(&self, run: Run, place: Place) -> Result<Run, Error> {
        self.drive_at(run, &Caller::Nobody, None, Some(place)).await
    }

    async fn drive_at(
        &self,
        run: Run,
        caller: &Caller,
        reply: Option<&Reply>,
        place: Option<Place>,
    ) -> Result<Run, Error> {
        let (facility, id, epoch) = (run.saga.facility.clone(), run.saga.id, run.saga.epoch);
        let driving = self.0.driven.begin(run.order.id);
        let driven = self.drive_on(run, caller, reply, place).await;
        let notified = driving.end();
        if let Err(error) = &driven {
            self.interrupted(&facility, id, epoch, error);
        }
        // Whoever has it now may have written that it waits before this happened.
        if notified && !driven.as_ref().is_ok_and(|run| run.saga.has_ended()) {
            self.wake_waiting(facility, id);
        }
        driven
    }

    async fn drive_on(
        &self,
        mut run: Run,
        caller: &Caller,
        reply: Option<&Reply>,
        mut place: Option<Place>,
    ) -> Result<Run, Error> {
        let mut journal = Journal::new(&run);
        if run.saga.plan.is_empty() && !run.saga.has_ended() {
            run = self
                .advance(&mut journal, &run, Movement::NothingToDo, reply)
                .await?;
        }
        while let (Some(action), None) = (run.saga.action(), run.saga.wake_at) {
            if let Some(place) = &mut place
                && !place.moves_to(action.step.participant())
            {
                return self
                    .advance(&mut journal, &run, Movement::HandedOver, reply)
                    .await;
            }
            let context = self.context(caller, &run.saga.facility)?;
            self.load_claim(&mut run, action).await?;
            let (tried, checkpoint) = self.attempt(&mut journal, &run, action, &context).await?;
            run = checkpoint.unwrap_or(run);
            if let Err(status) = &tried {
                tracing::warn!(
                    saga.id = %run.saga.id, order.id = %run.order.id, saga.step = action.step.name(),
                    saga.compensation = action.compensation, saga.attempts = run.saga.attempts + 1,
                    error.message = super::outcome::text(status), "a step has failed"
                );
            }
            let by = (&self.0.parts.settings, self.now());
            let movement = decide(&run.saga, by, (caller, &context), tried);
            run = self.advance(&mut journal, &run, movement, reply).await?;
        }
        Ok(run)
    }

    /// Where `run` is after `movement`; written, unless the saga goes straight on.
    async fn advance(
        &self,
        journal: &mut Journal,
        run: &Run,
        movement: Movement,
        reply: Option<&Reply>,
    ) -> Result<Run, Error> {
        let next = run.moved(&movement, &self.rules())?;
        journal.moves.push(movement);
        if next.saga.goes_straight_on() && !next.is_at_rest() && Instant::now() < journal.write_by {
            return Ok(next);
        }
        self.commit(journal, next, reply).await
    }

    /// A saga that is resumed reads the claim that it is to prepare.
    async fn load_claim(&self, run: &mut Run, action: Action) -> Result<(), Error> {
        let prepares = action.step == Step::PrepareClaim && !action.compensation;
        if prepares && run.claim.is_none() {
            let mut tx = self.0.parts.database.begin(&run.saga.facility).await?;
            run.claim = store::orders::claim(&mut tx, run.order.id).await?.map(Arc::new);
            tx.commit().await?;
        }
        Ok(())
    }

    /// Makes one try, and keeps the lease for as long as that takes. When it takes long, what came before is written
    /// meanwhile; then the run as it is written is given back, too.
    async fn attempt(
        &self,
        journal: &mut Journal,
        run: &Run,
        action: Action,
        context: &Context,
    ) -> Result<(Result<Outcome, Status>, Option<Run>), Error> {
        let parts = &self.0.parts;
        let refunds = match action.step {
            Step::RefundPayment | Step::RefundBalance => {
                let mut tx = parts.database.begin(&run.saga.facility).await?;
                let refunds = store::refunds::of(&mut tx, run.order.id).await?;
                tx.commit().await?;
                refunds
            }
            _ => Vec::new(),
        };
        let task = Task {
            saga: &run.saga,
            action,
            order: &run.order,
            refund: run.refund.as_ref(),
            refunds: &refunds,
            claim: run.claim.as_deref(),
            now: self.now(),
        };
        let mut trying = pin!(self.keeping(&run.saga, parts.participants.perform(context, &task)));
        if journal.moves.is_empty() {
            return Ok((trying.await?, None));
        }
        tokio::select! {
            tried = &mut trying => Ok((tried?, None)),
            () = tokio::time::sleep_until(journal.write_by) => {
                let written = self.commit(journal, run.clone(), None).await?;
                Ok((trying.await?, Some(written)))
            }
        }
    }

    /// Order, saga, steps, events and answer change in one transaction, from what was written last to `next`. The order's
    /// row is taken before the saga's, here and everywhere.
    async fn commit(
        &self,
        journal: &mut Journal,
        mut next: Run,
        reply: Option<&Reply>,
    ) -> Result<Run, Error> {
        let replies = reply.filter(|_| next.is_at_rest());
        if next.saga.wake_at.is_some() && self.0.driven.park(next.order.id) {
            next.saga.wake_at = Some(self.now());
        }
        if let Some(checkpoint) = self.checkpoint(&journal.written, &next, replies)
            && let Written::Whole { answer } = self.0.checkpoints.submit(checkpoint, None).await?
        {
            next.answer = answer;
            let _ = told::of_order(&mut next.order, None, None);
            let _ = told::of_saga(&mut next.saga);
        } else {
            next = self.commit_alone(journal, next, replies).await?;
        }
        self.committed(journal, &mut next, replies);
        Ok(next)
    }

    /// What is to be written, if that is no more than an order, its saga and an answer.
    fn checkpoint(&self, written: &Run, next: &Run, reply: Option<&Reply>) -> Option<Checkpoint> {
        let is_plain =
            next.successor.is_none() && next.refund == written.refund && next.order.refund_count == 0;
        if !is_plain {
            return None;
        }
        Some(Checkpoint::new(written, next, self.lease_of(&next.saga), reply))
    }

    async fn commit_alone(
        &self,
        journal: &mut Journal,
        mut next: Run,
        reply: Option<&Reply>,
    ) -> Result<Run, Error> {
        let parts = &self.0.parts;
        let written = &mut journal.written;
        let mut tx = parts.database.begin(&written.saga.facility).await?;
        if next.order.version != written.order.version
            && store::orders::save(&mut tx, &[(&next.order, written.order.version)])
                .await?
                .is_empty()
        {
            // An event has changed the order since it was read.
            let locked = store::orders::lock(&mut tx, written.order.id).await?;
            written.order = locked.ok_or_else(|| Error::NoOrder(written.order.id.to_string()))?;
            next = journal.replayed(&self.rules())?;
            store::orders::save(&mut tx, &[(&next.order, journal.written.order.version)]).await?;
        }
        self.write(&mut tx, &journal.written, &mut next).await?;
        if let Some(reply) = reply {
            next.answer = Some(reply.store(&mut tx, &next.order).await?);
        }
        tx.commit().await?;
        Ok(next)
    }

    fn committed(&self, journal: &mut Journal, next: &mut Run, reply: Option<&Reply>) {
        let parts = &self.0.parts;
        next.saga.ended.clear();
        if next.successor.take().is_some() {
            self.wake();
        }
        if let Some(reply) = reply {
            idempotency::announce(&parts.database, &next.order.facility, &reply.key);
        }
        parts.outbox.wake();
        parts.changes.tell(next.order.id);
        *journal = Journal::new(next);
    }

    /// Writes what has become of `run`, all but the order's row, and tells the others.
    pub(crate) async fn write(
        &self,
        conn: &mut PgConnection,
        run: &Run,
        next: &mut Run,
    ) -> Result<(), Error> {
        let moved = Moved {
            saga: &next.saga,
            epoch: run.saga.epoch,
            lease: self.lease_of(&next.saga),
        };
        if store::sagas::save(conn, &[moved]).await?.is_empty() {
            return Err(Error::LostLease);
        }
        if let Some(refund) = next.refund.as_ref().filter(|_| next.refund != run.refund) {
            store::refunds::save(conn, refund).await?;
        }
        let mut events = told::of_order(&mut next.order, Some(next.saga.id), None);
        events.extend(told::of_saga(&mut next.saga));
        if let Some(successor) = &mut next.successor {
            store::sagas::insert(conn, &[(successor, Lease::Released)]).await?;
            events.extend(told::of_saga(successor));
        }
        events::append(conn, &events).await?;
        Ok(())
    }

    pub(crate) fn rules(&self) -> Rules<'_> {
        let parts = &self.0.parts;
        Rules {
            denials: &parts.denials,
            payment_window: parts.payment_window,
            patience: parts.settings.patience(),
            now: self.now(),
        }
    }
}
