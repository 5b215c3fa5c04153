use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use chassis::postgres::Fault;
use sqlx::PgConnection;
use tracing::{Instrument as _, Span};

use super::{
    Worker,
    inbound::Inbound,
    store::{self, Mark},
};
use crate::{HandlerError, dead_letter::Class, handler, trace};

/// Tries at writing down what became of an event, when the database refuses that in a way that does not pass. Then the
/// event gives way to others; it comes again, and is dead when its deliveries are used up.
const BOOKKEEPING_TRIES: u32 = 3;

/// The longest time between two looks whether the database is back, or a lock is gone.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long the database may take to end the statement that a handler was interrupted in; its own limit is ten seconds.
const ROLLBACK: Duration = Duration::from_secs(12);

/// The code of an event that always needs more than the database's limit of time. It has had its tries.
const ALWAYS_OUT_OF_TIME: &str = "STATEMENT_TIMED_OUT";

/// What the broker is to be told.
pub(super) enum Outcome {
    /// Took effect, now or before, or waits safely in the database.
    Done,
    /// Became a dead letter.
    Dead(String),
    /// Failed; deliver again after this time.
    Again(Duration),
    /// The database is away, or somebody has locked what the handler needs: it stays in hand, and is tried after this
    /// time. That is no failure of the event's.
    Wait(Duration),
    /// Another process may own the consumer: say nothing.
    Fenced,
    /// Has no end yet, and says nothing: it is to be tried alone.
    Apart,
}

/// Why a handler runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Delivery,
    /// It is the event's turn although it, or one before it, is dead.
    Replay,
}

/// What became of a handler's run.
pub(super) enum Effect {
    Committed,
    /// It had taken effect before, or is a dead letter already.
    Duplicate,
    /// An earlier event of the aggregate is dead.
    Behind,
    Fenced,
    Failed(HandlerError),
}

/// Whether a suspect may be handled.
pub(super) enum Start {
    Go,
    NotBefore(Duration),
    /// Its starts without an end have reached the limit.
    Poison(u32),
}

impl Worker {
    /// Handles a message to an outcome. When the database cannot take it (an outage, a lock, a limit of time) it waits,
    /// and nothing is counted.
    pub(super) async fn attempt(&self, message: &Inbound, epoch: i64) -> Outcome {
        let started = Instant::now();
        let span = self.span(message);
        let outcome = self.try_once(message, epoch).instrument(span).await;
        self.meter(message.delivered > 1, started, &outcome);
        outcome
    }

    /// The span of an attempt, below the event's own trace.
    pub(super) fn span(&self, message: &Inbound) -> Span {
        let span = tracing::info_span!(
            "process",
            otel.name = format!("process {}", self.name),
            otel.kind = "consumer",
            messaging.system = "nats",
            messaging.operation.type = "process",
            messaging.destination.name = message.subject,
            messaging.consumer.group.name = self.name,
            messaging.message.id = message.message_id,
            event.type = message.envelope.type_name,
        );
        trace::hang_below(&span, &message.envelope.traceparent);
        span
    }

    pub(super) fn meter(&self, redelivered: bool, started: Instant, outcome: &Outcome) {
        let error = match outcome {
            Outcome::Done => "",
            Outcome::Again(_) => "transient",
            Outcome::Wait(_) => "waiting",
            Outcome::Dead(_) => "dead",
            Outcome::Fenced => "fenced",
            Outcome::Apart => return,
        };
        self.meters.processed(redelivered, started.elapsed(), error);
    }

