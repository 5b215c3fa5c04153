//! The service's consumers: their status, and pausing them.

use std::time::Duration;

use proto::ops::v1 as ops;
use sqlx::{PgConnection, PgPool};

use super::{Operator, dead_letters, error::Error};
use crate::{Bus, lag};

pub(super) async fn list(bus: &Bus, pool: &PgPool) -> Result<Vec<ops::ConsumerStatus>, Error> {
    let rows = sqlx::query!(
        r#"with depth as materialized (
               select consumer, sum(open)::bigint as open from events.dead_letter_depth() group by consumer
           )
           select name, paused, changed_by, reason, changed_at, gap_from, gap_until,
               coalesce((select open from depth d where d.consumer = name), 0) as "dead!"
           from events.consumer order by name"#,
    )
    .fetch_all(pool)
    .await?;
    let mut consumers = Vec::with_capacity(rows.len());
    for row in rows {
        let lag = lag::measure(bus, &row.name).await;
        let changed = !row.changed_by.is_empty();
        consumers.push(ops::ConsumerStatus {
            name: row.name,
            paused: row.paused,
            changed_by: row.changed_by,
            reason: row.reason,
            change_time: changed.then(|| dead_letters::timestamp(row.changed_at)),
            pending_count: lag.as_ref().map_or(0, |lag| lag.pending),
            unacknowledged_count: lag.as_ref().map_or(0, |lag| lag.unacknowledged),
            lag: lag.and_then(|lag| lag.age).map(duration),
            dead_letter_count: row.dead.unsigned_abs(),
            gap_start_time: row.gap_from.map(dead_letters::timestamp),
            gap_end_time: row.gap_until.map(dead_letters::timestamp),
        });
    }
    Ok(consumers)
}

/// Takes effect when the process that consumes next renews its lease.
pub(super) async fn set_paused(
    tx: &mut PgConnection,
    consumer: &str,
    paused: bool,
    operator: &Operator,
    reason: &str,
) -> Result<(), Error> {
    let set = sqlx::query!(
        // An operator who resumes the consumer has dealt with the events it missed.
        "update events.consumer
         set paused = $2, changed_by = $3, reason = $4, changed_at = now(),
             gap_from = case when $2 then gap_from end, gap_until = case when $2 then gap_until end
         where name = $1",
        consumer,
        paused,
        operator.subject,
        reason,
    )
    .execute(tx)
    .await?;
    if set.rows_affected() == 0 {
        return Err(Error::NotFound {
            kind: "consumer",
            id: consumer.to_owned(),
        });
    }
    Ok(())
}

fn duration(age: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
        nanos: age.subsec_nanos().cast_signed(),
    }
}
