//! The sandbox's records.

use std::time::Duration;

use sqlx::{Acquire as _, PgConnection, PgPool, Postgres, pool::PoolConnection};
use uuid::Uuid;

use super::Card;
use crate::processor::{Authorize, NoAnswer, Outcome, Sent, Standing};

#[derive(Clone, Debug)]
pub(super) struct Book {
    pool: PgPool,
}

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
    key: Uuid,
    authorization: Uuid,
    amount: i64,
}

/// An authorization as the book has it.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    reference: String,
    outcome: String,
    reason: String,
    /// How long the network still takes.
    pub(super) ready_in: Duration,
}

struct Held {
    token: String,
    outcome: String,
    amount: i64,
    captured: i64,
    refunded: i64,
    voided: bool,
}

impl Book {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Writes an authorization down, or finds the one that was asked for under this key before.
    pub(super) async fn authorize(
        &self,
        call: &Authorize,
        card: Card,
        delay: Duration,
        sent: &Sent,
    ) -> Result<Authorization, NoAnswer> {
        let (outcome, reason) = match card {
            Card::Declines(reason) => ("REFUSED", reason),
            Card::TimesOutNotCharged => ("LOST", ""),
            _ => ("APPROVED", ""),
        };
        let key = call.key.to_string();
        let reference = format!("sbx_{}", call.key.simple());
        let currency = call.amount.currency();
        let mut line = self.line(sent).await?;
        let found = sqlx::query!(
            r#"insert into sandbox.card_authorization as a
                   (key, reference, token, merchant_reference, currency, amount, outcome, reason, answers_at)
               values ($1, $2, $3, $4, $5, $6, $7, $8, clock_timestamp() + $9::float8 * interval '1 second')
               on conflict (key) do update set requests = a.requests + 1
               returning reference, outcome, reason,
                   greatest(extract(epoch from answers_at - clock_timestamp()), 0)::float8 as "ready_in!""#,
            key,
            reference,
            call.token,
            call.merchant_reference,
            currency.code(),
            call.amount.minor(),
            outcome,
            reason,
            delay.as_secs_f64(),
        )
        .fetch_one(&mut *line)
        .await?;
        let (reference, outcome, reason) = (found.reference, found.outcome, found.reason);
        Ok(Authorization {
            reference,
            outcome,
            reason,
            ready_in: Duration::from_secs_f64(found.ready_in),
        })
    }

    /// Carries something out on an authorization, once per key.
    pub(super) async fn follow(
        &self,
        wanted: &Wanted,
        sent: &Sent,
    ) -> Result<(Outcome, Option<Card>), NoAnswer> {
        let mut line = self.line(sent).await?;
        let mut tx = line.begin().await?;
        let held = hold(&mut tx, wanted).await?;
        let card = held.as_ref().map(|held| Card::of(&held.token));
        let outcome = match repeated(&mut tx, wanted.key).await? {
            Some(outcome) => outcome,
            None => {
                let refusal = refusal(held.as_ref(), wanted);
                carry_out(&mut tx, wanted, refusal).await?;
                decided(wanted.key, refusal.unwrap_or_default())
            }
        };
        tx.commit().await?;
        Ok((outcome, card))
    }

    /// A line to the network. Waiting for one sends nothing.
    async fn line(&self, sent: &Sent) -> Result<PoolConnection<Postgres>, NoAnswer> {
        let line = self.pool.acquire().await?;
        sent.mark();
        Ok(line)
    }

