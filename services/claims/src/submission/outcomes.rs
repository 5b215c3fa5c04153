//! Records the outcomes of calls to the post office and releases the leases. Outcomes that arrive concurrently
//! share a transaction.

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
    error::Error,
    grpc::encode::{self, Attachments},
    post_office::Verdict,
    response::Response,
    store::{
        self, Record,
        parked::ClaimNumber,
        submissions::{self, Backoff, LeaseRelease},
    },
};

/// The largest number of outcomes that wait to be recorded. It exceeds the number of concurrent calls, so that no
/// outcome is refused: by then the post office has processed the submission.
const MAX_WAITING: usize = 1 << 20;

/// The outcome of a call to the post office.
pub struct Outcome {
    lease: Lease,
    /// The post office's verdict; `None` if it has not answered or has not decided.
    verdict: Option<Verdict>,
    request: Option<PendingRequest>,
    /// The span of the call, to which the claim's events belong.
    span: Span,
}

/// The request that gets a response once the outcome is recorded.
struct PendingRequest {
    key: Key,
    /// Encodes the response, which shows the claim.
    encode_response: Box<dyn Fn(wire::Claim) -> Vec<u8> + Send + Sync>,
}

/// The claim after its outcome was recorded; empty for an outcome without a request.
#[derive(Debug, Default)]
pub struct RecordedClaim {
    /// The claim after the transaction.
    claim: wire::Claim,
    /// The response that another execution of the same request stored first.
    replayed: Option<Vec<u8>>,
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

    fn to_release(&self) -> LeaseRelease<'_> {
        let transition = |verdict| verdict::transition(self.lease.state(), verdict);
        LeaseRelease {
            lease: self.lease.key(),
            transition: self.verdict.as_ref().map(transition),
        }
    }
}

/// Records outcomes in batches.
pub struct RecordOutcomes {
    database: Database,
    outbox: Outbox,
    backoff: Backoff,
}

/// Records outcomes and releases leases. Cheap to clone.
#[derive(Clone)]
pub struct Outcomes(Batcher<RecordOutcomes>);

impl Outcomes {
    /// Creates a batcher that records outcomes in `database`.
    pub fn new(
        database: &Database,
        outbox: &Outbox,
        settings: &config::PostOffice,
        tasks: chassis::Tasks,
    ) -> Outcomes {
        let command = RecordOutcomes {
            database: database.clone(),
            outbox: outbox.clone(),
            backoff: Backoff {
                first_ms: settings.ask_again_ms.cast_signed(),
                max_ms: settings.ask_again_max_ms.cast_signed(),
            },
        };
        let limits = Limits {
            waiting: MAX_WAITING,
            ..Limits::default()
        };
        Outcomes(Batcher::new(command, limits, tasks))
    }

    /// Records a verdict and releases the lease: books the remittance lines that were parked for the claim or for
    /// activities that it has now, and stores the response to the request with `key`.
    ///
    /// # Errors
    /// [`Error::SubmissionInProgress`] when another call has taken over the lease, [`Error::WrongState`] when the
    /// claim was withdrawn in the meantime.
    pub async fn respond<M: Message + 'static>(
        &self,
        (lease, verdict): (Lease, Verdict),
        key: &Key,
        response: fn(wire::Claim) -> M,
    ) -> Result<Response<M>, Error> {
        let request = PendingRequest {
            key: key.clone(),
            encode_response: Box::new(move |claim| response(claim).encode_to_vec()),
        };
        let outcome = Outcome {
            request: Some(request),
            ..Outcome::new(lease, Some(verdict))
        };
        let recorded = self.submit(outcome).await?;
        Ok(match recorded.replayed {
            Some(bytes) => Response::Replayed(bytes),
            None => Response::New(response(recorded.claim)),
        })
    }

    /// Records a verdict for the background worker, without a response. Otherwise like [`Outcomes::respond`].
    ///
    /// # Errors
    /// Those of [`Outcomes::respond`].
    pub async fn record(&self, lease: Lease, verdict: Verdict) -> Result<(), Error> {
        self.submit(Outcome::new(lease, Some(verdict))).await?;
        Ok(())
    }

    /// Releases a lease without a verdict; the claim's state does not change. If the claim waits for the post
    /// office, it is due again after a backoff that doubles with each attempt.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn release(&self, lease: Lease) -> Result<(), Error> {
        self.submit(Outcome::new(lease, None)).await?;
        Ok(())
    }

    async fn submit(&self, outcome: Outcome) -> Result<RecordedClaim, Error> {
        // Without the caller's deadline: the post office was called, so the outcome must be recorded.
        self.0.submit(outcome, None).await.map_err(Error::from)?
    }
}

impl Command for RecordOutcomes {
    type Item = Outcome;
    type Outcome = Result<RecordedClaim, Error>;
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
        let mut recorded = self.record(&mut tx, outcomes).await?;
        tx.commit().await?;
        self.outbox.wake();
        let mut results = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            if let Some(request) = &outcome.request {
                idempotency::notify_waiters(&self.database, outcome.lease.facility(), &request.key);
            }
            results.push(
                recorded
                    .remove(&outcome.lease.claim())
                    .unwrap_or_else(|| Ok(RecordedClaim::default())),
            );
        }
        Ok(results)
    }
}

