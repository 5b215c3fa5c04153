//! Drives sagas: one try at a step, one transaction for what follows from it, and again.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use chassis::{Facility, Tasks, auth::ServiceTokens, idempotency, postgres::Database};
use mesh::Context;
use sqlx::PgConnection;
use tokio::{sync::Notify, time::Instant};
use tonic::Status;
use uuid::Uuid;

use super::{
    Action, Outcome, Participants, Run, Saga, Step,
    decide::{Movement, decide},
    follow::Rules,
    participants::Task,
};
use crate::{
    answer::Reply,
    changes::Changes,
    config,
    error::Error,
    settlement::DenialPolicy,
    store::{self, sagas::Lease},
    told,
};

/// Drives sagas. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    parts: Parts,
    /// This process, as the holder of leases.
    owner: Uuid,
    wakeup: Notify,
}

/// Between two tries to give a lease back.
const LET_GO_AGAIN: Duration = Duration::from_millis(100);

/// What an engine is made of.
pub struct Parts {
    pub tasks: Tasks,
    pub database: Database,
    pub participants: Participants,
    pub tokens: ServiceTokens,
    pub outbox: events::Outbox,
    pub changes: Changes,
    pub denials: Arc<DenialPolicy>,
    pub settings: config::Saga,
    pub payment_window: time::Duration,
}

/// On whose behalf, and until when.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Somebody waits: calls carry the token and end with the deadline.
    Waiting(Context),
    /// Nobody does: calls carry the service's own token.
    Nobody,
}

impl Engine {
    /// An engine with a lease name of its own.
    pub fn new(parts: Parts) -> Engine {
        Engine(Arc::new(Inner {
            parts,
            owner: Uuid::new_v4(),
            wakeup: Notify::new(),
        }))
    }

    /// The lease under which this process begins a saga and drives it.
    pub fn lease(&self) -> Lease {
        Lease::Kept(self.0.owner, self.0.parts.settings.lease())
    }

    /// Looks for due sagas at once, instead of at the next look.
    pub fn wake(&self) {
        self.0.wakeup.notify_one();
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
        let (facility, id, epoch) = (run.saga.facility.clone(), run.saga.id, run.saga.epoch);
        let driven = self.drive_on(run, caller, reply).await;
        if let Err(error) = &driven {
            self.interrupted(&facility, id, epoch, error);
        }
        driven
    }

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
        self.0.parts.tasks.run(async move {
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
        let parts = &self.0.parts;
        let mut tx = parts.database.begin(facility).await?;
        let Some(mut saga) = store::sagas::lock(&mut tx, id).await? else {
            return Ok(());
        };
        if saga.has_ended() {
            return Ok(());
        }
        saga.stuck(reason, parts.settings.stuck_retry());
        if store::sagas::save(&mut tx, &saga, epoch, Lease::Released).await? {
            events::append(&mut tx, &told::of_saga(&mut saga)).await?;
            tx.commit().await?;
            parts.outbox.wake();
        }
        Ok(())
    }

    async fn set_aside(&self, facility: &Facility, id: Uuid, epoch: i64, reason: &str) -> Result<(), Error> {
        let parts = &self.0.parts;
        let mut tx = parts.database.begin(facility).await?;
        store::sagas::set_aside(&mut tx, (id, epoch), reason, parts.settings.stuck_retry()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives the lease back as soon as the database is there again: this process is alive, and nobody should wait for
    /// the lease to run out.
    fn let_go(&self, facility: Facility, id: Uuid, epoch: i64) {
        let engine = self.clone();
        self.0.parts.tasks.run(async move {
            let until = Instant::now() + engine.0.parts.settings.lease();
            while Instant::now() < until {
                if engine.release(&facility, id, epoch).await.is_ok() {
                    return engine.wake();
                }
                tokio::time::sleep(LET_GO_AGAIN).await;
            }
        });
    }

    async fn release(&self, facility: &Facility, id: Uuid, epoch: i64) -> Result<(), sqlx::Error> {
        let mut tx = self.0.parts.database.begin(facility).await?;
        store::sagas::release(&mut tx, id, epoch).await?;
        tx.commit().await
    }

    async fn drive_on(&self, mut run: Run, caller: &Caller, reply: Option<&Reply>) -> Result<Run, Error> {
        if run.saga.plan.is_empty() && !run.saga.has_ended() {
            run = self.commit(run, &Movement::NothingToDo, reply).await?;
        }
        while let (Some(action), None) = (run.saga.action(), run.saga.wake_at) {
            let context = self.context(caller, &run.saga.facility)?;
            let tried = self.attempt(&mut run, action, &context).await?;
            if let Err(status) = &tried {
                tracing::warn!(
                    saga.id = %run.saga.id, order.id = %run.order.id, saga.step = action.step.name(),
                    saga.compensation = action.compensation, saga.attempts = run.saga.attempts + 1,
                    error.message = super::outcome::text(status), "a step has failed"
                );
            }
            let movement = decide(&run.saga, &self.0.parts.settings, (caller, &context), tried);
            run = self.commit(run, &movement, reply).await?;
        }
        Ok(run)
    }

    /// Makes one try, and keeps the lease for as long as that takes.
    async fn attempt(
        &self,
        run: &mut Run,
        action: Action,
        context: &Context,
    ) -> Result<Result<Outcome, Status>, Error> {
        let parts = &self.0.parts;
        if run.claim.is_none()
            && action
                == (Action {
                    step: Step::PrepareClaim,
                    compensation: false,
                })
        {
            let mut tx = parts.database.begin(&run.saga.facility).await?;
            run.claim = store::orders::claim(&mut tx, run.order.id).await?.map(Arc::new);
            tx.commit().await?;
        }
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
        };
        self.keeping(&run.saga, parts.participants.perform(context, &task))
            .await
    }

    /// Renews the lease every third of its time while `work` runs.
    async fn keeping<T>(&self, saga: &Saga, work: impl Future<Output = T>) -> Result<T, Error> {
        let lease = self.0.parts.settings.lease();
        let mut work = pin!(work);
        let mut beat = tokio::time::interval_at(Instant::now() + lease / 3, lease / 3);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                _ = beat.tick() => {}
            }
            match self.renew(saga, lease).await {
                Ok(true) => {}
                Ok(false) => return Err(Error::LostLease),
                // The epoch still guards every write: the step may go on.
                Err(error) => {
                    tracing::warn!(saga.id = %saga.id, error.message = %error, "a lease was not renewed");
                }
            }
        }
    }