    /// What became of the call with this key.
    pub(super) async fn standing(&self, key: Uuid) -> Result<Standing, NoAnswer> {
        let found = sqlx::query!(
            r#"select reference as "reference!", outcome as "outcome!", reason as "reason!", pending as "pending!"
               from (
                   select reference, outcome, reason, answers_at > clock_timestamp() as pending
                   from sandbox.card_authorization where key = $1
                   union all
                   select key, outcome, reason, answers_at > clock_timestamp()
                   from sandbox.card_operation where key = $1
               ) calls"#,
            key.to_string(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(match found {
            None => Standing::Absent,
            Some(found) if found.pending => Standing::Processing,
            Some(found) => match settled(found.reference, &found.outcome, found.reason) {
                Some(outcome) => Standing::Settled(outcome),
                None => Standing::Absent,
            },
        })
    }
}

impl Wanted {
    pub(super) fn new(kind: Kind, key: Uuid, authorization: Uuid, amount: i64) -> Self {
        Self {
            kind,
            key,
            authorization,
            amount,
        }
    }
}

impl Authorization {
    /// The answer; none when the call was lost.
    pub(super) fn outcome(self) -> Option<Outcome> {
        settled(self.reference, &self.outcome, self.reason)
    }

    /// Whether it was voided before it arrived.
    pub(super) fn closed(&self) -> bool {
        self.outcome == "CLOSED"
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Capture => "CAPTURE",
            Self::Void => "VOID",
            Self::Refund => "REFUND",
        }
    }
}

fn settled(reference: String, outcome: &str, reason: String) -> Option<Outcome> {
    match outcome {
        "APPROVED" => Some(Outcome::Approved { reference }),
        "REFUSED" => Some(Outcome::Refused { reason }),
        "CLOSED" => Some(Outcome::Refused {
            reason: "AUTHORIZATION_VOIDED".to_owned(),
        }),
        _ => None,
    }
}

fn decided(key: Uuid, refusal: &str) -> Outcome {
    if refusal.is_empty() {
        return Outcome::Approved {
            reference: key.to_string(),
        };
    }
    Outcome::Refused {
        reason: refusal.to_owned(),
    }
}

/// Locks the authorization. A void of one that has not arrived leaves a closed one in its place.
async fn hold(tx: &mut PgConnection, wanted: &Wanted) -> Result<Option<Held>, sqlx::Error> {
    let key = wanted.authorization.to_string();
    if wanted.kind == Kind::Void {
        sqlx::query!(
            "insert into sandbox.card_authorization
                 (key, reference, token, merchant_reference, currency, amount, outcome)
             values ($1, $2, '', '', '', 0, 'CLOSED')
             on conflict (key) do nothing",
            key,
            format!("sbx_{}", wanted.authorization.simple()),
        )
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query_as!(
        Held,
        "select token, outcome, amount, captured, refunded, voided
         from sandbox.card_authorization where key = $1 for update",
        key,
    )
    .fetch_optional(tx)
    .await
}

/// The first answer, when this key has one.
async fn repeated(tx: &mut PgConnection, key: Uuid) -> Result<Option<Outcome>, sqlx::Error> {
    let first = sqlx::query!(
        "update sandbox.card_operation set requests = requests + 1 where key = $1 returning reason",
        key.to_string(),
    )
    .fetch_optional(tx)
    .await?;
    Ok(first.map(|first| decided(key, &first.reason)))
}

fn refusal(held: Option<&Held>, wanted: &Wanted) -> Option<&'static str> {
    let Some(held) = held else {
        return Some("NO_SUCH_AUTHORIZATION");
    };
    if let Some(reason) = Card::of(&held.token).refuses(wanted.kind) {
        return Some(reason);
    }
    match wanted.kind {
        // There is nothing to let go of; the caller has what it wants.
        Kind::Void if held.outcome != "APPROVED" || held.voided => None,
        Kind::Void => (held.captured > 0).then_some("ALREADY_CAPTURED"),
        Kind::Capture if held.outcome != "APPROVED" || held.voided => Some("NO_SUCH_AUTHORIZATION"),
        Kind::Capture if held.captured > 0 => Some("ALREADY_CAPTURED"),
        Kind::Capture => (wanted.amount > held.amount).then_some("BEYOND_AUTHORIZED"),
        Kind::Refund => (wanted.amount > held.captured - held.refunded).then_some("BEYOND_CAPTURED"),
    }
}

async fn carry_out(tx: &mut PgConnection, wanted: &Wanted, refusal: Option<&str>) -> Result<(), sqlx::Error> {
    // There is nothing to write it down against.
    if refusal == Some("NO_SUCH_AUTHORIZATION") {
        return Ok(());
    }
    sqlx::query!(
        "with moved as (
             update sandbox.card_authorization
             set captured = captured + case when $3 = 'CAPTURE' then $4::bigint else 0 end,
                 refunded = refunded + case when $3 = 'REFUND' then $4::bigint else 0 end,
                 voided = voided or ($3 = 'VOID' and outcome = 'APPROVED'),
                 outcome = case when $3 = 'VOID' and outcome = 'LOST' then 'CLOSED' else outcome end
             where key = $2 and $5 = 'APPROVED'
         )
         insert into sandbox.card_operation (key, authorization_key, kind, amount, outcome, reason)
         values ($1, $2, $3, $4, $5, $6)",
        wanted.key.to_string(),
        wanted.authorization.to_string(),
        wanted.kind.name(),
        wanted.amount,
        if refusal.is_none() { "APPROVED" } else { "REFUSED" },
        refusal.unwrap_or_default(),
    )
    .execute(tx)
    .await?;
    Ok(())
}
