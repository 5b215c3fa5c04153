use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use chassis::postgres::Fault;
use sqlx::PgConnection;
use tracing::{Instrument as _, Span};

use super::{
    Worker,
    message::Message,
    store::{self, Mark, Purpose},
};
use crate::{HandlerError, failure::Class, handler, trace};

/// Tries to record the outcome of an event when the database keeps refusing it. After them the event is
/// redelivered later, so that others can run, and becomes a dead letter when its deliveries are used up.
const BOOKKEEPING_TRIES: u32 = 3;

/// The longest wait before an event is retried that the database could not take.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// How long the database may take to end the statement in which a handler was interrupted. Its own limit is ten
/// seconds.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(12);

/// The code of an event that always exceeds the database's timeout. It is not retried any more.
const STATEMENT_TIMED_OUT: &str = "STATEMENT_TIMED_OUT";

/// The outcome of an attempt, from which the acknowledgement follows.
pub(super) enum Outcome {
    /// Took effect, now or before, or is parked in the database.
    Done,
    /// Became a dead letter, for this reason.
    DeadLettered(String),
    /// Failed. It is redelivered after this time.
    Retry(Duration),
    /// The database is unavailable, or a lock blocks the handler. The message stays in progress and is retried
    /// after this time; no failure is counted.
    Wait(Duration),
    /// Another process may own the consumer: nothing is acknowledged.
    Fenced,
    /// Has no outcome yet, so nothing is acknowledged. It is retried alone.
    RetryAlone,
}

/// The result of a handler's transaction.
pub(super) enum Effect {
    Committed,
    /// It had taken effect before, or is a dead letter already.
    Duplicate,
    /// An earlier event of the aggregate is a dead letter.
    Blocked,
    Fenced,
    Failed(HandlerError),
}

/// Whether an event may be handled that the process may not survive.
pub(super) enum Start {
    Proceed,
    NotBefore(Duration),
    /// The number of starts without an outcome has reached the limit.
    Poison(u32),
}

impl Worker {
    /// Handles a message to an outcome. When the database cannot take it (an outage, a lock, a timeout), the
    /// message waits and no failure is counted.
    pub(super) async fn attempt(&self, message: &Message, epoch: i64) -> Outcome {
        let started = Instant::now();
        let span = self.span(message);
        let outcome = self.try_once(message, epoch).instrument(span).await;
        self.record_metrics(message.delivered > 1, started, &outcome);
        outcome
    }

    /// The span of an attempt, as a child of the event's own trace.
    pub(super) fn span(&self, message: &Message) -> Span {
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
        trace::set_parent(&span, &message.envelope.traceparent);
        span
    }

    pub(super) fn record_metrics(&self, redelivered: bool, started: Instant, outcome: &Outcome) {
        let error = match outcome {
            Outcome::Done => "",
            Outcome::Retry(_) => "transient",
            Outcome::Wait(_) => "waiting",
            Outcome::DeadLettered(_) => "dead",
            Outcome::Fenced => "fenced",
            Outcome::RetryAlone => return,
        };
        self.metrics.record_attempt(redelivered, started.elapsed(), error);
    }

    async fn try_once(&self, message: &Message, epoch: i64) -> Outcome {
        let result = match message.dead_letter() {
            Some(dead_letter) => self.replay(dead_letter, message, epoch, message.suspect).await,
            None => self.handle_event(message, epoch, message.suspect).await,
        };
        match result {
            Ok(outcome) => outcome,
            // Outside of the handler, the database can refuse only the message itself.
            Err(error) if matches!(Fault::classify(&error), Fault::Refused) => {
                self.dead_letter_unstorable(message, epoch, &error).await
            }
            Err(error) => {
                if message.suspect
                    && let Err(error) =
                        store::clear_unfinished(&self.pool, &self.name, message.envelope.event_id).await
                {
                    tracing::debug!(consumer = self.name, error = %error, "the recorded start of an attempt was not cleared");
                }
                self.wait_outcome(message, &error)
            }
        }
    }

    /// Stores as a dead letter what the database accepts of a message that it has refused.
    async fn dead_letter_unstorable(&self, message: &Message, epoch: i64, error: &sqlx::Error) -> Outcome {
        let error = HandlerError::permanent("EVENT_UNSTORABLE", error.to_string());
        let write_error = match self
            .create_dead_letter(message, epoch, Class::Permanent, &error, None)
            .await
        {
            Ok(outcome) => return outcome,
            Err(write_error) => write_error,
        };
        if !matches!(Fault::classify(&write_error), Fault::Refused) {
            return self.wait_outcome(message, &write_error);
        }
        tracing::error!(
            consumer = self.name,
            stream.sequence = message.sequence,
            error = %write_error,
            "a message cannot be stored as a dead letter; it remains only in the stream"
        );
        Outcome::DeadLettered("it cannot be stored".into())
    }

    fn wait_outcome(&self, message: &Message, error: &sqlx::Error) -> Outcome {
        let waits = message.waits + 1;
        if !Fault::classify(error).is_transient() && waits >= BOOKKEEPING_TRIES {
            tracing::error!(consumer = self.name, event.id = %message.envelope.event_id, error = %error,
                "the outcome of an event cannot be recorded; it is redelivered later");
            return Outcome::Retry(Duration::from_millis(self.settings().max_backoff_ms));
        }
        // Logged at the first wait, and at every doubling of their number.
        if waits.is_power_of_two() {
            tracing::warn!(consumer = self.name, event.id = %message.envelope.event_id, error = %error, waits,
                "the database is unavailable for an event; it waits");
        }
        Outcome::Wait(self.settings().backoff(waits).min(MAX_WAIT))
    }