    async fn try_once(&self, message: &Inbound, epoch: i64) -> Outcome {
        let tried = match message.dead_letter() {
            Some(dead_letter) => self.replay(dead_letter, message, epoch, message.suspect).await,
            None => self.event(message, epoch, message.suspect).await,
        };
        match tried {
            Ok(outcome) => outcome,
            // Outside of the handler only the message itself can be what the database refuses.
            Err(error) if matches!(Fault::of(&error), Fault::Refused) => {
                self.unstorable(message, epoch, &error).await
            }
            Err(error) => {
                if message.suspect
                    && let Err(error) =
                        store::survived(&self.pool, &self.name, message.envelope.event_id).await
                {
                    tracing::debug!(consumer = self.name, error = %error, "the start of an attempt stays on record");
                }
                self.wait(message, &error)
            }
        }
    }

    /// Keeps what can be kept of a message that the database does not take.
    async fn unstorable(&self, message: &Inbound, epoch: i64, error: &sqlx::Error) -> Outcome {
        let error = HandlerError::permanent("EVENT_UNSTORABLE", error.to_string());
        let unwritten = match self.bury(message, epoch, Class::Permanent, &error, None).await {
            Ok(outcome) => return outcome,
            Err(unwritten) => unwritten,
        };
        if !matches!(Fault::of(&unwritten), Fault::Refused) {
            return self.wait(message, &unwritten);
        }
        tracing::error!(
            consumer = self.name,
            stream.sequence = message.sequence,
            error = %unwritten,
            "a message cannot be kept as a dead letter; it stays in the stream alone"
        );
        Outcome::Dead("it cannot be stored".into())
    }

    fn wait(&self, message: &Inbound, error: &sqlx::Error) -> Outcome {
        let waits = message.waits + 1;
        if !Fault::of(error).is_passing() && waits >= BOOKKEEPING_TRIES {
            tracing::error!(consumer = self.name, event.id = %message.envelope.event_id, error = %error,
                "what became of an event cannot be recorded; it is delivered again later");
            return Outcome::Again(Duration::from_millis(self.settings().max_backoff_ms));
        }
        // A warning at the first time, and ever more rarely.
        if waits.is_power_of_two() {
            tracing::warn!(consumer = self.name, event.id = %message.envelope.event_id, error = %error, waits,
                "the database cannot take an event now; it waits");
        }
        Outcome::Wait(self.settings().backoff(waits).min(LONGEST_WAIT))
    }

    async fn event(&self, message: &Inbound, epoch: i64, suspect: bool) -> Result<Outcome, sqlx::Error> {
        if suspect {
            match self.start(message).await? {
                Start::Go => {}
                Start::NotBefore(delay) => return Ok(Outcome::Again(delay)),
                Start::Poison(starts) => {
                    let error = poison(starts);
                    return self.bury(message, epoch, Class::Crash, &error, None).await;
                }
            }
        }
        let effect = self
            .effect(message, epoch, Purpose::Delivery, async |_| Ok(()))
            .await?;
        match effect {
            Effect::Committed | Effect::Duplicate => Ok(Outcome::Done),
            Effect::Fenced => Ok(Outcome::Fenced),
            Effect::Behind => self.park(message, epoch).await,
            Effect::Failed(error) => match self.failed(message, &error).await? {
                Some(delay) => Ok(Outcome::Again(delay)),
                None => self.bury(message, epoch, Class::of(&error), &error, None).await,
            },
        }
    }

    /// Records the start of an attempt that the process may not survive.
    pub(super) async fn start(&self, message: &Inbound) -> Result<Start, sqlx::Error> {
        let start = store::start(&self.pool, &self.name, message.envelope.event_id).await?;
        if start.wait > Duration::ZERO {
            return Ok(Start::NotBefore(start.wait));
        }
        if start.unfinished > self.settings().crash_tries {
            return Ok(Start::Poison(start.unfinished - 1));
        }
        Ok(Start::Go)
    }

