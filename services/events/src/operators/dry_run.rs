//! What a replay would do: runs the handler in a transaction that is rolled back.

use std::{collections::BTreeMap, time::Duration};

use proto::ops::v1 as ops;
use sqlx::{PgConnection, PgPool};

use super::{Operator, actions, dead_letters, error::Error};
use crate::{
    Bus, Delivery, HandlerError, contract,
    envelope::{Envelope, Headers},
    failure::Class,
    handler,
};

/// Numbers of inserted, updated and deleted rows, by table.
type Counts = BTreeMap<String, [i64; 3]>;

pub(super) async fn execute(
    bus: &Bus,
    pool: &PgPool,
    operator: &Operator,
    request: &ops::RehearseReplayRequest,
) -> Result<ops::RehearseReplayResponse, Error> {
    let id = actions::uuid(&request.dead_letter_id, "dead_letter_id")?;
    let mut tx = operator.begin(pool).await?;
    let dead_letter = sqlx::query!(
        "select state, consumer, type, subject, headers, body from events.dead_letter where id = $1",
        id
    );
    let dead_letter = dead_letter.fetch_optional(&mut *tx).await?;
    let dead_letter = dead_letter.ok_or_else(|| Error::NotFound {
        kind: "dead letter",
        id: id.to_string(),
    })?;
    if dead_letter.state != "open" {
        return Err(Error::Closed {
            state: dead_letter.state,
            wanted: "rehearsed",
        });
    }
    let body = match request.body_json.as_str() {
        "" => dead_letter.body,
        json => contract::from_json(
            contract::type_name(&dead_letter.r#type, &dead_letter.subject),
            json,
        )
        .map_err(Error::Body)?,
    };
    let consumer = bus.consumer(&dead_letter.consumer);
    let consumer = consumer.ok_or_else(|| Error::NoConsumer(dead_letter.consumer.clone()))?;
    let headers: Headers = serde_json::from_value(dead_letter.headers).unwrap_or_default();
    let limit = Duration::from_millis(bus.settings().consumer.handler_timeout_ms);
    let (before, last_event) = (table_counts(&mut tx).await?, last_event(&mut tx).await?);
    let outcome = match Envelope::parse(&headers) {
        Ok(envelope) => {
            let delivery = Delivery::new(&envelope, body);
            handler::run(consumer.handler.handle(&mut tx, &delivery), limit).await
        }
        Err(error) => Err(HandlerError::schema("ENVELOPE_MALFORMED", error.to_string())),
    };
    let outcome = match outcome {
        Ok(()) => check_constraints(&mut tx).await,
        Err(error) => Err(error),
    };
    let response = match outcome {
        // This error is not caused by the event.
        Err(HandlerError::Unavailable(_, error)) => return Err(error.into()),
        Ok(()) => ops::RehearseReplayResponse {
            would_resolve: true,
            tables: table_changes(&before, table_counts(&mut tx).await?),
            events: events(&mut tx, last_event).await?,
            ..Default::default()
        },
        Err(error) => ops::RehearseReplayResponse {
            error_class: dead_letters::error_class(Class::from_error(&error).as_str()).into(),
            error_code: error.code().to_owned(),
            error_message: error.message().to_owned(),
            ..Default::default()
        },
    };
    tx.rollback().await?;
    Ok(response)
}

/// Checks the constraints that a commit would check.
async fn check_constraints(tx: &mut PgConnection) -> Result<(), HandlerError> {
    sqlx::query!("set constraints all immediate").execute(tx).await?;
    Ok(())
}

/// The counters of the session. They may include earlier transactions of the connection, so only their increase is
/// used.
async fn table_counts(tx: &mut PgConnection) -> Result<Counts, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select coalesce(pn.nspname || '.' || p.relname, s.schemaname || '.' || s.relname) as "table!",
               sum(s.n_tup_ins)::bigint as "inserted!", sum(s.n_tup_upd)::bigint as "updated!",
               sum(s.n_tup_del)::bigint as "deleted!"
           from pg_catalog.pg_stat_xact_user_tables s
           -- A partition counts as the whole.
           left join pg_catalog.pg_inherits i on i.inhrelid = s.relid
           left join pg_catalog.pg_class p on p.oid = i.inhparent
           left join pg_catalog.pg_namespace pn on pn.oid = p.relnamespace
           where s.schemaname <> 'events'
           group by 1"#,
    )
    .fetch_all(tx)
    .await?;
    let counts = rows
        .into_iter()
        .map(|row| (row.table, [row.inserted, row.updated, row.deleted]));
    Ok(counts.collect())
}

fn table_changes(before: &Counts, after: Counts) -> Vec<ops::TableChange> {
    let growth = after.into_iter().map(|(table, after)| {
        let before = before.get(&table).copied().unwrap_or_default();
        let growth = |at: usize| after[at].saturating_sub(before[at]).unsigned_abs();
        ops::TableChange {
            table,
            inserted_count: growth(0),
            updated_count: growth(1),
            deleted_count: growth(2),
        }
    });
    growth
        .filter(|change| change.inserted_count + change.updated_count + change.deleted_count > 0)
        .collect()
}

async fn last_event(tx: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let last = sqlx::query_scalar!(
        r#"select coalesce(max(position), 0) as "last!" from events.event_log where pending"#
    );
    last.fetch_one(tx).await
}

/// The events that this transaction has appended.
async fn events(tx: &mut PgConnection, after: i64) -> Result<Vec<ops::RelatedEvent>, sqlx::Error> {
    let rows = sqlx::query!(
        "select id, type, aggregate_id, version, occurred_at from events.event_log
         where pending and position > $1 and xmin = pg_current_xact_id()::xid
         order by position limit 100",
        after,
    )
    .fetch_all(tx)
    .await?;
    let events = rows.into_iter().map(|row| ops::RelatedEvent {
        event_id: row.id.to_string(),
        event_type: row.r#type,
        aggregate_id: row.aggregate_id.to_string(),
        aggregate_version: row.version,
        occur_time: Some(dead_letters::timestamp(row.occurred_at)),
    });
    Ok(events.collect())
}
