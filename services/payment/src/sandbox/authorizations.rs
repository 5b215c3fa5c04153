//! Authorizations. Concurrent ones are inserted by one statement.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chassis::{batch::Command, postgres::Fault};
use money::Currency;
use sqlx::PgPool;
use uuid::Uuid;

use super::Card;
use crate::processor::{Authorize, Dispatch, Outcome};

/// Inserts a batch of authorizations.
pub(super) struct InsertAuthorizations {
    pub(super) pool: PgPool,
}

/// A requested authorization.
pub(super) struct AuthorizationRequest {
    call: Authorize,
    card: Card,
    /// The time until the network answers.
    delay: Duration,
    dispatch: Dispatch,
}

/// A recorded authorization.
#[derive(Clone, Debug)]
pub(super) struct Authorization {
    reference: String,
    outcome: String,
    reason: String,
    /// The time until the network answers.
    pub(super) ready_in: Duration,
}

impl AuthorizationRequest {
    pub(super) fn new(call: &Authorize, card: Card, delay: Duration, dispatch: &Dispatch) -> Self {
        Self {
            call: call.clone(),
            card,
            delay,
            dispatch: dispatch.clone(),
        }
    }

    fn outcome(&self) -> (&'static str, &'static str) {
        match self.card {
            Card::Declines(reason) => ("REFUSED", reason),
            Card::TimesOutNotCharged => ("LOST", ""),
            _ => ("APPROVED", ""),
        }
    }
}

impl Command for InsertAuthorizations {
    type Item = AuthorizationRequest;
    /// `None` if the caller has cancelled the call before it was sent.
    type Outcome = Option<Authorization>;
    type Error = sqlx::Error;

    fn aggregate(&self, request: &AuthorizationRequest) -> Uuid {
        request.call.key
    }

    fn is_outage(&self, error: &sqlx::Error) -> bool {
        Fault::classify(error) == Fault::Outage
    }

    /// Inserts authorizations, or finds those with the same keys.
    async fn execute(
        &self,
        requests: &[Arc<AuthorizationRequest>],
    ) -> Result<Vec<Option<Authorization>>, sqlx::Error> {
        let mut conn = self.pool.acquire().await?;
        let sent: Vec<&AuthorizationRequest> = requests
            .iter()
            .map(Arc::as_ref)
            .filter(|one| one.dispatch.mark_sent())
            .collect();
        let calls: Vec<&Authorize> = sent.iter().map(|one| &one.call).collect();
        let currencies: Vec<Currency> = calls.iter().map(|call| call.amount.currency()).collect();
        let outcomes: Vec<_> = sent.iter().map(|one| one.outcome()).collect();
        let rows = sqlx::query!(
            r#"insert into sandbox.card_authorization as a
                   (key, reference, token, merchant_reference, currency, amount, outcome, reason, answers_at)
               select key, 'sbx_' || replace(key, '-', ''), token, merchant_reference, currency, amount, outcome, reason,
                   clock_timestamp() + delay * interval '1 second'
               from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[],
                   $8::float8[]) as new (key, token, merchant_reference, currency, amount, outcome, reason, delay)
               order by key
               on conflict (key) do update set requests = a.requests + 1
               returning key, reference, outcome, reason,
                   greatest(extract(epoch from answers_at - clock_timestamp()), 0)::float8 as "ready_in!""#,
            &calls.iter().map(|call| call.key.to_string()).collect::<Vec<_>>(),
            &calls.iter().map(|call| call.token.as_str()).collect::<Vec<_>>() as &[&str],
            &calls.iter().map(|call| call.merchant_reference.as_str()).collect::<Vec<_>>() as &[&str],
            &currencies.iter().map(Currency::code).collect::<Vec<_>>() as &[&str],
            &calls.iter().map(|call| call.amount.minor()).collect::<Vec<_>>(),
            &outcomes.iter().map(|(outcome, _)| *outcome).collect::<Vec<_>>() as &[&str],
            &outcomes.iter().map(|(_, reason)| *reason).collect::<Vec<_>>() as &[&str],
            &sent.iter().map(|one| one.delay.as_secs_f64()).collect::<Vec<_>>(),
        )
        .fetch_all(&mut *conn)
        .await?;
        let mut found: HashMap<String, Authorization> = rows
            .into_iter()
            .map(|row| {
                let ready_in = Duration::from_secs_f64(row.ready_in);
                let authorization = Authorization::new(row.reference, row.outcome, row.reason, ready_in);
                (row.key, authorization)
            })
            .collect();
        let outcome = |one: &Arc<AuthorizationRequest>| found.remove(&one.call.key.to_string());
        Ok(requests.iter().map(outcome).collect())
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

    /// The outcome; `None` if the call was lost.
    pub(super) fn outcome(self) -> Option<Outcome> {
        to_outcome(self.reference, &self.outcome, self.reason)
    }

    /// Whether it was voided before it arrived.
    pub(super) fn is_closed(&self) -> bool {
        self.outcome == "CLOSED"
    }
}

/// The outcome as the network answers it; `None` if the call was lost.
pub(super) fn to_outcome(reference: String, outcome: &str, reason: String) -> Option<Outcome> {
    match outcome {
        "APPROVED" => Some(Outcome::Approved { reference }),
        "REFUSED" => Some(Outcome::Refused { reason }),
        "CLOSED" => Some(Outcome::Refused {
            reason: "AUTHORIZATION_VOIDED".to_owned(),
        }),
        _ => None,
    }
}
