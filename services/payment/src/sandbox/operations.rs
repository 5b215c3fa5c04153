//! Captures, voids and refunds of authorizations. Concurrent ones are executed by one statement.

use std::{collections::HashMap, sync::Arc};

use chassis::{batch::Command, postgres::Fault};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::Card;
use crate::processor::{Dispatch, Outcome};

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Capture,
    Void,
    Refund,
}

/// An operation on an authorization. The amount is in minor units.
#[derive(Clone, Copy, Debug)]
pub(super) struct CardOperation {
    pub(super) kind: Kind,
    pub(super) key: Uuid,
    pub(super) authorization: Uuid,
    pub(super) amount: i64,
}

/// Executes a batch of operations.
pub(super) struct ExecuteOperations {
    pub(super) pool: PgPool,
}

/// A requested operation.
pub(super) struct OperationRequest {
    pub(super) operation: CardOperation,
    pub(super) dispatch: Dispatch,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Capture, Self::Void, Self::Refund];

    fn name(self) -> &'static str {
        match self {
            Self::Capture => "CAPTURE",
            Self::Void => "VOID",
            Self::Refund => "REFUND",
        }
    }
}

impl Command for ExecuteOperations {
    type Item = OperationRequest;
    /// The outcome and the card; `None` if the caller has cancelled the call before it was sent.
    type Outcome = Option<(Outcome, Option<Card>)>;
    type Error = sqlx::Error;

    fn aggregate(&self, request: &OperationRequest) -> Uuid {
        request.operation.authorization
    }

    fn is_outage(&self, error: &sqlx::Error) -> bool {
        Fault::classify(error) == Fault::Outage
    }

    async fn execute(&self, requests: &[Arc<OperationRequest>]) -> Result<Vec<Self::Outcome>, sqlx::Error> {
        let mut conn = self.pool.acquire().await?;
        let sent: Vec<CardOperation> = requests
            .iter()
            .filter(|request| request.dispatch.mark_sent())
            .map(|request| request.operation)
            .collect();
        close(&mut conn, &sent).await?;
        let mut outcomes = execute(&mut conn, &sent).await?;
        Ok(requests
            .iter()
            .map(|request| outcomes.remove(&request.operation.key))
            .collect())
    }
}

/// Inserts a closed authorization for each void whose authorization has not arrived.
async fn close(conn: &mut PgConnection, sent: &[CardOperation]) -> Result<(), sqlx::Error> {
    let voided: Vec<String> = sent
        .iter()
        .filter(|operation| operation.kind == Kind::Void)
        .map(|operation| operation.authorization.to_string())
        .collect();
    if voided.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into sandbox.card_authorization (key, reference, token, merchant_reference, currency, amount, outcome)
         select key, 'sbx_' || replace(key, '-', ''), '', '', '', 0, 'CLOSED'
         from unnest($1::text[]) as voided (key) order by key
         on conflict (key) do nothing",
        &voided,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Executes each operation once per key, or finds its first outcome.
async fn execute(
    conn: &mut PgConnection,
    sent: &[CardOperation],
) -> Result<HashMap<Uuid, (Outcome, Option<Card>)>, sqlx::Error> {
    let refusals = Card::refusals();
    // A repetition that has waited for the first call does not see that call's row; the conflict with it returns
    // the reason.
    let rows = sqlx::query!(
        r#"with wanted as (
               select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
                   as wanted (key, authorization_key, kind, amount)
           ), held as (
               select a.* from sandbox.card_authorization a
               where a.key in (select authorization_key from wanted)
               order by a.key for update
           ), decided as (
               select w.key, w.authorization_key, w.kind, w.amount, held.token,
                   case
                       when before.key is not null then before.reason
                       when held.key is null then 'NO_SUCH_AUTHORIZATION'
                       when card.reason is not null then card.reason
                       -- There is nothing to let go of; the caller has what it wants.
                       when w.kind = 'VOID' and (held.outcome <> 'APPROVED' or held.voided) then ''
                       when w.kind = 'VOID' and held.captured > 0 then 'ALREADY_CAPTURED'
                       when w.kind = 'CAPTURE' and (held.outcome <> 'APPROVED' or held.voided)
                           then 'NO_SUCH_AUTHORIZATION'
                       when w.kind = 'CAPTURE' and held.captured > 0 then 'ALREADY_CAPTURED'
                       when w.kind = 'CAPTURE' and w.amount > held.amount then 'BEYOND_AUTHORIZED'
                       when w.kind = 'REFUND' and w.amount > held.captured - held.refunded then 'BEYOND_CAPTURED'
                       else ''
                   end as reason
               from wanted w
                   left join held on held.key = w.authorization_key
                   left join sandbox.card_operation before on before.key = w.key
                   left join unnest($5::text[], $6::text[], $7::text[]) as card (token, kind, reason)
                       on card.token = held.token and card.kind = w.kind
           ), written as (
               insert into sandbox.card_operation as o (key, authorization_key, kind, amount, outcome, reason)
               select key, authorization_key, kind, amount, case reason when '' then 'APPROVED' else 'REFUSED' end, reason
               -- There is nothing to write it down against.
               from decided where reason <> 'NO_SUCH_AUTHORIZATION'
               on conflict (key) do update set requests = o.requests + 1
               returning o.key, o.reason, o.requests = 1 as is_first
           ), moved as (
               update sandbox.card_authorization a
               set captured = a.captured + case decided.kind when 'CAPTURE' then decided.amount else 0 end,
                   refunded = a.refunded + case decided.kind when 'REFUND' then decided.amount else 0 end,
                   voided = a.voided or (decided.kind = 'VOID' and a.outcome = 'APPROVED'),
                   outcome = case when decided.kind = 'VOID' and a.outcome = 'LOST' then 'CLOSED' else a.outcome end
               from decided join written using (key)
               where a.key = decided.authorization_key and written.is_first and written.reason = ''
           )
           select decided.key as "key!", decided.token as "token?",
               coalesce(written.reason, decided.reason) as "reason!"
           from decided left join written using (key)"#,
        &sent.iter().map(|one| one.key.to_string()).collect::<Vec<_>>(),
        &sent.iter().map(|one| one.authorization.to_string()).collect::<Vec<_>>(),
        &sent.iter().map(|one| one.kind.name()).collect::<Vec<_>>() as &[&str],
        &sent.iter().map(|one| one.amount).collect::<Vec<_>>(),
        &refusals.iter().map(|(token, ..)| *token).collect::<Vec<_>>() as &[&str],
        &refusals.iter().map(|(_, kind, _)| kind.name()).collect::<Vec<_>>() as &[&str],
        &refusals.iter().map(|(.., reason)| *reason).collect::<Vec<_>>() as &[&str],
    )
    .fetch_all(conn)
    .await?;
    let outcomes = rows.into_iter().map(|row| {
        let key = row
            .key
            .parse()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let card = row.token.as_deref().map(Card::from_token);
        Ok((key, (to_outcome(row.key, row.reason), card)))
    });
    outcomes.collect()
}

fn to_outcome(key: String, reason: String) -> Outcome {
    if reason.is_empty() {
        Outcome::Approved { reference: key }
    } else {
        Outcome::Refused { reason }
    }
}
