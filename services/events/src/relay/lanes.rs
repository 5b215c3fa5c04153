//! Which lanes of the outbox this relay owns.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Pending;
use crate::{
    envelope::{self, Envelope, Headers},
    outbox::LANES,
};

/// The lanes of one relay. Its owner id is new with every start, so it serves as the fence: rows are read only
/// together with a lease in that name, and nothing is published after the lease's time by the monotonic clock.
pub(super) struct Lanes {
    owner: String,
    ttl: Duration,
    held: Vec<i16>,
    until: Option<Instant>,
}

/// A message that waits. Events have no headers yet: they are made of the columns below them, which notices lack.
struct Row {
    id: i64,
    lane: i16,
    message_id: String,
    subject: String,
    body: Bytes,
    headers: Option<serde_json::Value>,
    event_id: Option<Uuid>,
    type_name: Option<String>,
    occurred_at: Option<OffsetDateTime>,
    facility: Option<String>,
    aggregate: Option<String>,
    aggregate_id: Option<Uuid>,
    version: Option<i64>,
    saga_id: Option<Uuid>,
    causation_id: Option<Uuid>,
    traceparent: Option<String>,
    attempts: Option<i32>,
}

impl Lanes {
    pub(super) fn new(owner: Uuid, ttl: Duration) -> Self {
        Self {
            owner: owner.to_string(),
            ttl,
            held: Vec::new(),
            until: None,
        }
    }

    pub(super) fn held(&self) -> &[i16] {
        &self.held
    }

    /// A third of the lease has passed.
    pub(super) fn are_due(&self) -> bool {
        self.until
            .is_none_or(|until| Instant::now() + self.ttl.mul_f64(2.0 / 3.0) > until)
    }

    /// Renews and balances the lanes when that is due.
    pub(super) async fn keep(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        if !self.are_due() {
            return Ok(());
        }
        if self.until.is_none() {
            self.lay_out(pool).await?;
        }
        let asked = Instant::now();
        let share = self.share(pool).await?;
        self.held = self.renew(pool).await?;
        if self.held.len() > share {
            let surplus = self.held.split_off(share);
            self.give_back(pool, &surplus).await?;
        } else if self.held.len() < share {
            let missing = share - self.held.len();
            self.held.extend(self.take(pool, missing).await?);
        }
        self.until = Some(asked + self.ttl);
        Ok(())
    }

    pub(super) fn are_current(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// The oldest messages of those of the lanes that are still this relay's.
    pub(super) async fn read(
        &self,
        pool: &PgPool,
        lanes: &[i16],
        at_most: usize,
    ) -> Result<Vec<Pending>, sqlx::Error> {
        let rows = sqlx::query_as!(
            Row,
            r#"select id as "id!", lane as "lane!", message_id as "message_id!", subject as "subject!", body as "body!",
                   headers, event_id, type as type_name, occurred_at, facility, aggregate, aggregate_id, version,
                   saga_id, causation_id, traceparent, attempts
               from events.outbox_page($1, $2, $3)"#,
            self.owner,
            lanes,
            i64::try_from(at_most).unwrap_or(i64::MAX),
        )
        .fetch_all(pool)
        .await?;
        rows.into_iter().map(Row::pending).collect()
    }

    /// Lets other relays have the lanes at once.
    pub(super) async fn release(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update events.lease set until = '-infinity' where owner = $1",
            self.owner
        )
        .execute(pool)
        .await?;
        Ok(())
    }

    async fn lay_out(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "insert into events.lease (name, owner, epoch, until)
             select 'lane:' || lane, '', 0, '-infinity' from generate_series(0, $1::int - 1) lane
             on conflict (name) do nothing",
            i32::from(LANES),
        )
        .execute(pool)
        .await?;
        Ok(())
    }

    /// Says that this relay lives, and returns how many lanes are its part.
    async fn share(&self, pool: &PgPool) -> Result<usize, sqlx::Error> {
        let others = sqlx::query_scalar!(
            r#"with gone as (
                   delete from events.lease where name like 'relay:%' and until < now() - interval '1 hour'
               ), me as (
                   insert into events.lease (name, owner, epoch, until)
                   values ('relay:' || $1::text, $1, 0, now() + make_interval(secs => $2))
                   on conflict (name) do update set until = excluded.until
               )
               select count(*) as "others!" from events.lease
               where name like 'relay:%' and owner <> $1 and until > now()"#,
            self.owner,
            self.ttl.as_secs_f64(),
        )
        .fetch_one(pool)
        .await?;
        let relays = usize::try_from(others).unwrap_or_default() + 1;
        Ok(usize::from(LANES.unsigned_abs()).div_ceil(relays))
    }

    async fn renew(&self, pool: &PgPool) -> Result<Vec<i16>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"update events.lease set until = now() + make_interval(secs => $2)
               where name like 'lane:%' and owner = $1 and until > '-infinity'
               returning substr(name, 6)::smallint as "lane!""#,
            self.owner,
            self.ttl.as_secs_f64(),
        )
        .fetch_all(pool)
        .await
    }

    async fn take(&self, pool: &PgPool, at_most: usize) -> Result<Vec<i16>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"update events.lease
               set owner = $1, epoch = epoch + 1, until = now() + make_interval(secs => $2)
               where name in (
                   select name from events.lease where name like 'lane:%' and until < now()
                   limit $3 for update skip locked)
               returning substr(name, 6)::smallint as "lane!""#,
            self.owner,
            self.ttl.as_secs_f64(),
            i64::try_from(at_most).unwrap_or(i64::MAX),
        )
        .fetch_all(pool)
        .await
    }

    async fn give_back(&self, pool: &PgPool, lanes: &[i16]) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update events.lease set until = '-infinity'
             where owner = $1 and name = any(select 'lane:' || lane from unnest($2::smallint[]) lane)",
            self.owner,
            lanes,
        )
        .execute(pool)
        .await?;
        Ok(())
    }
}

impl Row {
    fn pending(mut self) -> Result<Pending, sqlx::Error> {
        let is_event = self.headers.is_none();
        let headers = match self.headers.take() {
            Some(headers) => {
                serde_json::from_value(headers).map_err(|error| sqlx::Error::Decode(error.into()))?
            }
            None => self
                .event_headers()
                .ok_or_else(|| sqlx::Error::Decode("a message is neither an event nor a notice".into()))?,
        };
        Ok(Pending {
            id: self.id,
            lane: self.lane,
            message_id: self.message_id,
            subject: self.subject,
            headers,
            body: self.body,
            is_event,
            aggregate_id: self.aggregate_id.unwrap_or_default(),
            attempts: self.attempts.unwrap_or_default(),
        })
    }

    fn event_headers(&mut self) -> Option<Headers> {
        let envelope = Envelope {
            event_id: self.event_id?,
            type_name: self.type_name.take()?,
            facility: self.facility.take()?,
            aggregate: self.aggregate.take()?,
            aggregate_id: self.aggregate_id?,
            version: self.version?,
            saga_id: self.saga_id,
            causation_id: self.causation_id,
            traceparent: self.traceparent.take()?,
        };
        Some(envelope::headers(envelope, self.occurred_at?))
    }
}
