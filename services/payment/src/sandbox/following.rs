//! What is done to authorizations: captures, voids and refunds. Those that come at the same time are carried out by one
//! statement.

use std::{collections::HashMap, sync::Arc};

use chassis::{batch::Command, postgres::Fault};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::Card;
use crate::processor::{Outcome, Sent};

/// What is done to an authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Capture,
    Void,
    Refund,
}

/// Something asked for an authorization.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) kind: Kind,
    pub(super) key: Uuid,
    pub(super) authorization: Uuid,
    pub(super) amount: i64,
}

/// Carries it out.
pub(super) struct Following {
    pub(super) pool: PgPool,
}

/// Something asked for an authorization, on its way.
pub(super) struct Call {
    pub(super) wanted: Wanted,
    pub(super) sent: Sent,
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

impl Command for Following {
    type Item = Call;
    /// The answer and the card; none of a call that its caller has given up before it was sent.
    type Outcome = Option<(Outcome, Option<Card>)>;
    type Error = sqlx::Error;

    fn aggregate(&self, call: &Call) -> Uuid {
        call.wanted.authorization
    }

    fn is_outage(&self, error: &sqlx::Error) -> bool {
        Fault::of(error) == Fault::Outage
    }

    async fn execute(&self, calls: &[Arc<Call>]) -> Result<Vec<Self::Outcome>, sqlx::Error> {
        let mut line = self.pool.acquire().await?;
        let sent: Vec<Wanted> = calls
            .iter()
            .filter(|call| call.sent.mark())
            .map(|call| call.wanted)
            .collect();
        close(&mut line, &sent).await?;
        let mut carried_out = carry_out(&mut line, &sent).await?;
        Ok(calls
            .iter()
            .map(|call| carried_out.remove(&call.wanted.key))
            .collect())
    }
}

/// A void of an authorization that has not arrived leaves a closed one in its place.
async fn close(line: &mut PgConnection, sent: &[Wanted]) -> Result<(), sqlx::Error> {
    let voided: Vec<String> = sent
        .iter()
        .filter(|wanted| wanted.kind == Kind::Void)
        .map(|wanted| wanted.authorization.to_string())
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
    .execute(line)
    .await?;
    Ok(())
}

/// Carries each call out once per key, or finds its first answer.
async fn carry_out(
    line: &mut PgConnection,
    sent: &[Wanted],
) -> Result<HashMap<Uuid, (Outcome, Option<Card>)>, sqlx::Error> {
    let refusing = Card::refusing();
    // A repetition that had to wait for the first call does not see that call's row, and is told by the conflict with it.
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
        &refusing.iter().map(|(token, ..)| *token).collect::<Vec<_>>() as &[&str],
        &refusing.iter().map(|(_, kind, _)| kind.name()).collect::<Vec<_>>() as &[&str],
        &refusing.iter().map(|(.., reason)| *reason).collect::<Vec<_>>() as &[&str],
    )
    .fetch_all(line)
    .await?;
    let answers = rows.into_iter().map(|row| {
        let key = row
            .key
            .parse()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let card = row.token.as_deref().map(Card::of);
        Ok((key, (decided(row.key, row.reason), card)))
    });
    answers.collect()
}

fn decided(key: String, reason: String) -> Outcome {
    match reason.is_empty() {
        true => Outcome::Approved { reference: key },
        false => Outcome::Refused { reason },
    }
}
