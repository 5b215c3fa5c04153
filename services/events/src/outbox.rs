use std::sync::Arc;

use sqlx::{PgConnection, QueryBuilder};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    contract::{self, Declaration},
    envelope::Headers,
    error::Error,
    event::Event,
};

/// The largest body in bytes. With its headers it is well below the broker's usual limit of 1 MiB.
const MAX_BODY_BYTES: usize = 512 << 10;

/// The number of lanes of the outbox. Events of one aggregate share a lane, and one relay at a time owns it.
pub(crate) const LANES: i16 = 16;

/// The most events written as rows of values. More are written as arrays, by one statement for every number of
/// events.
const MAX_VALUE_ROWS: usize = 8;

/// Wakes this process's relay. Cheap to clone and to call.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    notify: Arc<Notify>,
}

impl Outbox {
    /// Call after the commit. Without it the relay finds the events at its next poll, some 100 ms later.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    pub(crate) async fn notified(&self) {
        self.notify.notified().await;
    }
}

/// Appends events to the log, as pending, inside the caller's transaction. The transaction must hold the row locks
/// under which the aggregates' versions were incremented, and have `weft.facility` set to the events' facility.
///
/// # Errors
/// When a message is not an event or too large, or the database fails.
pub async fn append(connection: &mut PgConnection, events: &[Event]) -> Result<(), Error> {
    let declared = events.iter().map(validate).collect::<Result<Vec<_>, Error>>()?;
    if declared.len() > MAX_VALUE_ROWS {
        return insert_many(connection, &declared).await;
    }
    if !declared.is_empty() {
        // A few rows of values cost the server half of what arrays cost. There is one statement for each number of
        // rows.
        let mut insert = QueryBuilder::new(
            "insert into events.outbox (lane, occurred_at, id, type, subject, facility, aggregate, aggregate_id, \
             version, saga_id, causation_id, traceparent, body) ",
        );
        insert.push_values(&declared, |mut row, (event, declaration)| {
            let meta = &event.meta;
            row.push_bind(lane(meta.aggregate_id))
                .push_bind(event.occurred_at)
                .push_bind(event.id)
                .push_bind(&event.type_name)
                .push_bind(&declaration.subject)
                .push_bind(&meta.facility)
                .push_bind(&declaration.aggregate)
                .push_bind(meta.aggregate_id)
                .push_bind(meta.version)
                .push_bind(meta.saga_id)
                .push_bind(meta.causation_id)
                .push_bind(&event.traceparent)
                .push_bind(&event.body);
        });
        insert.build().execute(&mut *connection).await?;
    }
    Ok(())
}

async fn insert_many(
    connection: &mut PgConnection,
    events: &[(&Event, &'static Declaration)],
) -> Result<(), Error> {
    fn column<'a, T>(events: &[(&'a Event, &'static Declaration)], value: impl Fn(&'a Event) -> T) -> Vec<T> {
        events.iter().map(|(event, _)| value(event)).collect()
    }
    let subjects: Vec<_> = events
        .iter()
        .map(|(_, declaration)| declaration.subject.as_str())
        .collect();
    let aggregates: Vec<_> = events
        .iter()
        .map(|(_, declaration)| declaration.aggregate.as_str())
        .collect();
    sqlx::query!(
        "insert into events.outbox (lane, occurred_at, id, type, subject, facility, aggregate, aggregate_id, version,
             saga_id, causation_id, traceparent, body)
         select lane, occurred_at, id, type, subject, facility, aggregate, aggregate_id, version, saga_id, causation_id,
             traceparent, body
         from unnest($1::smallint[], $2::timestamptz[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[],
             $8::uuid[], $9::bigint[], $10::uuid[], $11::uuid[], $12::text[], $13::bytea[]) with ordinality
             as new (lane, occurred_at, id, type, subject, facility, aggregate, aggregate_id, version, saga_id,
                 causation_id, traceparent, body, position)
         order by position",
        &column(events, |event| lane(event.meta.aggregate_id)),
        &column(events, |event| event.occurred_at),
        &column(events, |event| event.id),
        &column(events, |event| event.type_name.as_str()) as &[&str],
        &subjects as &[&str],
        &column(events, |event| event.meta.facility.as_str()) as &[&str],
        &aggregates as &[&str],
        &column(events, |event| event.meta.aggregate_id),
        &column(events, |event| event.meta.version),
        &column(events, |event| event.meta.saga_id) as &[Option<Uuid>],
        &column(events, |event| event.meta.causation_id) as &[Option<Uuid>],
        &column(events, |event| event.traceparent.as_str()) as &[&str],
        &column(events, |event| event.body.as_slice()) as &[&[u8]],
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn validate(event: &Event) -> Result<(&Event, &'static Declaration), Error> {
    let type_name = &event.type_name;
    let declaration = contract::declaration(type_name).ok_or_else(|| Error::NotAnEvent(type_name.clone()))?;
    if event.body.len() > MAX_BODY_BYTES {
        return Err(Error::TooLarge {
            type_name: type_name.clone(),
            size: event.body.len(),
            limit: MAX_BODY_BYTES,
        });
    }
    Ok((event, declaration))
}

/// A message that is not an event: a replay, or a copy for the stream DEAD_LETTERS.
pub(crate) struct Notice<'a> {
    pub(crate) message_id: String,
    pub(crate) subject: String,
    pub(crate) aggregate_id: Uuid,
    pub(crate) headers: &'a Headers,
    pub(crate) body: &'a [u8],
}

/// Inserts a notice into the outbox, inside the caller's transaction. It is not part of the event log.
pub(crate) async fn notify(connection: &mut PgConnection, notice: &Notice<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into events.notice (lane, message_id, subject, aggregate_id, headers, body)
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

/// The last byte of every UUID version in use is random or hashed, so the lanes are evenly filled.
pub(crate) fn lane(aggregate_id: Uuid) -> i16 {
    i16::from(aggregate_id.as_bytes()[15]) % LANES
}