/// The results of outcomes that have a request, by claim id.
type Results = HashMap<Uuid, Result<RecordedClaim, Error>>;

/// A response to be stored.
struct PendingResponse<'a> {
    outcome: &'a Outcome,
    request: &'a PendingRequest,
    record: Record,
    /// Whether the claim may have booked lines or resubmissions.
    has_history: bool,
}

impl RecordOutcomes {
    async fn record(&self, conn: &mut PgConnection, outcomes: &[Arc<Outcome>]) -> Result<Results, Error> {
        let numbers: Vec<_> = outcomes
            .iter()
            .filter(|outcome| outcome.verdict.is_some())
            .map(|outcome| number(&outcome.lease))
            .collect();
        if !numbers.is_empty() {
            store::parked::lock_numbers(conn, &numbers).await?;
        }
        let releases: Vec<_> = outcomes.iter().map(|outcome| outcome.to_release()).collect();
        let mut released = submissions::release_leases(conn, &releases, self.backoff).await?;
        let mut results = HashMap::new();
        let mut events = Vec::new();
        let mut pending = Vec::new();
        let mut lost = Vec::new();
        for outcome in outcomes {
            let Some(verdict) = &outcome.verdict else { continue };
            let Some(released) = released.remove(&outcome.lease.claim()) else {
                lost.push(outcome.lease.claim());
                continue;
            };
            let has_early_lines = released.has_early_lines;
            let (mut record, new_events) = outcome
                .span
                .in_scope(|| verdict::apply(&outcome.lease, verdict, released));
            events.extend(new_events);
            if has_early_lines {
                let booking = booking::book_parked_lines(conn, outcome.lease.facility(), &mut record);
                events.extend(booking.instrument(outcome.span.clone()).await?);
            }
            if let Some(request) = &outcome.request {
                pending.push(PendingResponse {
                    outcome,
                    request,
                    record,
                    has_history: has_early_lines || outcome.lease.record.submitted_at.is_some(),
                });
            }
        }
        for (claim, error) in lost_lease_errors(conn, &lost).await? {
            results.insert(claim, Err(error));
        }
        events::append(conn, &events).await?;
        results.extend(store_responses(conn, pending).await?);
        Ok(results)
    }
}

fn number(lease: &Lease) -> (&Facility, ClaimNumber<'_>) {
    let details = &lease.submission.details;
    let number = ClaimNumber {
        provider_id: &details.provider_id,
        claim_id: &details.claim_id,
    };
    (lease.facility(), number)
}

/// The errors of claims that lost their lease, so that their outcomes were not recorded.
async fn lost_lease_errors(conn: &mut PgConnection, claims: &[Uuid]) -> Result<Vec<(Uuid, Error)>, Error> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let states: HashMap<Uuid, State> = store::list(conn, claims)
        .await?
        .into_iter()
        .map(|record| (record.id, record.state))
        .collect();
    let error = |claim: &Uuid| match states.get(claim) {
        None => Error::ClaimNotFound(claim.to_string()),
        Some(state @ State::Withdrawn) => {
            tracing::warn!(claim.id = %claim, "a claim was withdrawn while it was being submitted to the post office");
            let (state, step) = (*state, Step::Submit);
            Error::WrongState(WrongState { state, step })
        }
        Some(_) => Error::SubmissionInProgress,
    };
    Ok(claims.iter().map(|claim| (*claim, error(claim))).collect())
}

/// Stores the responses, which show the claims. A response that another execution of the same request stored first
/// replaces this one.
async fn store_responses(
    conn: &mut PgConnection,
    pending: Vec<PendingResponse<'_>>,
) -> Result<Results, Error> {
    if pending.is_empty() {
        return Ok(HashMap::new());
    }
    let mut claims: HashMap<Uuid, wire::Claim> = HashMap::new();
    let mut requests = Vec::new();
    let mut with_history = Vec::new();
    for response in pending {
        requests.push((
            response.outcome.lease.facility(),
            response.record.id,
            response.request,
        ));
        if response.has_history {
            with_history.push(response.record);
        } else {
            claims.insert(response.record.id, encode::claim(response.record, Vec::new()));
        }
    }
    if !with_history.is_empty() {
        let ids: Vec<_> = with_history.iter().map(|record| record.id).collect();
        let encoded = encode::claims(conn, with_history, Attachments::Included).await?;
        claims.extend(ids.into_iter().zip(encoded));
    }
    let own: Vec<_> = requests
        .iter()
        .map(|(facility, id, request)| {
            let claim = claims.get(id).cloned().unwrap_or_default();
            (*facility, &request.key, (request.encode_response)(claim))
        })
        .collect();
    let stored = idempotency::store_responses(conn, &own).await?;
    let mut results = HashMap::new();
    for ((_, id, _), ((.., own), stored)) in requests.iter().zip(own.iter().zip(stored)) {
        let claim = claims.remove(id).unwrap_or_default();
        let replayed = (stored != *own).then_some(stored);
        results.insert(*id, Ok(RecordedClaim { claim, replayed }));
    }
    Ok(results)
}
