//! Several events in one transaction: they share its begin, its marks and its synced commit.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use sqlx::PgConnection;
use tracing::{Instrument as _, Span};

use super::{
    Worker,
    attempt::Outcome,
    message::Message,
    store::{self, Mark, Purpose},
};
use crate::{HandlerError, handler};

/// The timeout of all handlers of one transaction together. It bounds how long the events wait for a slow one
/// among them.
const BATCH_TIMEOUT: Duration = Duration::from_millis(250);

impl Worker {
    /// Handles events of one facility and of different aggregates in one transaction.
    ///
    /// All of them take effect, or none. When a handler or the database fails, no failure is counted: each event
    /// is retried alone, which shows the one at fault.
    pub(super) async fn handle_batch(&self, messages: &[Message], epoch: i64) -> Vec<Outcome> {
        let started = Instant::now();
        let spans: Vec<_> = messages.iter().map(|message| self.span(message)).collect();
        let marks = match self.handle_in_one_transaction(messages, &spans, epoch).await {
            Ok(marks) => marks,
            Err(error) => {
                tracing::debug!(
                    consumer = self.name,
                    events = messages.len(),
                    error = %error,
                    "events are handled one by one"
                );
                self.batch_size().record_rollback();
                return messages.iter().map(|_| Outcome::RetryAlone).collect();
            }
        };
        let outcomes = marks.into_iter().map(|mark| match mark {
            Mark::New | Mark::Duplicate => Outcome::Done,
            Mark::Blocked => Outcome::RetryAlone,
            Mark::Fenced => Outcome::Fenced,
        });
        outcomes
            .inspect(|outcome| self.record_metrics(false, started, outcome))
            .collect()
    }

    async fn handle_in_one_transaction(
        &self,
        messages: &[Message],
        spans: &[Span],
        epoch: i64,
    ) -> Result<Vec<Mark>, HandlerError> {
        let Some(first) = messages.first() else {
            return Ok(Vec::new());
        };
        let mut tx = store::begin_with_timeout(&self.pool, &first.envelope.facility, BATCH_TIMEOUT).await?;
        match self.handle_all(&mut tx, messages, spans, epoch).await {
            Ok(marks) => {
                tx.commit().await?;
                let new = marks.iter().filter(|mark| **mark == Mark::New).count();
                self.effects.fetch_add(new as u64, Ordering::Relaxed);
                Ok(marks)
            }
            Err(error) => {
                // Waits for the rollback, since the attempts that follow need the same rows.
                tx.rollback().await?;
                Err(error)
            }
        }
    }

    async fn handle_all(
        &self,
        tx: &mut PgConnection,
        messages: &[Message],
        spans: &[Span],
        epoch: i64,
    ) -> Result<Vec<Mark>, HandlerError> {
        let marks = store::mark_all(tx, self, messages, epoch, Purpose::Delivery).await?;
        let started = Instant::now();
        let new = messages
            .iter()
            .zip(&marks)
            .filter(|(_, mark)| **mark == Mark::New);
        let deliveries = new
            .map(|(message, _)| message.delivery())
            .collect::<Result<Vec<_>, _>>()?;
        let limit = BATCH_TIMEOUT.min(self.handler_timeout());
        if deliveries.len() > 1 && handler::run(self.handler.handle_all(tx, &deliveries), limit).await? {
            let each = started.elapsed() / u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
            self.batch_size().record_handler_time(each);
            store::check_not_aborted(tx).await?;
            return Ok(marks);
        }
        for ((message, span), mark) in messages.iter().zip(spans).zip(&marks) {
            if *mark == Mark::New {
                let remaining = BATCH_TIMEOUT.saturating_sub(started.elapsed());
                self.handle(tx, message, remaining.min(self.handler_timeout()))
                    .instrument(span.clone())
                    .await?;
            }
        }
        store::check_not_aborted(tx).await?;
        Ok(marks)
    }
}
