//! What a replay would do: the handler in a transaction that is rolled back.

use std::{collections::BTreeMap, time::Duration};

use proto::ops::v1 as ops;
use sqlx::{PgConnection, PgPool};

use super::{Caller, actions, failure::Failure, letters};
use crate::{
    Bus, Delivery, HandlerError, contract,
    dead_letter::Class,
    envelope::{Envelope, Headers},
    handler,
};

/// Rows added, changed and removed, by table.
type Counts = BTreeMap<String, [i64; 3]>;

pub(super) async fn rehearse(
    bus: &Bus,
    pool: &PgPool,
    caller: &Caller,
    request: &ops::RehearseReplayRequest,
) -> Result<ops::RehearseReplayResponse, Failure> {
    let id = actions::uuid(&request.dead_letter_id, "dead_letter_id")?;
    let mut tx = caller.begin(pool).await?;
    let letter = sqlx::query!(
        "select state, consumer, type, subject, headers, body from events.dead_letter where id = $1",
        id
    );
    let letter = letter.fetch_optional(&mut *tx).await?;
    let letter = letter.ok_or_else(|| Failure::NotFound {
        kind: "dead letter",
        id: id.to_string(),
    })?;
    if letter.state != "open" {
        return Err(Failure::Closed {
            state: letter.state,
            wanted: "rehearsed",
        });
    }
    let body = match request.body_json.as_str() {
        "" => letter.body,
        json => contract::from_json(contract::type_name(&letter.r#type, &letter.subject), json)
            .map_err(Failure::Body)?,
    };
    let known = bus.consumer(&letter.consumer);
    let known = known.ok_or_else(|| Failure::NoConsumer(letter.consumer.clone()))?;
    let headers: Headers = serde_json::from_value(letter.headers).unwrap_or_default();
    let limit = Duration::from_millis(bus.settings().consumer.handler_timeout_ms);
    let (before, last_event) = (counts(&mut tx).await?, last_event(&mut tx).await?);
    let outcome = match Envelope::parse(&headers) {
        Ok(envelope) => {
            let delivery = Delivery::new(&envelope, body);
            handler::run(known.handler.handle(&mut tx, &delivery), limit).await
        }
        Err(error) => Err(HandlerError::schema("ENVELOPE_MALFORMED", error.to_string())),
    };
    let outcome = match outcome {
        Ok(()) => check_constraints(&mut tx).await,
        Err(error) => Err(error),
    };
    let answer = match outcome {
        // It says nothing about the event.
        Err(HandlerError::Unavailable(_, error)) => return Err(error.into()),
        Ok(()) => ops::RehearseReplayResponse {
            would_resolve: true,
            tables: difference(&before, counts(&mut tx).await?),
            events: events(&mut tx, last_event).await?,
            ..Default::default()
        },
        Err(error) => ops::RehearseReplayResponse {
            error_class: letters::class(Class::of(&error).as_str()).into(),
            error_code: error.code().to_owned(),
            error_message: error.message().to_owned(),
            ..Default::default()
        },
    };
    tx.rollback().await?;
    Ok(answer)
}

/// What a commit would check.
async fn check_constraints(tx: &mut PgConnection) -> Result<(), HandlerError> {
    sqlx::query!("set constraints all immediate").execute(tx).await?;
    Ok(())
}

/// The session's counters. They may still hold what earlier transactions of the connection did: only their growth
/// tells something.
async fn counts(tx: &mut PgConnection) -> Result<Counts, sqlx::Error> {
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

fn difference(before: &Counts, after: Counts) -> Vec<ops::TableChange> {
    let grown = after.into_iter().map(|(table, after)| {
        let before = before.get(&table).copied().unwrap_or_default();
        let grown = |at: usize| after[at].saturating_sub(before[at]).unsigned_abs();
        ops::TableChange {
            table,
            inserted_count: grown(0),
            updated_count: grown(1),
            deleted_count: grown(2),
        }
    });
    grown
        .filter(|change| change.inserted_count + change.updated_count + change.deleted_count > 0)
        .collect()
}

async fn last_event(tx: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let last = sqlx::query_scalar!(
        r#"select coalesce(max(position), 0) as "last!" from events.event_log where pending"#
    );
    last.fetch_one(tx).await
}

/// The events of this transaction.
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
        occur_time: Some(letters::timestamp(row.occurred_at)),
    });
    Ok(events.collect())
}
