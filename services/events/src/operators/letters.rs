//! Dead letters and their groups, as rows and as messages.

use proto::ops::v1 as ops;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// Which dead letters are asked for. Empty texts and `None` mean any.
#[derive(Default)]
pub(super) struct Filter<'a> {
    pub(super) id: Option<Uuid>,
    pub(super) states: &'a [String],
    pub(super) consumer: &'a str,
    pub(super) fingerprint: &'a str,
    pub(super) before: Option<Uuid>,
    pub(super) at_most: i64,
}

pub(super) struct Letter {
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
pub(super) async fn select(tx: &mut PgConnection, filter: &Filter<'_>) -> Result<Vec<Letter>, sqlx::Error> {
    sqlx::query_as!(
        Letter,
        r#"select id, state, facility, consumer, event_id, type, subject, stream, stream_sequence, aggregate, aggregate_id,
               version, saga_id, trace_id, error_class, error_code, error_message, fingerprint, attempts,
               first_failure_at, last_failure_at, created_at, resolved_at, replay_count, handler_version,
               discard_reason, resolved_before_version,
               (select count(*) from events.parked p join events.parked_key k using (consumer, aggregate_id)
                where k.dead_letter_id = d.id) as "parked_count!"
           from events.dead_letter d
           where ($1::uuid is null or id = $1)
             and (cardinality($2::text[]) = 0 or state = any($2))
             and ($3 = '' or consumer = $3)
             and ($4 = '' or fingerprint = $4)
             and ($5::uuid is null or id < $5)
           order by id desc
           limit $6"#,
        filter.id,
        filter.states,
        filter.consumer,
        filter.fingerprint,
        filter.before,
        filter.at_most,
    )
    .fetch_all(tx)
    .await
}

pub(super) async fn find(tx: &mut PgConnection, id: Uuid) -> Result<Option<Letter>, sqlx::Error> {
    let found = select(
        tx,
        &Filter {
            id: Some(id),
            at_most: 1,
            ..Filter::default()
        },
    )
    .await?;
    Ok(found.into_iter().next())
}

/// Largest first, after the group of this size and fingerprint.
pub(super) async fn groups(
    tx: &mut PgConnection,
    after: Option<(i64, &str)>,
    at_most: i64,
) -> Result<Vec<Group>, sqlx::Error> {
    let (count, fingerprint) = after.unwrap_or((i64::MAX, ""));
    sqlx::query_as!(
        Group,
        r#"select fingerprint, min(consumer) as "consumer!", min(type) as "type!", min(error_class) as "error_class!",
               min(error_code) as "error_code!", count(*) as "count!", min(created_at) as "oldest!",
               max(created_at) as "newest!",
               (array_agg(error_message order by id desc))[1] as "sample_message!",
               (array_agg(id order by id desc))[1] as "sample_id!",
               (array_agg(resolved_before_version order by id desc))[1] as "resolved_before_version!",
               (array_agg(handler_version order by id desc))[1] as "handler_version!",
               coalesce(sum((select count(*) from events.parked p join events.parked_key k
                             using (consumer, aggregate_id) where k.dead_letter_id = d.id)), 0)::bigint
                   as "parked_count!"
           from events.dead_letter d
           where state in ('open', 'replaying')
           group by fingerprint
           having (-count(*), fingerprint) > (-$1::bigint, $2)
           order by count(*) desc, fingerprint
           limit $3"#,
        count,
        fingerprint,
        at_most,
    )
    .fetch_all(tx)
    .await
}

impl From<Letter> for ops::DeadLetter {
    fn from(letter: Letter) -> Self {
        Self {
            id: letter.id.to_string(),
            state: state(&letter.state).into(),
            facility: letter.facility,
            consumer: letter.consumer,
            event_id: letter.event_id.to_string(),
            event_type: letter.r#type,
            subject: letter.subject,
            stream: letter.stream,
            stream_sequence: letter.stream_sequence.unsigned_abs(),
            aggregate: letter.aggregate,
            aggregate_id: letter.aggregate_id.to_string(),
            aggregate_version: letter.version,
            error_class: class(&letter.error_class).into(),
            error_code: letter.error_code,
            error_message: letter.error_message,
            fingerprint: letter.fingerprint,
            attempts: letter.attempts.unsigned_abs(),
            first_failure_time: Some(timestamp(letter.first_failure_at)),
            last_failure_time: Some(timestamp(letter.last_failure_at)),
            create_time: Some(timestamp(letter.created_at)),
            resolve_time: letter.resolved_at.map(timestamp),
            replay_count: letter.replay_count.unsigned_abs(),
            parked_count: u32::try_from(letter.parked_count).unwrap_or(u32::MAX),
            handler_version: letter.handler_version,
            discard_reason: letter.discard_reason,
            trace_id: letter.trace_id,
            saga_id: letter.saga_id.map(|id| id.to_string()).unwrap_or_default(),
            resolved_before_version: letter.resolved_before_version,
        }
    }
}

impl From<Group> for ops::DeadLetterGroup {
    fn from(group: Group) -> Self {
        Self {
            fingerprint: group.fingerprint,
            consumer: group.consumer,
            event_type: group.r#type,
            error_class: class(&group.error_class).into(),
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

/// The states that a filter means.
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
    // A nanosecond of a second always fits.
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: at.nanosecond().cast_signed(),
    }
}

fn state(name: &str) -> ops::DeadLetterState {
    match name {
        "open" => ops::DeadLetterState::Open,
        "replaying" => ops::DeadLetterState::Replaying,
        "resolved" => ops::DeadLetterState::Resolved,
        "discarded" => ops::DeadLetterState::Discarded,
        _ => ops::DeadLetterState::Unspecified,
    }
}

pub(super) fn class(name: &str) -> ops::ErrorClass {
    match name {
        "permanent" => ops::ErrorClass::Permanent,
        "schema" => ops::ErrorClass::Schema,
        "crash" => ops::ErrorClass::Crash,
        "exhausted" => ops::ErrorClass::Exhausted,
        _ => ops::ErrorClass::Unspecified,
    }
}
