//! Queries of dead letters and their groups, and their encoding.

use proto::ops::v1 as ops;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// The most open dead letters that are grouped: the newest ones.
const MAX_GROUPED: i64 = 10_000;

/// The filter of a list. Empty strings and `None` match everything.
pub(super) struct Filter<'a> {
    pub(super) facilities: &'a [String],
    pub(super) states: &'a [String],
    pub(super) consumer: &'a str,
    pub(super) fingerprint: &'a str,
    pub(super) before: Option<Uuid>,
    pub(super) limit: i64,
}

pub(super) struct DeadLetter {
    pub(super) id: Uuid,
    pub(super) state: String,
    facility: String,
    consumer: String,
    event_id: Uuid,
    r#type: String,
    subject: String,
    stream: String,
    stream_sequence: i64,
    aggregate: String,
    aggregate_id: Uuid,
    version: i64,
    saga_id: Option<Uuid>,
    trace_id: String,
    error_class: String,
    error_code: String,
    error_message: String,
    fingerprint: String,
    attempts: i32,
    first_failure_at: OffsetDateTime,
    last_failure_at: OffsetDateTime,
    created_at: OffsetDateTime,
    resolved_at: Option<OffsetDateTime>,
    replay_count: i32,
    parked_count: i64,
    handler_version: String,
    discard_reason: String,
    resolved_before_version: String,
}

pub(super) struct Group {
    pub(super) fingerprint: String,
    consumer: String,
    r#type: String,
    error_class: String,
    error_code: String,
    sample_message: String,
    sample_id: Uuid,
    pub(super) count: i64,
    oldest: OffsetDateTime,
    newest: OffsetDateTime,
    parked_count: i64,
    resolved_before_version: String,
    handler_version: String,
}

/// Newest first.
pub(super) async fn list(tx: &mut PgConnection, filter: &Filter<'_>) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        r#"select id as "id!" from events.dead_letter_page($1, $2, $3, $4, $5, $6)"#,
        filter.facilities,
        filter.states,
        filter.consumer,
        filter.fingerprint,
        filter.before.unwrap_or(Uuid::max()),
        filter.limit,
    )
    .fetch_all(&mut *tx)
    .await?;
    load(tx, &ids).await
}

pub(super) async fn find(tx: &mut PgConnection, id: Uuid) -> Result<Option<DeadLetter>, sqlx::Error> {
    Ok(load(tx, &[id]).await?.into_iter().next())
}

/// The given dead letters that the transaction sees, newest first.
async fn load(tx: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<DeadLetter>, sqlx::Error> {
    sqlx::query_as!(
        DeadLetter,
        r#"select d.id, d.state, d.facility, d.consumer, d.event_id, d.type, d.subject, d.stream, d.stream_sequence,
               d.aggregate, d.aggregate_id, d.version, d.saga_id, d.trace_id, d.error_class, d.error_code,
               d.error_message, d.fingerprint, d.attempts, d.first_failure_at, d.last_failure_at, d.created_at,
               d.resolved_at, d.replay_count, d.handler_version, d.discard_reason, d.resolved_before_version,
               (select count(*) from (
                    select from events.parked_key k cross join lateral (
                        select from events.parked p
                        where p.consumer = k.consumer and p.aggregate_id = k.aggregate_id limit 1000) p
                    where k.dead_letter_id = d.id limit 1000) waiting) as "parked_count!"
           from unnest($1::uuid[]) wanted (id)
           cross join lateral (select * from events.dead_letter l where l.id = wanted.id limit 1) d
           order by d.id desc"#,
        ids,
    )
    .fetch_all(tx)
    .await
}

/// Largest first, after the group of this size and fingerprint.
pub(super) async fn list_groups(
    tx: &mut PgConnection,
    facilities: &[String],
    after: Option<(i64, &str)>,
    limit: i64,
) -> Result<Vec<Group>, sqlx::Error> {
    let (count, fingerprint) = after.unwrap_or((i64::MAX, ""));
    sqlx::query_as!(
        Group,
        r#"with open as materialized (
               select id, fingerprint
               from events.dead_letter_page($1, array['open', 'replaying'], '', '', $6, $2)
           ), grouped as (
               select o.fingerprint, array_agg(o.id order by o.id) as ids, count(*) as count
               from open o
               group by o.fingerprint
               having (-count(*), o.fingerprint) > (-$3::bigint, $4)
               order by count(*) desc, o.fingerprint
               limit $5
           )
           select g.fingerprint as "fingerprint!", newest.consumer, newest.type, newest.error_class,
               newest.error_code, g.count as "count!", oldest.created_at as "oldest!",
               newest.created_at as "newest!", newest.error_message as "sample_message!", newest.id as "sample_id!",
               newest.resolved_before_version, newest.handler_version,
               (select count(*) from (
                    select from unnest(g.ids) member (id)
                    cross join lateral (
                        select k.consumer, k.aggregate_id from events.parked_key k
                        where k.dead_letter_id = member.id limit 1) k
                    cross join lateral (
                        select from events.parked p
                        where p.consumer = k.consumer and p.aggregate_id = k.aggregate_id limit 1000) p
                    limit 1000) waiting) as "parked_count!"
           from grouped g
           cross join lateral (select * from events.dead_letter d where d.id = g.ids[g.count] limit 1) newest
           cross join lateral (select created_at from events.dead_letter d where d.id = g.ids[1] limit 1) oldest
           order by g.count desc, g.fingerprint"#,
        facilities,
        MAX_GROUPED,
        count,
        fingerprint,
        limit,
        Uuid::max(),
    )
    .fetch_all(tx)
    .await
}

