//! Replays a dead letter, then in order the events parked behind it.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Worker,
    attempt::{Effect, Outcome, Start, poison_error},
    dead_letter::ParkedBehind,
    message::Message,
    store::{self, Purpose},
};
use crate::{HandlerError, failure::Class, lease::fence, replay_notice};

impl Worker {
    /// Handles a message on `retry.<service>.<consumer>`. It is queued under the same key as the aggregate's other
    /// events, so that none overtakes it.
    pub(super) async fn replay(
        &self,
        dead_letter: Uuid,
        message: &Message,
        epoch: i64,
        suspect: bool,
    ) -> Result<Outcome, sqlx::Error> {
        let mut tx = store::begin(&self.pool, &message.envelope.facility).await?;
        let found = store::find_dead_letter(&mut tx, dead_letter, message).await?;
        tx.rollback().await?;
        // A dead letter that no longer exists was resolved or discarded, and then pruned.
        let Some((state, event)) = found else {
            return Ok(Outcome::Done);
        };
        // A reference runs the event that is stored in the dead letter.
        let event = if message.is_reference() { &event } else { message };
        match state.as_str() {
            "replaying" => {
                if let Some(outcome) = self.replay_head(dead_letter, event, epoch, suspect).await? {
                    return Ok(outcome);
                }
                self.drain_parked(dead_letter, message, epoch, false).await
            }
            "resolved" | "discarded" => self.drain_parked(dead_letter, message, epoch, suspect).await,
            // A duplicate of a replay that has failed.
            _ => Ok(Outcome::Done),
        }
    }

    /// Replays the dead letter itself. `None`: it took effect.
    async fn replay_head(
        &self,
        dead_letter: Uuid,
        message: &Message,
        epoch: i64,
        suspect: bool,
    ) -> Result<Option<Outcome>, sqlx::Error> {
        if suspect {
            match self.record_start(message).await? {
                Start::Proceed => {}
                Start::NotBefore(delay) => return Ok(Some(Outcome::Retry(delay))),
                Start::Poison(starts) => {
                    let error = poison_error(starts);
                    return self
                        .reopen(dead_letter, message, epoch, Class::Crash, &error)
                        .await
                        .map(Some);
                }
            }
        }
        let resolve = async |tx: &mut PgConnection| resolve(tx, dead_letter, &self.handler_version).await;
        match self.apply(message, epoch, Purpose::Replay, resolve).await? {
            Effect::Committed => Ok(None),
            Effect::Fenced => Ok(Some(Outcome::Fenced)),
            Effect::Duplicate | Effect::Blocked => {
                let mut tx = store::begin(&self.pool, &message.envelope.facility).await?;
                resolve(&mut tx).await?;
                tx.commit().await?;
                Ok(None)
            }
            Effect::Failed(error) => match self.record_failure(message, &error).await? {
                Some(delay) => Ok(Some(Outcome::Retry(delay))),
                None => self
                    .reopen(dead_letter, message, epoch, Class::from_error(&error), &error)
                    .await
                    .map(Some),
            },
        }
    }

    /// Replays the events parked behind a resolved or discarded dead letter. Then the aggregate is no longer held.
    async fn drain_parked(
        &self,
        dead_letter: Uuid,
        message: &Message,
        epoch: i64,
        mut suspect: bool,
    ) -> Result<Outcome, sqlx::Error> {
        loop {
            let mut tx = store::begin(&self.pool, &message.envelope.facility).await?;
            if !fence(&mut tx, &self.lease, epoch).await? {
                return Ok(Outcome::Fenced);
            }
            let head = sqlx::query_scalar!(
                "select dead_letter_id from events.parked_key where consumer = $1 and aggregate_id = $2",
                self.name,
                message.key(),
            );
            // Another dead letter is the head now, and its replay continues with the rest.
            if head.fetch_optional(&mut *tx).await? != Some(dead_letter) {
                return Ok(Outcome::Done);
            }
            let Some((parked, next)) = store::first_parked(&mut tx, &self.name, message).await? else {
                store::unpark(&mut tx, &self.name, message.key()).await?;
                tx.commit().await?;
                return Ok(Outcome::Done);
            };
            tx.rollback().await?;
            let behind = ParkedBehind { dead_letter, parked };
            if let Some(outcome) = self.replay_parked(behind, &next, message, epoch, suspect).await? {
                return Ok(outcome);
            }
            suspect = false;
        }
    }

    /// Replays one parked event. `None`: it took effect.
    async fn replay_parked(
        &self,
        behind: ParkedBehind,
        next: &Message,
        carrier: &Message,
        epoch: i64,
        suspect: bool,
    ) -> Result<Option<Outcome>, sqlx::Error> {
        if suspect {
            match self.record_start(next).await? {
                Start::Proceed => {}
                Start::NotBefore(delay) => return Ok(Some(Outcome::Retry(delay))),
                Start::Poison(starts) => {
                    return self
                        .create_dead_letter(next, epoch, Class::Crash, &poison_error(starts), Some(behind))
                        .await
                        .map(Some);
                }
            }
        }
        let parked = behind.parked;
        let remove = async |tx: &mut PgConnection| store::remove_parked(tx, parked).await;
        match self.apply(next, epoch, Purpose::Replay, remove).await? {
            Effect::Committed => Ok(None),
            Effect::Fenced => Ok(Some(Outcome::Fenced)),
            Effect::Duplicate | Effect::Blocked => {
                let mut tx = store::begin(&self.pool, &next.envelope.facility).await?;
                store::remove_parked(&mut tx, parked).await?;
                tx.commit().await?;
                Ok(None)
            }
            Effect::Failed(error) => self
                .on_parked_failure(behind, next, carrier, epoch, &error)
                .await
                .map(Some),
        }
    }

    async fn on_parked_failure(
        &self,
        behind: ParkedBehind,
        next: &Message,
        carrier: &Message,
        epoch: i64,
        error: &HandlerError,
    ) -> Result<Outcome, sqlx::Error> {
        let Some(delay) = self.record_failure(next, error).await? else {
            return self
                .create_dead_letter(next, epoch, Class::from_error(error), error, Some(behind))
                .await;
        };
        if carrier.delivered + 1 < self.settings().max_deliver {
            return Ok(Outcome::Retry(delay));
        }
        // The message that carries the replay has used up its deliveries, so another one continues.
        let mut tx = store::begin(&self.pool, &next.envelope.facility).await?;
        let message_id = format!("continue:{}:{}", behind.dead_letter, Uuid::new_v4());
        replay_notice::send(&mut tx, self.bus.service(), behind.dead_letter, message_id).await?;
        tx.commit().await?;
        Ok(Outcome::Done)
    }
}

async fn resolve(tx: &mut PgConnection, dead_letter: Uuid, version: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update events.dead_letter set state = 'resolved', resolved_at = now(), resolved_version = $2
         where id = $1 and state = 'replaying'",
        dead_letter,
        version,
    )
    .execute(tx)
    .await?;
    Ok(())
}