    async fn handle_event(
        &self,
        message: &Message,
        epoch: i64,
        suspect: bool,
    ) -> Result<Outcome, sqlx::Error> {
        if suspect {
            match self.record_start(message).await? {
                Start::Proceed => {}
                Start::NotBefore(delay) => return Ok(Outcome::Retry(delay)),
                Start::Poison(starts) => {
                    let error = poison_error(starts);
                    return self
                        .create_dead_letter(message, epoch, Class::Crash, &error, None)
                        .await;
                }
            }
        }
        let effect = self
            .apply(message, epoch, Purpose::Delivery, async |_| Ok(()))
            .await?;
        match effect {
            Effect::Committed | Effect::Duplicate => Ok(Outcome::Done),
            Effect::Fenced => Ok(Outcome::Fenced),
            Effect::Blocked => self.park(message, epoch).await,
            Effect::Failed(error) => match self.record_failure(message, &error).await? {
                Some(delay) => Ok(Outcome::Retry(delay)),
                None => {
                    self.create_dead_letter(message, epoch, Class::from_error(&error), &error, None)
                        .await
                }
            },
        }
    }

    /// Records the start of an attempt that the process may not survive.
    pub(super) async fn record_start(&self, message: &Message) -> Result<Start, sqlx::Error> {
        let start = store::record_start(&self.pool, &self.name, message.envelope.event_id).await?;
        if start.wait > Duration::ZERO {
            return Ok(Start::NotBefore(start.wait));
        }
        if start.unfinished > self.settings().crash_tries {
            return Ok(Start::Poison(start.unfinished - 1));
        }
        Ok(Start::Proceed)
    }

    /// Runs the inbox mark, the handler and `also_write` in one transaction.
    pub(super) async fn apply(
        &self,
        message: &Message,
        epoch: i64,
        purpose: Purpose,
        also_write: impl AsyncFnOnce(&mut PgConnection) -> Result<(), sqlx::Error>,
    ) -> Result<Effect, sqlx::Error> {
        let envelope = &message.envelope;
        let mut tx = store::begin(&self.pool, &envelope.facility).await?;
        let effect = match store::mark(&mut tx, self, message, epoch, purpose).await? {
            Mark::Fenced => Effect::Fenced,
            Mark::Duplicate => Effect::Duplicate,
            Mark::Blocked => Effect::Blocked,
            Mark::New => match self.handle_alone(&mut tx, message).await {
                Ok(()) => {
                    also_write(&mut tx).await?;
                    tx.commit().await?;
                    self.effects.fetch_add(1, Ordering::Relaxed);
                    return Ok(Effect::Committed);
                }
                // The event waits as it does while the database is unavailable.
                Err(HandlerError::Unavailable(_, error)) => {
                    drop(tx);
                    let timed_out = matches!(Fault::classify(&error), Fault::Timeout);
                    return self.on_timeout(message, error, timed_out).await;
                }
                Err(error) => Effect::Failed(error),
            },
        };
        let interrupted = matches!(&effect, Effect::Failed(error) if error.code() == handler::TIMED_OUT);
        match tokio::time::timeout(ROLLBACK_TIMEOUT, tx.rollback()).await {
            Ok(rolled_back) => rolled_back?,
            // The database was slow, not the handler.
            Err(_) if interrupted => return self.on_timeout(message, sqlx::Error::PoolTimedOut, true).await,
            Err(_) => {}
        }
        Ok(effect)
    }

    /// An event waits for as long as the database cannot take it. The wait is bounded only for an event that
    /// exceeds the database's timeout again and again while other events take effect.
    async fn on_timeout(
        &self,
        message: &Message,
        error: sqlx::Error,
        timed_out: bool,
    ) -> Result<Effect, sqlx::Error> {
        let others = self.effects.load(Ordering::Relaxed) > message.effects_before;
        if !timed_out || message.waits == 0 || !others {
            return Err(error);
        }
        let times = store::record_timeout(&self.pool, &self.name, message.envelope.event_id).await?;
        if times < self.settings().timeout_tries {
            return Err(error);
        }
        let text = format!(
            "it ran into the database's limit of time {times} times while others took effect: {error}"
        );
        Ok(Effect::Failed(HandlerError::transient(STATEMENT_TIMED_OUT, text)))
    }

    async fn handle_alone(&self, tx: &mut PgConnection, message: &Message) -> Result<(), HandlerError> {
        self.handle(tx, message, self.handler_timeout()).await?;
        store::check_not_aborted(tx).await
    }

    pub(super) async fn handle(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        limit: Duration,
    ) -> Result<(), HandlerError> {
        let delivery = message.delivery()?;
        let started = Instant::now();
        let handled = handler::run(self.handler.handle(tx, &delivery), limit).await;
        self.batch_size().record_handler_time(started.elapsed());
        handled
    }

    /// Counts a failure. `None`: the event becomes a dead letter.
    pub(super) async fn record_failure(
        &self,
        message: &Message,
        error: &HandlerError,
    ) -> Result<Option<Duration>, sqlx::Error> {
        let event = message.envelope.event_id;
        let before = store::count_failures(&self.pool, &self.name, event).await?;
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
        let retry = matches!(error, HandlerError::Transient(..))
            && error.code() != STATEMENT_TIMED_OUT
            && failures < self.settings().attempts;
        Ok(retry.then_some(delay))
    }
}

pub(super) fn poison_error(starts: u32) -> HandlerError {
    let text = format!("the process died in {starts} recorded attempts at this event");
    HandlerError::permanent("PROCESS_DIED", text)
}