/// Whether there are more open dead letters than are grouped.
pub(super) async fn exceeds_grouped(
    tx: &mut PgConnection,
    facilities: &[String],
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) > $2::bigint as "more!"
           from events.dead_letter_page($1, array['open', 'replaying'], '', '', $3, $2::bigint + 1)"#,
        facilities,
        MAX_GROUPED,
        Uuid::max(),
    )
    .fetch_one(tx)
    .await
}

impl From<DeadLetter> for ops::DeadLetter {
    fn from(dead_letter: DeadLetter) -> Self {
        Self {
            id: dead_letter.id.to_string(),
            state: decode_state(&dead_letter.state).into(),
            facility: dead_letter.facility,
            consumer: dead_letter.consumer,
            event_id: dead_letter.event_id.to_string(),
            event_type: dead_letter.r#type,
            subject: dead_letter.subject,
            stream: dead_letter.stream,
            stream_sequence: dead_letter.stream_sequence.unsigned_abs(),
            aggregate: dead_letter.aggregate,
            aggregate_id: dead_letter.aggregate_id.to_string(),
            aggregate_version: dead_letter.version,
            error_class: error_class(&dead_letter.error_class).into(),
            error_code: dead_letter.error_code,
            error_message: dead_letter.error_message,
            fingerprint: dead_letter.fingerprint,
            attempts: dead_letter.attempts.unsigned_abs(),
            first_failure_time: Some(timestamp(dead_letter.first_failure_at)),
            last_failure_time: Some(timestamp(dead_letter.last_failure_at)),
            create_time: Some(timestamp(dead_letter.created_at)),
            resolve_time: dead_letter.resolved_at.map(timestamp),
            replay_count: dead_letter.replay_count.unsigned_abs(),
            parked_count: u32::try_from(dead_letter.parked_count).unwrap_or(u32::MAX),
            handler_version: dead_letter.handler_version,
            discard_reason: dead_letter.discard_reason,
            trace_id: dead_letter.trace_id,
            saga_id: dead_letter.saga_id.map(|id| id.to_string()).unwrap_or_default(),
            resolved_before_version: dead_letter.resolved_before_version,
        }
    }
}

impl From<Group> for ops::DeadLetterGroup {
    fn from(group: Group) -> Self {
        Self {
            fingerprint: group.fingerprint,
            consumer: group.consumer,
            event_type: group.r#type,
            error_class: error_class(&group.error_class).into(),
            error_code: group.error_code,
            sample_message: group.sample_message,
            count: u32::try_from(group.count).unwrap_or(u32::MAX),
            oldest_time: Some(timestamp(group.oldest)),
            newest_time: Some(timestamp(group.newest)),
            parked_count: u32::try_from(group.parked_count).unwrap_or(u32::MAX),
            sample_dead_letter_id: group.sample_id.to_string(),
            resolved_before_version: group.resolved_before_version,
            handler_version: group.handler_version,
        }
    }
}

/// The states that a filter selects.
pub(super) fn states(filter: ops::DeadLetterState) -> Vec<String> {
    let names: &[&str] = match filter {
        ops::DeadLetterState::Unspecified => &["open", "replaying"],
        ops::DeadLetterState::Open => &["open"],
        ops::DeadLetterState::Replaying => &["replaying"],
        ops::DeadLetterState::Resolved => &["resolved"],
        ops::DeadLetterState::Discarded => &["discarded"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub(super) fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    // The nanosecond of a second always fits.
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: at.nanosecond().cast_signed(),
    }
}

fn decode_state(name: &str) -> ops::DeadLetterState {
    match name {
        "open" => ops::DeadLetterState::Open,
        "replaying" => ops::DeadLetterState::Replaying,
        "resolved" => ops::DeadLetterState::Resolved,
        "discarded" => ops::DeadLetterState::Discarded,
        _ => ops::DeadLetterState::Unspecified,
    }
}

pub(super) fn error_class(name: &str) -> ops::ErrorClass {
    match name {
        "permanent" => ops::ErrorClass::Permanent,
        "schema" => ops::ErrorClass::Schema,
        "crash" => ops::ErrorClass::Crash,
        "exhausted" => ops::ErrorClass::Exhausted,
        _ => ops::ErrorClass::Unspecified,
    }
}
