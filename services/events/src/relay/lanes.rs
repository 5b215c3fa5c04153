//! The lanes of the outbox that this relay owns.

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

/// The lanes of one relay. Its owner id is new with every start and serves as the fence: rows are read only
/// together with a lease of that owner, and nothing is published after the lease has expired by the monotonic
/// clock.
pub(super) struct Lanes {
    owner: String,
    ttl: Duration,
    owned: Vec<i16>,
    lease_until: Option<Instant>,
}

/// A waiting message. Notices have headers. The headers of an event are made of the columns below, which notices
/// lack.
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
            owned: Vec::new(),
            lease_until: None,
        }
    }

    pub(super) fn owned(&self) -> &[i16] {
        &self.owned
    }

    /// Whether a third of the lease has passed.
    pub(super) fn renewal_is_due(&self) -> bool {
        self.lease_until
            .is_none_or(|lease_until| Instant::now() + self.ttl.mul_f64(2.0 / 3.0) > lease_until)
    }

    /// Renews and balances the lanes when the renewal is due.
    pub(super) async fn renew_and_balance(&mut self, pool: &PgPool) -> Result<(), sqlx::Error> {
        if !self.renewal_is_due() {
            return Ok(());
        }
        if self.lease_until.is_none() {
            self.insert_leases(pool).await?;
        }
        let requested_at = Instant::now();
        let fair_share = self.fair_share(pool).await?;
        self.owned = self.renew(pool).await?;
        if self.owned.len() > fair_share {
            let surplus = self.owned.split_off(fair_share);
            self.release_lanes(pool, &surplus).await?;
        } else if self.owned.len() < fair_share {
            let missing = fair_share - self.owned.len();
            self.owned.extend(self.acquire(pool, missing).await?);
        }
        self.lease_until = Some(requested_at + self.ttl);
        Ok(())
    }

    pub(super) fn lease_is_valid(&self) -> bool {
        self.lease_until
            .is_some_and(|lease_until| Instant::now() < lease_until)
    }

    /// The oldest messages of the given lanes, as far as this relay still owns them.
    pub(super) async fn read(
        &self,
        pool: &PgPool,
        lanes: &[i16],
        limit: usize,
    ) -> Result<Vec<Pending>, sqlx::Error> {
        let rows = sqlx::query_as!(
            Row,
            r#"select id as "id!", lane as "lane!", message_id as "message_id!", subject as "subject!", body as "body!",
                   headers, event_id, type as type_name, occurred_at, facility, aggregate, aggregate_id, version,
                   saga_id, causation_id, traceparent, attempts
               from events.outbox_page($1, $2, $3)"#,
            self.owner,
            lanes,
            i64::try_from(limit).unwrap_or(i64::MAX),
        )
        .fetch_all(pool)
        .await?;
        rows.into_iter().map(Row::into_pending).collect()
    }

    /// Releases all lanes, so that other relays can acquire them at once.
    pub(super) async fn release(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update events.lease set until = '-infinity' where owner = $1",
            self.owner
        )
        .execute(pool)
        .await?;
        Ok(())
    }

    async fn insert_leases(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
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

    /// Records that this relay runs, and returns the number of lanes it should own.
    async fn fair_share(&self, pool: &PgPool) -> Result<usize, sqlx::Error> {
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

    async fn acquire(&self, pool: &PgPool, limit: usize) -> Result<Vec<i16>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"update events.lease
               set owner = $1, epoch = epoch + 1, until = now() + make_interval(secs => $2)
               where name in (
                   select name from events.lease where name like 'lane:%' and until < now()
                   limit $3 for update skip locked)
               returning substr(name, 6)::smallint as "lane!""#,
            self.owner,
            self.ttl.as_secs_f64(),
            i64::try_from(limit).unwrap_or(i64::MAX),
        )
        .fetch_all(pool)
        .await
    }

    async fn release_lanes(&self, pool: &PgPool, lanes: &[i16]) -> Result<(), sqlx::Error> {
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
    fn into_pending(mut self) -> Result<Pending, sqlx::Error> {
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
        Some(envelope::encode(envelope, self.occurred_at?))
    }
}
