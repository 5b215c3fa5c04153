//! The sandbox's records.

use std::time::Duration;

use chassis::{
    Tasks,
    batch::{Batcher, Limits, Refused},
};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    Card,
    authorizing::{Asked, Authorizing},
    following::{Call, Following, Wanted},
};
use crate::processor::{Authorize, NoAnswer, Outcome, Sent, Standing};

#[derive(Clone)]
pub(super) struct Book {
    pool: PgPool,
    authorizing: Batcher<Authorizing>,
    following: Batcher<Following>,
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

impl Book {
    pub(super) fn new(pool: PgPool, tasks: &Tasks) -> Self {
        let (authorizing, following) = (
            Authorizing { pool: pool.clone() },
            Following { pool: pool.clone() },
        );
        Self {
            pool,
            authorizing: Batcher::new(authorizing, Limits::default(), tasks.clone()),
            following: Batcher::new(following, Limits::default(), tasks.clone()),
        }
    }

    /// Writes an authorization down, or finds the one that was asked for under this key before.
    pub(super) async fn authorize(
        &self,
        call: &Authorize,
        card: Card,
        delay: Duration,
        sent: &Sent,
    ) -> Result<Authorization, NoAnswer> {
        let asked = Asked::new(call, card, delay, sent);
        let authorization = self.authorizing.submit(asked, None).await?;
        authorization.ok_or(NoAnswer::Timeout(Duration::ZERO))
    }

    /// Carries something out on an authorization, once per key.
    pub(super) async fn follow(
        &self,
        wanted: Wanted,
        sent: &Sent,
    ) -> Result<(Outcome, Option<Card>), NoAnswer> {
        let call = Call {
            wanted,
            sent: sent.clone(),
        };
        let answer = self.following.submit(call, None).await?;
        answer.ok_or(NoAnswer::Timeout(Duration::ZERO))
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

impl Authorization {
    pub(super) fn new(reference: String, outcome: String, reason: String, ready_in: Duration) -> Self {
        Self {
            reference,
            outcome,
            reason,
            ready_in,
        }
    }

    /// The answer; none when the call was lost.
    pub(super) fn outcome(self) -> Option<Outcome> {
        settled(self.reference, &self.outcome, self.reason)
    }

    /// Whether it was voided before it arrived.
    pub(super) fn closed(&self) -> bool {
        self.outcome == "CLOSED"
    }
}

impl From<Refused<sqlx::Error>> for NoAnswer {
    fn from(refused: Refused<sqlx::Error>) -> Self {
        match refused {
            Refused::Failed(error) => error.into(),
            refused => Self::Unreachable(Box::new(refused)),
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