    async fn renew(&self, saga: &Saga, lease: Duration) -> Result<bool, sqlx::Error> {
        let mut tx = self.0.parts.database.begin(&saga.facility).await?;
        let renewed = store::sagas::renew(&mut tx, saga, lease).await?;
        tx.commit().await?;
        Ok(renewed)
    }

    /// Order, saga, step, events and answer change in one transaction. The order's row is taken before the saga's,
    /// here and everywhere.
    async fn commit(&self, mut run: Run, movement: &Movement, reply: Option<&Reply>) -> Result<Run, Error> {
        let parts = &self.0.parts;
        let mut tx = parts.database.begin(&run.saga.facility).await?;
        let mut next = run.moved(movement, &self.rules())?;
        if next.order.version != run.order.version
            && !store::orders::save(&mut tx, &next.order, run.order.version).await?
        {
            // An event has changed the order since it was read.
            let locked = store::orders::lock(&mut tx, run.order.id).await?;
            run.order = locked.ok_or_else(|| Error::NoOrder(run.order.id.to_string()))?;
            next = run.moved(movement, &self.rules())?;
            store::orders::save(&mut tx, &next.order, run.order.version).await?;
        }
        self.write(&mut tx, &run, &mut next).await?;
        let replies = reply.filter(|_| next.is_at_rest());
        if let Some(reply) = replies {
            next.answer = Some(reply.store(&mut tx, &next.order).await?);
        }
        tx.commit().await?;

        next.saga.ended = None;
        if next.successor.take().is_some() {
            self.wake();
        }
        if let Some(reply) = replies {
            idempotency::announce(&parts.database, &next.order.facility, &reply.key);
        }
        parts.outbox.wake();
        parts.changes.tell(next.order.id);
        Ok(next)
    }

    /// Writes what has become of `run`, all but the order's row, and tells the others.
    pub(crate) async fn write(
        &self,
        conn: &mut PgConnection,
        run: &Run,
        next: &mut Run,
    ) -> Result<(), Error> {
        let parked = next.saga.has_ended() || next.saga.wake_at.is_some();
        let lease = if parked { Lease::Released } else { self.lease() };
        if !store::sagas::save(conn, &next.saga, run.saga.epoch, lease).await? {
            return Err(Error::LostLease);
        }
        if let Some(refund) = next.refund.as_ref().filter(|_| next.refund != run.refund) {
            store::refunds::save(conn, refund).await?;
        }
        let mut events = told::of_order(&mut next.order, Some(next.saga.id), None);
        events.extend(told::of_saga(&mut next.saga));
        if let Some(successor) = &mut next.successor {
            store::sagas::insert(conn, successor, Lease::Released).await?;
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
        }
    }

    /// What a call of the service's own is made with.
    ///
    /// # Errors
    /// When no token can be signed.
    pub fn own_context(&self, facility: &Facility) -> Result<Context, Error> {
        let bearer = self.0.parts.tokens.bearer(facility)?;
        Ok(Context::new()
            .with_bearer(bearer)
            .with_timeout(self.0.parts.settings.step_timeout()))
    }

    fn context(&self, caller: &Caller, facility: &Facility) -> Result<Context, Error> {
        match caller {
            Caller::Waiting(context) => Ok(context.clone()),
            Caller::Nobody => self.own_context(facility),
        }
    }
}
