//! Edits of dead letters' bodies: validated against the event's type, and approved by a second person where the
//! settings require it.

use proto::ops::v1 as ops;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Operator,
    actions::{self, AuditDetail},
    dead_letters,
    error::Error,
    replays,
};
use crate::contract;

/// Whether an edit needs an approval.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Approval {
    NotRequired,
    SecondPerson,
}

pub(super) async fn edit(
    tx: &mut PgConnection,
    service: &str,
    operator: &Operator,
    approval: Approval,
    request: &ops::EditDeadLetterRequest,
) -> Result<(ops::EditDeadLetterResponse, AuditDetail), Error> {
    let dead_letter = actions::uuid(&request.dead_letter_id, "dead_letter_id")?;
    actions::lock_open(tx, dead_letter, "edited").await?;
    let event = sqlx::query!(
        "select type, subject from events.dead_letter where id = $1",
        dead_letter
    )
    .fetch_one(&mut *tx)
    .await?;
    let type_name = contract::type_name(&event.r#type, &event.subject);
    let body = contract::from_json(type_name, &request.body_json).map_err(Error::Body)?;
    sqlx::query!(
        "update events.edit set state = 'replaced' where dead_letter_id = $1 and state = 'proposed'",
        dead_letter
    )
    .execute(&mut *tx)
    .await?;
    let edit = Uuid::now_v7();
    sqlx::query!(
        "insert into events.edit (id, facility, dead_letter_id, state, body, original_body, reason, proposed_by)
         select $1, facility, id, 'proposed', $3,
             coalesce((select e.original_body from events.edit e where e.dead_letter_id = $2 order by e.id limit 1), body),
             $4, $5
         from events.dead_letter where id = $2",
        edit,
        dead_letter,
        body,
        request.reason,
        operator.subject,
    )
    .execute(&mut *tx)
    .await?;
    if approval == Approval::NotRequired {
        apply(tx, service, edit, dead_letter, "").await?;
    }
    let response = ops::EditDeadLetterResponse {
        dead_letter: dead_letters::find(tx, dead_letter).await?.map(Into::into),
        edit: find_latest(tx, dead_letter).await?,
    };
    Ok((
        response,
        AuditDetail::for_dead_letter(dead_letter, request.reason.clone()),
    ))
}

pub(super) async fn approve(
    tx: &mut PgConnection,
    service: &str,
    operator: &Operator,
    request: &ops::ApproveDeadLetterEditRequest,
) -> Result<(ops::ApproveDeadLetterEditResponse, AuditDetail), Error> {
    let id = actions::uuid(&request.edit_id, "edit_id")?;
    let edit = sqlx::query!(
        "select dead_letter_id, state, proposed_by, reason from events.edit where id = $1 for update",
        id
    );
    let edit = edit.fetch_optional(&mut *tx).await?;
    let edit = edit.ok_or_else(|| Error::NotFound {
        kind: "edit",
        id: id.to_string(),
    })?;
    if edit.state != "proposed" {
        return Err(Error::EditClosed(edit.state));
    }
    if edit.proposed_by == operator.subject {
        return Err(Error::OwnEdit);
    }
    actions::lock_open(tx, edit.dead_letter_id, "edited").await?;
    apply(tx, service, id, edit.dead_letter_id, &operator.subject).await?;
    let response = ops::ApproveDeadLetterEditResponse {
        dead_letter: dead_letters::find(tx, edit.dead_letter_id).await?.map(Into::into),
        edit: find_latest(tx, edit.dead_letter_id).await?,
    };
    let detail = format!("proposed by {}: {}", edit.proposed_by, edit.reason);
    Ok((
        response,
        AuditDetail::for_dead_letter(edit.dead_letter_id, detail),
    ))
}

pub(super) async fn find_latest(
    tx: &mut PgConnection,
    dead_letter: Uuid,
) -> Result<Option<ops::DeadLetterEdit>, sqlx::Error> {
    let row = sqlx::query!(
        "select e.id, e.state, e.body, e.original_body, e.reason, e.proposed_by, e.proposed_at, e.approved_by, d.type,
             d.subject
         from events.edit e join events.dead_letter d on d.id = e.dead_letter_id
         where e.dead_letter_id = $1 order by e.id desc limit 1",
        dead_letter,
    );
    let Some(row) = row.fetch_optional(tx).await? else {
        return Ok(None);
    };
    let state = match row.state.as_str() {
        "proposed" => ops::DeadLetterEditState::Proposed,
        "applied" => ops::DeadLetterEditState::Applied,
        "replaced" => ops::DeadLetterEditState::Replaced,
        _ => ops::DeadLetterEditState::Unspecified,
    };
    let type_name = contract::type_name(&row.r#type, &row.subject);
    Ok(Some(ops::DeadLetterEdit {
        id: row.id.to_string(),
        state: state.into(),
        body_json: contract::to_json(type_name, &row.body).unwrap_or_default(),
        original_body_json: contract::to_json(type_name, &row.original_body).unwrap_or_default(),
        reason: row.reason,
        proposed_by: row.proposed_by,
        propose_time: Some(dead_letters::timestamp(row.proposed_at)),
        approved_by: row.approved_by,
    }))
}

async fn apply(
    tx: &mut PgConnection,
    service: &str,
    edit: Uuid,
    dead_letter: Uuid,
    approved_by: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with applied as (
             update events.edit set state = 'applied', approved_by = $2 where id = $1 returning body
         )
         update events.dead_letter set body = applied.body from applied where id = $3",
        edit,
        approved_by,
        dead_letter,
    )
    .execute(&mut *tx)
    .await?;
    replays::send(tx, service, dead_letter).await
}
