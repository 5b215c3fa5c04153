//! What came of calls of the post office is written down, of those that end at the same time in one transaction.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Facility,
    batch::{Batcher, Command, Limits},
    idempotency::{self, Key},
    postgres::Database,
};
use events::Outbox;
use prost::Message;
use proto::claims::v1 as wire;
use sqlx::PgConnection;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::{Lease, verdict};
use crate::{
    booking,
    claim::{State, Step, WrongState},
    config,
    desk::Answer,
    error::Error,
    post_office::Verdict,
    store::{
        self, Record,
        filings::{self, Backoff, Ending},
        parked::Number,
    },
    view::{self, Attachments},
};

/// Outcomes that wait to be written at most. Calls and follow-ups are fewer, so that none is refused: the post office has
/// done its part by then.
const WAITING: usize = 1 << 20;

/// How a lease ends.
pub struct Outcome {
    lease: Lease,
    /// What the post office has answered; none when it has not, or has not decided.
    verdict: Option<Verdict>,
    request: Option<Request>,
    /// The call in which the claim's events happen.
    span: Span,
}

/// The request that the outcome answers.
struct Request {
    key: Key,
    /// The answer, encoded, that shows the claim.
    response: Box<dyn Fn(wire::Claim) -> Vec<u8> + Send + Sync>,
}

/// The answer to a request; empty without one.
#[derive(Debug, Default)]
pub struct Answered {
    /// The claim as it stands now.
    claim: wire::Claim,
    /// The stored answer of the same request by another call, which was first.
    repeated: Option<Vec<u8>>,
}

impl Outcome {
    fn new(lease: Lease, verdict: Option<Verdict>) -> Outcome {
        Outcome {
            lease,
            verdict,
            request: None,
            span: Span::current(),
        }
    }

    fn ending(&self) -> Ending<'_> {
        let filed = |verdict| verdict::filed(self.lease.state(), verdict);
        Ending {
            lease: self.lease.held(),
            filed: self.verdict.as_ref().map(filed),
        }
    }
}

/// Writes outcomes.
pub struct WriteOutcomes {
    database: Database,
    outbox: Outbox,
    backoff: Backoff,
}

/// Where leases end. Cheap to clone.
#[derive(Clone)]
pub struct Outcomes(Batcher<WriteOutcomes>);

impl Outcomes {
    /// Outcomes that are written to `database`.
    pub fn new(
        database: &Database,
        outbox: &Outbox,
        settings: &config::PostOffice,
        tasks: chassis::Tasks,
    ) -> Outcomes {
        let command = WriteOutcomes {
            database: database.clone(),
            outbox: outbox.clone(),
            backoff: Backoff {
                first_ms: settings.ask_again_ms.cast_signed(),
                longest_ms: settings.ask_again_max_ms.cast_signed(),
            },
        };
        let limits = Limits {
            waiting: WAITING,
            ..Limits::default()
        };
        Outcomes(Batcher::new(command, limits, tasks))
    }

    /// Ends a lease with a verdict: writes it down, books the remittance lines that have waited for the claim or for
    /// activities that it has now, and stores the response to the request of `key`.
    ///
    /// # Errors
    /// [`Error::FilingInProgress`] when the lease was lost to another call, [`Error::WrongState`] when the claim was
    /// withdrawn in the meantime.
    pub async fn answer<M: Message + 'static>(
        &self,
        (lease, verdict): (Lease, Verdict),
        key: &Key,
        response: fn(wire::Claim) -> M,
    ) -> Result<Answer<M>, Error> {
        let request = Request {
            key: key.clone(),
            response: Box::new(move |claim| response(claim).encode_to_vec()),
        };
        let outcome = Outcome {
            request: Some(request),
            ..Outcome::new(lease, Some(verdict))
        };
        let answered = self.submit(outcome).await?;
        Ok(match answered.repeated {
            Some(stored) => Answer::Repeated(stored),
            None => Answer::New(response(answered.claim)),
        })
    }

    /// As [`Outcomes::answer`], for a claim that nobody has asked to hand in now.
    ///
    /// # Errors
    /// As [`Outcomes::answer`].
    pub async fn write(&self, lease: Lease, verdict: Verdict) -> Result<(), Error> {
        self.submit(Outcome::new(lease, Some(verdict))).await?;
        Ok(())
    }

    /// Ends a lease without a verdict: the claim stays as it was. One that waits for the post office is asked after again, after
    /// a time that doubles with each try.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release(&self, lease: Lease) -> Result<(), Error> {
        self.submit(Outcome::new(lease, None)).await?;
        Ok(())
    }

    async fn submit(&self, outcome: Outcome) -> Result<Answered, Error> {
        // Whatever time the caller has left: the post office has been called.
        self.0.submit(outcome, None).await.map_err(Error::from)?
    }
}

impl Command for WriteOutcomes {
    type Item = Outcome;
    type Outcome = Result<Answered, Error>;
    type Error = Error;

    fn aggregate(&self, outcome: &Outcome) -> Uuid {
        outcome.lease.claim()
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, outcomes: &[Arc<Outcome>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = outcomes.iter().map(|outcome| outcome.lease.facility());
        let mut tx = self.database.begin_for(facilities).await?;
        let mut ended = self.end(&mut tx, outcomes).await?;
        tx.commit().await?;
        self.outbox.wake();
        let mut answers = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            if let Some(request) = &outcome.request {
                idempotency::announce(&self.database, outcome.lease.facility(), &request.key);
            }
            answers.push(
                ended
                    .remove(&outcome.lease.claim())
                    .unwrap_or_else(|| Ok(Answered::default())),
            );
        }
        Ok(answers)
    }
}

