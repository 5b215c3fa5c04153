//! One dead letter with its body, headers, causes, parked events, actions and latest edit.

use proto::ops::v1 as ops;
use sqlx::PgConnection;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{dead_letters, edits, error::Error};
use crate::{contract, envelope::Headers};

pub(super) async fn get(tx: &mut PgConnection, id: Uuid) -> Result<ops::GetDeadLetterResponse, Error> {
    let dead_letter = dead_letters::find(tx, id).await?;
    let dead_letter = dead_letter.ok_or_else(|| Error::NotFound {
        kind: "dead letter",
        id: id.to_string(),
    })?;
    let content = sqlx::query!(
        "select type, subject, causation_id, headers, body from events.dead_letter where id = $1",
        id,
    )
    .fetch_one(&mut *tx)
    .await?;
    let headers: Headers = serde_json::from_value(content.headers).unwrap_or_default();
    let type_name = contract::type_name(&content.r#type, &content.subject);
    let (body_json, decode_error) = match contract::to_json(type_name, &content.body) {
        Ok(json) => (json, String::new()),
        Err(error) => (String::new(), error),
    };
    Ok(ops::GetDeadLetterResponse {
        dead_letter: Some(dead_letter.into()),
        body: content.body,
        body_json,
        decode_error,
        headers: headers
            .into_iter()
            .map(|(name, value)| ops::Header { name, value })
            .collect(),
        causes: list_causes(tx, content.causation_id).await?,
        parked: list_parked(tx, id).await?,
        actions: list_actions(tx, id).await?,
        edit: edits::find_latest(tx, id).await?,
    })
}

/// The chain of causes, as far as the published part of this service's own log has them. The first cause beyond it
/// has only an id.
async fn list_causes(
    tx: &mut PgConnection,
    cause: Option<Uuid>,
) -> Result<Vec<ops::RelatedEvent>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"with recursive chain (id, depth) as (
               select $1::uuid, 1 where $1 is not null
               union all
               select e.causation_id, depth + 1 from chain cross join lateral (
                   select causation_id from events.event_log e where not e.pending and e.id = chain.id limit 1) e
               where e.causation_id is not null and depth < 20
           )
           select chain.id as "id!", e.type as "type?", e.aggregate_id as "aggregate_id?", e.version as "version?",
                  e.occurred_at as "occurred_at?"
           from chain left join lateral (
               select * from events.event_log e where not e.pending and e.id = chain.id limit 1) e on true
           order by depth"#,
        cause,
    )
    .fetch_all(tx)
    .await?;
    let causes = rows.into_iter().map(|row| ops::RelatedEvent {
        event_id: row.id.to_string(),
        event_type: row.r#type.unwrap_or_default(),
        aggregate_id: row.aggregate_id.map(|id| id.to_string()).unwrap_or_default(),
        aggregate_version: row.version.unwrap_or_default(),
        occur_time: row.occurred_at.map(dead_letters::timestamp),
    });
    Ok(causes.collect())
}

async fn list_parked(tx: &mut PgConnection, head: Uuid) -> Result<Vec<ops::RelatedEvent>, sqlx::Error> {
    let rows = sqlx::query!(
        "select p.event_id, p.aggregate_id, p.headers
         from events.parked_key k cross join lateral (
             select * from events.parked p where p.consumer = k.consumer and p.aggregate_id = k.aggregate_id
             order by p.id limit 100
         ) p
         where k.dead_letter_id = $1 order by p.id limit 100",
        head,
    )
    .fetch_all(tx)
    .await?;
    let parked = rows.into_iter().map(|row| {
        let header = |name: &str| {
            row.headers
                .get(name)
                .and_then(|value| value.as_str())
                .unwrap_or_default()
        };
        let occurred = OffsetDateTime::parse(header("ce-time"), &Rfc3339).ok();
        ops::RelatedEvent {
            event_id: row.event_id.to_string(),
            event_type: header("ce-type").to_owned(),
            aggregate_id: row.aggregate_id.to_string(),
            aggregate_version: header("ce-sequence").parse().unwrap_or_default(),
            occur_time: occurred.map(dead_letters::timestamp),
        }
    });
    Ok(parked.collect())
}

async fn list_actions(tx: &mut PgConnection, id: Uuid) -> Result<Vec<ops::OperatorAction>, sqlx::Error> {
    let rows = sqlx::query!(
        "select action, actor, created_at, detail from events.operator_action
         where dead_letter_id = $1 order by id limit 100",
        id,
    )
    .fetch_all(tx)
    .await?;
    let actions = rows.into_iter().map(|row| ops::OperatorAction {
        action: row.action,
        actor: row.actor,
        action_time: Some(dead_letters::timestamp(row.created_at)),
        detail: row.detail,
    });
    Ok(actions.collect())
}
