//! A dead letter's second chance: the head first, then in order what waits behind it.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Worker,
    attempt::{Effect, Outcome, Purpose, Start, poison},
    ending::Behind,
    inbound::Inbound,
    store,
};
use crate::{
    HandlerError,
    dead_letter::{self, Class},
    lease::fence,
};

impl Worker {
    /// Handles a message on `retry.<service>.<consumer>`. It shares its key's turn with the aggregate's other
    /// events, so nothing overtakes.
    pub(super) async fn replay(
        &self,
        dead_letter: Uuid,
        message: &Inbound,
        epoch: i64,
        suspect: bool,
    ) -> Result<Outcome, sqlx::Error> {
        let mut tx = store::begin(&self.pool, &message.envelope.facility).await?;
        let found = store::dead_letter(&mut tx, dead_letter, message).await?;
        tx.rollback().await?;
        // One that is gone was settled long ago.
        let Some((state, event)) = found else {
            return Ok(Outcome::Done);
        };
        // The event itself, and the turn of the message that stands for it.
        let event = match message.is_reference() {
            true => &event,
            false => message,
        };
        match state.as_str() {
            "replaying" => {
                if let Some(outcome) = self.head(dead_letter, event, epoch, suspect).await? {
                    return Ok(outcome);
                }
                self.drain_parked(dead_letter, message, epoch, false).await
            }
            "resolved" | "discarded" => self.drain_parked(dead_letter, message, epoch, suspect).await,
            // A replay that has failed and is told once more.
            _ => Ok(Outcome::Done),
        }
    }

    /// The dead letter itself. `None`: it took effect.
    async fn head(
        &self,
        dead_letter: Uuid,
        message: &Inbound,
        epoch: i64,
        suspect: bool,
    ) -> Result<Option<Outcome>, sqlx::Error> {
        if suspect {
            match self.start(message).await? {
                Start::Go => {}
                Start::NotBefore(delay) => return Ok(Some(Outcome::Again(delay))),
                Start::Poison(starts) => {
                    let error = poison(starts);
                    return self
                        .reopen(dead_letter, message, epoch, Class::Crash, &error)
                        .await
                        .map(Some);
                }
            }
        }
        let resolve = async |tx: &mut PgConnection| resolve(tx, dead_letter, &self.handler_version).await;
        match self.effect(message, epoch, Purpose::Replay, resolve).await? {
            Effect::Committed => Ok(None),
            Effect::Fenced => Ok(Some(Outcome::Fenced)),
            Effect::Duplicate | Effect::Behind => {
                let mut tx = store::begin(&self.pool, &message.envelope.facility).await?;
                resolve(&mut tx).await?;
                tx.commit().await?;
                Ok(None)
            }
            Effect::Failed(error) => match self.failed(message, &error).await? {
                Some(delay) => Ok(Some(Outcome::Again(delay))),
                None => self
                    .reopen(dead_letter, message, epoch, Class::of(&error), &error)
                    .await
                    .map(Some),
            },
        }
    }

    /// Everything that waits behind a dead letter that is resolved or discarded; then the aggregate flows again.
    async fn drain_parked(
        &self,
        dead_letter: Uuid,
        message: &Inbound,
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
            // Another dead letter has become the head: it decides when the rest goes on.
            if head.fetch_optional(&mut *tx).await? != Some(dead_letter) {
                return Ok(Outcome::Done);
            }
            let Some((parked, next)) = store::first_parked(&mut tx, &self.name, message).await? else {
                store::unpark(&mut tx, &self.name, message.key()).await?;
                tx.commit().await?;
                return Ok(Outcome::Done);
            };
            tx.rollback().await?;
            let behind = Behind { dead_letter, parked };
            if let Some(outcome) = self.parked(behind, &next, message, epoch, suspect).await? {
                return Ok(outcome);
            }
            suspect = false;
        }
    }

    /// One parked event. `None`: it took effect.
    async fn parked(
        &self,
        behind: Behind,
        next: &Inbound,
        carrier: &Inbound,
        epoch: i64,
        suspect: bool,
    ) -> Result<Option<Outcome>, sqlx::Error> {
        if suspect {
            match self.start(next).await? {
                Start::Go => {}
                Start::NotBefore(delay) => return Ok(Some(Outcome::Again(delay))),
                Start::Poison(starts) => {
                    return self
                        .bury(next, epoch, Class::Crash, &poison(starts), Some(behind))
                        .await
                        .map(Some);
                }
            }
        }
        let parked = behind.parked;
        let remove = async |tx: &mut PgConnection| store::remove_parked(tx, parked).await;
        match self.effect(next, epoch, Purpose::Replay, remove).await? {
            Effect::Committed => Ok(None),
            Effect::Fenced => Ok(Some(Outcome::Fenced)),
            Effect::Duplicate | Effect::Behind => {
                let mut tx = store::begin(&self.pool, &next.envelope.facility).await?;
                store::remove_parked(&mut tx, parked).await?;
                tx.commit().await?;
                Ok(None)
            }
            Effect::Failed(error) => self
                .parked_failed(behind, next, carrier, epoch, &error)
                .await
                .map(Some),
        }
    }

    async fn parked_failed(
        &self,
        behind: Behind,
        next: &Inbound,
        carrier: &Inbound,
        epoch: i64,
        error: &HandlerError,
    ) -> Result<Outcome, sqlx::Error> {
        let Some(delay) = self.failed(next, error).await? else {
            return self
                .bury(next, epoch, Class::of(error), error, Some(behind))
                .await;
        };
        if carrier.delivered + 1 < self.settings().max_deliver {
            return Ok(Outcome::Again(delay));
        }
        // The message that carries the replay has used up its deliveries: another one goes on.
        let mut tx = store::begin(&self.pool, &next.envelope.facility).await?;
        let message_id = format!("continue:{}:{}", behind.dead_letter, Uuid::new_v4());
        dead_letter::call(&mut tx, self.bus.service(), behind.dead_letter, message_id).await?;
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
