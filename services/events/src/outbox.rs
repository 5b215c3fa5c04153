use std::sync::Arc;

use sqlx::PgConnection;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    contract,
    envelope::{self, Headers},
    error::Error,
    event::Event,
};

/// The largest body in bytes: well below the broker's usual limit of a mebibyte, headers included.
const MAX_BODY: usize = 512 << 10;

/// Lanes of the outbox. Events of one aggregate share a lane, and one relay at a time owns it.
pub(crate) const LANES: i16 = 16;

/// Wakes this process's relay. Cheap to clone and to call.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    wakeup: Arc<Notify>,
}

impl Outbox {
    /// Call after the commit. Without it the relay finds the events at its next look, some 100 ms later.
    pub fn wake(&self) {
        self.wakeup.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.wakeup.notified().await;
    }
}

/// Writes events to the log, and references to them to the outbox, in one statement, inside the caller's transaction. The transaction
/// must hold the row lock under which the aggregates' versions were counted up, and run with `weft.facility` set
/// to the events' facility.
pub async fn append(connection: &mut PgConnection, events: &[Event]) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    let rows = Rows::of(events)?;
    sqlx::query!(
        "with e as (
             select * from unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[],
                 $7::uuid[], $8::bigint[], $9::uuid[], $10::uuid[], $11::jsonb[], $12::bytea[], $13::smallint[])
                 with ordinality
                 as e (occurred_at, id, type, subject, facility, aggregate, aggregate_id, version, saga_id,
                     causation_id, headers, body, lane, position)
         ), logged as (
             insert into events.event_log (occurred_at, id, type, subject, facility, aggregate, aggregate_id,
                 version, saga_id, causation_id, headers, body)
             select occurred_at, id, type, subject, facility, aggregate, aggregate_id, version, saga_id,
                 causation_id, headers, body
             from e order by position
         )
         insert into events.outbox (lane, event_id, occurred_at)
         select lane, id, occurred_at from e order by position",
        &rows.occurred_at,
        &rows.id,
        &rows.type_name as _,
        &rows.subject as _,
        &rows.facility as _,
        &rows.aggregate as _,
        &rows.aggregate_id,
        &rows.version,
        &rows.saga_id as _,
        &rows.causation_id as _,
        &rows.headers,
        &rows.body as _,
        &rows.lane,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A message of the backbone's own: a replay, or a copy for the stream DEAD_LETTERS.
pub(crate) struct Notice<'a> {
    pub(crate) message_id: String,
    pub(crate) subject: String,
    pub(crate) aggregate_id: Uuid,
    pub(crate) headers: &'a Headers,
    pub(crate) body: &'a [u8],
}

/// Puts a notice into the outbox, inside the caller's transaction. It is not an event and not in the log.
pub(crate) async fn notify(connection: &mut PgConnection, notice: &Notice<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into events.outbox (lane, message_id, subject, aggregate_id, headers, body)
         values ($1, $2, $3, $4, $5, $6)",
        lane(notice.aggregate_id),
        notice.message_id,
        notice.subject,
        notice.aggregate_id,
        serde_json::json!(notice.headers),
        notice.body,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The last byte of every UUID version in use is random or hashed, so it spreads evenly.
pub(crate) fn lane(aggregate_id: Uuid) -> i16 {
    i16::from(aggregate_id.as_bytes()[15]) % LANES
}

/// Events turned into columns, as `unnest` takes them.
#[derive(Default)]
struct Rows<'a> {
    occurred_at: Vec<time::OffsetDateTime>,
    id: Vec<Uuid>,
    type_name: Vec<&'a str>,
    subject: Vec<&'a str>,
    facility: Vec<&'a str>,
    aggregate: Vec<&'a str>,
    aggregate_id: Vec<Uuid>,
    version: Vec<i64>,
    saga_id: Vec<Option<Uuid>>,
    causation_id: Vec<Option<Uuid>>,
    headers: Vec<serde_json::Value>,
    body: Vec<&'a [u8]>,
    lane: Vec<i16>,
}

impl<'a> Rows<'a> {
    fn of(events: &'a [Event]) -> Result<Self, Error> {
        let mut rows = Self::default();
        for event in events {
            let type_name = &event.type_name;
            let declaration =
                contract::declaration(type_name).ok_or_else(|| Error::NotAnEvent(type_name.clone()))?;
            if event.body.len() > MAX_BODY {
                let (type_name, size) = (type_name.clone(), event.body.len());
                return Err(Error::TooLarge {
                    type_name,
                    size,
                    limit: MAX_BODY,
                });
            }
            rows.occurred_at.push(event.occurred_at);
            rows.id.push(event.id);
            rows.type_name.push(type_name);
            rows.subject.push(&declaration.subject);
            rows.facility.push(&event.meta.facility);
            rows.aggregate.push(&declaration.aggregate);
            rows.aggregate_id.push(event.meta.aggregate_id);
            rows.version.push(event.meta.version);
            rows.saga_id.push(event.meta.saga_id);
            rows.causation_id.push(event.meta.causation_id);
            rows.headers
                .push(serde_json::json!(envelope::headers(event, declaration)));
            rows.body.push(&event.body);
            rows.lane.push(lane(event.meta.aggregate_id));
        }
        Ok(rows)
    }
}