    /// Inbox mark, handler and `also` in one transaction.
    pub(super) async fn effect(
        &self,
        message: &Inbound,
        epoch: i64,
        purpose: Purpose,
        also: impl AsyncFnOnce(&mut PgConnection) -> Result<(), sqlx::Error>,
    ) -> Result<Effect, sqlx::Error> {
        let envelope = &message.envelope;
        let mut tx = store::begin(&self.pool, &envelope.facility).await?;
        let effect = match store::mark(&mut tx, self, message, epoch, purpose).await? {
            Mark::Fenced => Effect::Fenced,
            Mark::Known => Effect::Duplicate,
            Mark::Behind => Effect::Behind,
            Mark::New => match self.handle_alone(&mut tx, message).await {
                Ok(()) => {
                    also(&mut tx).await?;
                    tx.commit().await?;
                    self.effects.fetch_add(1, Ordering::Relaxed);
                    return Ok(Effect::Committed);
                }
                // The event waits as it does while the database is away.
                Err(HandlerError::Unavailable(_, error)) => {
                    drop(tx);
                    let ran_out = matches!(Fault::of(&error), Fault::Timeout);
                    return self.out_of_time(message, error, ran_out).await;
                }
                Err(error) => Effect::Failed(error),
            },
        };
        let interrupted = matches!(&effect, Effect::Failed(error) if error.code() == handler::TIMED_OUT);
        match tokio::time::timeout(ROLLBACK, tx.rollback()).await {
            Ok(rolled_back) => rolled_back?,
            // It was the database that took so long, and not the handler.
            Err(_) if interrupted => return self.out_of_time(message, sqlx::Error::PoolTimedOut, true).await,
            Err(_) => {}
        }
        Ok(effect)
    }

    /// An event waits for as long as the database cannot take it. But where others take effect between its tries, and it
    /// alone always needs more than the database's limit of time, the waiting has an end.
    async fn out_of_time(
        &self,
        message: &Inbound,
        error: sqlx::Error,
        ran_out: bool,
    ) -> Result<Effect, sqlx::Error> {
        let others = self.effects.load(Ordering::Relaxed) > message.effects_before;
        if !ran_out || message.waits == 0 || !others {
            return Err(error);
        }
        let times = store::record_timeout(&self.pool, &self.name, message.envelope.event_id).await?;
        if times < self.settings().timeout_tries {
            return Err(error);
        }
        let text = format!(
            "it ran into the database's limit of time {times} times while others took effect: {error}"
        );
        Ok(Effect::Failed(HandlerError::transient(ALWAYS_OUT_OF_TIME, text)))
    }

    async fn handle_alone(&self, tx: &mut PgConnection, message: &Inbound) -> Result<(), HandlerError> {
        self.handle(tx, message, self.handler_timeout()).await?;
        store::intact(tx).await
    }

    pub(super) async fn handle(
        &self,
        tx: &mut PgConnection,
        message: &Inbound,
        limit: Duration,
    ) -> Result<(), HandlerError> {
        let delivery = message.delivery()?;
        let started = Instant::now();
        let handled = handler::run(self.handler.handle(tx, &delivery), limit).await;
        self.pace().handled(started.elapsed());
        handled
    }

    /// Counts a failure. `None`: the event is dead.
    pub(super) async fn failed(
        &self,
        message: &Inbound,
        error: &HandlerError,
    ) -> Result<Option<Duration>, sqlx::Error> {
        let event = message.envelope.event_id;
        let before = store::failures(&self.pool, &self.name, event).await?;
        let delay = self.settings().backoff(before + 1);
        let failures = store::record_failure(&self.pool, &self.name, event, error, delay).await?;
        tracing::warn!(
            consumer = self.name,
            event.id = %event,
            error.code = error.code(),
            error = error.message(),
            failures,
            "an attempt failed"
        );
        let again = matches!(error, HandlerError::Transient(..))
            && error.code() != ALWAYS_OUT_OF_TIME
            && failures < self.settings().attempts;
        Ok(again.then_some(delay))
    }
}

pub(super) fn poison(starts: u32) -> HandlerError {
    let text = format!("the process died in {starts} recorded attempts at this event");
    HandlerError::permanent("PROCESS_DIED", text)
}