/// The answers to requests, by their claims; those of outcomes without a request are left out.
type Answers = HashMap<Uuid, Result<Answered, Error>>;

/// The answer to a request that is to be stored.
struct Unanswered<'a> {
    outcome: &'a Outcome,
    request: &'a Request,
    record: Record,
    /// Lines may be booked on the claim, or it may have been resubmitted.
    has_history: bool,
}

impl WriteOutcomes {
    async fn end(&self, conn: &mut PgConnection, outcomes: &[Arc<Outcome>]) -> Result<Answers, Error> {
        let numbers: Vec<_> = outcomes
            .iter()
            .filter(|outcome| outcome.verdict.is_some())
            .map(|outcome| number(&outcome.lease))
            .collect();
        if !numbers.is_empty() {
            store::parked::lock_numbers(conn, &numbers).await?;
        }
        let endings: Vec<_> = outcomes.iter().map(|outcome| outcome.ending()).collect();
        let mut ended = filings::end(conn, &endings, self.backoff).await?;
        let mut answers = HashMap::new();
        let mut events = Vec::new();
        let mut unanswered = Vec::new();
        let mut lost = Vec::new();
        for outcome in outcomes {
            let Some(verdict) = &outcome.verdict else { continue };
            let Some(ended) = ended.remove(&outcome.lease.claim()) else {
                lost.push(outcome.lease.claim());
                continue;
            };
            let has_early_lines = ended.has_early_lines;
            let (mut record, made) = outcome
                .span
                .in_scope(|| verdict::apply(&outcome.lease, verdict, ended));
            events.extend(made);
            if has_early_lines {
                let unparked = booking::unpark(conn, outcome.lease.facility(), &mut record);
                events.extend(unparked.instrument(outcome.span.clone()).await?);
            }
            if let Some(request) = &outcome.request {
                unanswered.push(Unanswered {
                    outcome,
                    request,
                    record,
                    has_history: has_early_lines || outcome.lease.record.submitted_at.is_some(),
                });
            }
        }
        for (claim, error) in why_lost(conn, &lost).await? {
            answers.insert(claim, Err(error));
        }
        events::append(conn, &events).await?;
        answers.extend(store_answers(conn, unanswered).await?);
        Ok(answers)
    }
}

fn number(lease: &Lease) -> (&Facility, Number<'_>) {
    let details = &lease.submission.details;
    let number = Number {
        provider_id: &details.provider_id,
        claim_id: &details.claim_id,
    };
    (lease.facility(), number)
}

/// Why outcomes were not written.
async fn why_lost(conn: &mut PgConnection, claims: &[Uuid]) -> Result<Vec<(Uuid, Error)>, Error> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let states: HashMap<Uuid, State> = store::read(conn, claims)
        .await?
        .into_iter()
        .map(|record| (record.id, record.state))
        .collect();
    let why = |claim: &Uuid| match states.get(claim) {
        None => Error::NoSuchClaim(claim.to_string()),
        Some(state @ State::Withdrawn) => {
            tracing::warn!(claim.id = %claim, "a claim was withdrawn while it was handed to the post office");
            let (state, step) = (*state, Step::Submit);
            Error::WrongState(WrongState { state, step })
        }
        Some(_) => Error::FilingInProgress,
    };
    Ok(claims.iter().map(|claim| (*claim, why(claim))).collect())
}

/// Stores the answers to requests, which show their claims. What is stored already by another call is answered instead.
async fn store_answers(conn: &mut PgConnection, unanswered: Vec<Unanswered<'_>>) -> Result<Answers, Error> {
    if unanswered.is_empty() {
        return Ok(HashMap::new());
    }
    let mut claims: HashMap<Uuid, wire::Claim> = HashMap::new();
    let mut requests = Vec::new();
    let mut with_history = Vec::new();
    for answer in unanswered {
        requests.push((answer.outcome.lease.facility(), answer.record.id, answer.request));
        if answer.has_history {
            with_history.push(answer.record);
        } else {
            claims.insert(answer.record.id, view::claim(answer.record, Vec::new()));
        }
    }
    if !with_history.is_empty() {
        let ids: Vec<_> = with_history.iter().map(|record| record.id).collect();
        let whole = view::claims(conn, with_history, Attachments::Shown).await?;
        claims.extend(ids.into_iter().zip(whole));
    }
    let own: Vec<_> = requests
        .iter()
        .map(|(facility, id, request)| {
            let claim = claims.get(id).cloned().unwrap_or_default();
            (*facility, &request.key, (request.response)(claim))
        })
        .collect();
    let stored = idempotency::answer_all(conn, &own).await?;
    let mut answers = HashMap::new();
    for ((_, id, _), ((.., own), stored)) in requests.iter().zip(own.iter().zip(stored)) {
        let claim = claims.remove(id).unwrap_or_default();
        let repeated = (stored != *own).then_some(stored);
        answers.insert(*id, Ok(Answered { claim, repeated }));
    }
    Ok(answers)
}
