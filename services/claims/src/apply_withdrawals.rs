//! Withdraws claims for requests that arrive at the same time, in one transaction.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Facility,
    audit::Origin,
    batch::{Batcher, Command, Limits},
    idempotency::{self, Key, NewKey},
    postgres::Database,
};
use events::{Event, Outbox};
use prost::Message as _;
use proto::claims::v1::{self as wire, ClaimWithdrawn, WithdrawClaimResponse};
use sqlx::PgConnection;
use tracing::Span;
use uuid::Uuid;

use crate::{
    balance::{Balance, Line},
    claim::{State, Step},
    error::Error,
    events::to_event,
    grpc::{
        decode,
        encode::{self, Attachments},
    },
    response::Response,
    store::{Record, drafts, remittances, withdrawals},
};

/// A request to withdraw the claim of an order.
pub struct Withdrawal {
    pub(crate) facility: Facility,
    pub(crate) order_id: Uuid,
    pub(crate) reason: String,
    pub(crate) key: Key,
    pub(crate) origin: Origin,
    /// The span of the call.
    pub(crate) span: Span,
}

/// Withdraws claims. Concurrent withdrawals share a transaction.
pub struct WithdrawClaims {
    database: Database,
    outbox: Outbox,
}

/// Collects concurrent withdrawals into batches.
pub type WithdrawalBatcher = Batcher<WithdrawClaims>;

impl WithdrawClaims {
    /// A batcher that withdraws claims in `database`.
    pub fn batcher(database: &Database, outbox: &Outbox, tasks: chassis::Tasks) -> WithdrawalBatcher {
        let command = WithdrawClaims {
            database: database.clone(),
            outbox: outbox.clone(),
        };
        Batcher::new(command, Limits::default(), tasks)
    }
}

type WithdrawResult = Result<Response<WithdrawClaimResponse>, Error>;

impl Command for WithdrawClaims {
    type Item = Withdrawal;
    type Outcome = WithdrawResult;
    type Error = Error;

    fn aggregate(&self, withdrawal: &Withdrawal) -> Uuid {
        withdrawal.order_id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, withdrawals: &[Arc<Withdrawal>]) -> Result<Vec<WithdrawResult>, Error> {
        let facilities = withdrawals.iter().map(|withdrawal| &withdrawal.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let mut results = withdraw(&mut tx, withdrawals).await?;
        tx.commit().await?;
        self.outbox.wake();
        let result = |withdrawal: &Arc<Withdrawal>| {
            let result = results.remove(&withdrawal.order_id);
            result.unwrap_or(Err(Error::InProgress))
        };
        Ok(withdrawals.iter().map(result).collect())
    }
}

/// Executes withdrawals. Returns their results by order id.
async fn withdraw(
    conn: &mut PgConnection,
    withdrawals: &[Arc<Withdrawal>],
) -> Result<HashMap<Uuid, WithdrawResult>, Error> {
    let orders: Vec<_> = withdrawals.iter().map(|one| one.order_id).collect();
    drafts::lock_orders(conn, &orders).await?;
    let mut results = find_replays(conn, withdrawals).await?;
    let pending: Vec<&Withdrawal> = withdrawals
        .iter()
        .map(Arc::as_ref)
        .filter(|one| !results.contains_key(&one.order_id))
        .collect();
    if pending.is_empty() {
        return Ok(results);
    }
    let orders: Vec<_> = pending.iter().map(|one| (&one.facility, one.order_id)).collect();
    let mut claims = lock_by_orders(conn, &orders).await?;
    let mut tombstones = Vec::new();
    let mut withdrawn: Vec<(&Withdrawal, Option<Record>)> = Vec::new();
    for one in pending {
        match claims.remove(&one.order_id) {
            Some(Err(error)) => {
                results.insert(one.order_id, Err(error));
            }
            Some(Ok(record)) => withdrawn.push((one, Some(record))),
            None => {
                tombstones.push((&one.facility, one.order_id, one.reason.as_str()));
                withdrawn.push((one, None));
            }
        }
    }
    if !tombstones.is_empty() {
        drafts::insert_tombstones(conn, &tombstones).await?;
    }
    let events = withdraw_active(conn, &mut withdrawn).await?;
    events::append(conn, &events).await?;
    results.extend(store_responses(conn, withdrawn).await?);
    Ok(results)
}

/// Withdraws the claims that are not withdrawn yet. Returns the events to append.
async fn withdraw_active(
    conn: &mut PgConnection,
    withdrawals: &mut [(&Withdrawal, Option<Record>)],
) -> Result<Vec<Event>, Error> {
    let mut active: Vec<(&Withdrawal, &mut Record)> = withdrawals
        .iter_mut()
        .filter_map(|(one, record)| Some((*one, record.as_mut()?)))
        .filter(|(_, record)| record.state != State::Withdrawn)
        .collect();
    if active.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<_> = active
        .iter_mut()
        .map(|(one, record)| (&one.facility, &mut **record))
        .collect();
    mark_withdrawn(conn, &mut rows).await?;
    let event = |(one, record): &(&Withdrawal, &mut Record)| {
        let event = || withdrawn_event(&one.facility, record, one.reason.clone());
        one.span.in_scope(event)
    };
    Ok(active.iter().map(event).collect())
}

/// The results of withdrawals with a `request_id` that was used before, by order id.
async fn find_replays(
    conn: &mut PgConnection,
    withdrawals: &[Arc<Withdrawal>],
) -> Result<HashMap<Uuid, WithdrawResult>, Error> {
    let keys: Vec<_> = withdrawals.iter().map(|one| (&one.facility, &one.key)).collect();
    let known = idempotency::find(conn, &keys).await?;
    let replay = |(one, known): (&Arc<Withdrawal>, Option<Result<_, idempotency::Error>>)| {
        let result = match known? {
            Ok(idempotency::KeyState::Completed(bytes)) => Ok(Response::Replayed(bytes)),
            Ok(_) => Err(Error::InProgress),
            Err(error) => Err(error.into()),
        };
        Some((one.order_id, result))
    };
    Ok(withdrawals.iter().zip(known).filter_map(replay).collect())
}

/// Stores the responses, which show the current claims.
async fn store_responses(
    conn: &mut PgConnection,
    withdrawn: Vec<(&Withdrawal, Option<Record>)>,
) -> Result<HashMap<Uuid, WithdrawResult>, Error> {
    if withdrawn.is_empty() {
        return Ok(HashMap::new());
    }
    let (withdrawals, records): (Vec<&Withdrawal>, Vec<Option<Record>>) = withdrawn.into_iter().unzip();
    let records = records.into_iter().flatten().collect();
    let claims = encode::claims(conn, records, Attachments::Included).await?;
    let mut claims: HashMap<String, wire::Claim> = claims
        .into_iter()
        .map(|claim| (claim.order_id.clone(), claim))
        .collect();
    let responses: Vec<_> = withdrawals
        .iter()
        .map(|one| WithdrawClaimResponse {
            claim: claims.remove(&one.order_id.to_string()),
        })
        .collect();
    let encoded: Vec<_> = responses
        .iter()
        .map(|response| response.encode_to_vec())
        .collect();
    let requests: Vec<_> = withdrawals
        .iter()
        .zip(&encoded)
        .map(|(one, encoded)| NewKey {
            facility: &one.facility,
            key: &one.key,
            resource_id: one.order_id,
            response: Some(encoded),
        })
        .collect();
    // A request id was used for another order concurrently, in this or another process. The batcher retries in
    // halves, so that all other withdrawals are executed.
    if idempotency::acquire_all(conn, &requests).await?.contains(&false) {
        return Err(idempotency::Error::KeyReused.into());
    }
    chassis::audit::record_effects(conn, withdrawals.iter().map(|one| &one.origin)).await?;
    Ok(withdrawals
        .iter()
        .zip(responses)
        .map(|(one, response)| (one.order_id, Ok(Response::New(response))))
        .collect())
}

/// Locks the claims of orders. Returns each claim that exists, or the reason why it cannot be withdrawn, by order
/// id.
pub(crate) async fn lock_by_orders(
    conn: &mut PgConnection,
    orders: &[(&Facility, Uuid)],
) -> Result<HashMap<Uuid, Result<Record, Error>>, Error> {
    let records = withdrawals::lock_claims(conn, orders).await?;
    let submitted: Vec<_> = records
        .iter()
        .filter(|record| record.submitted_at.is_some() && record.state != State::Withdrawn)
        .map(|record| record.id)
        .collect();
    let mut lines: HashMap<Uuid, Vec<Line>> = HashMap::new();
    if !submitted.is_empty() {
        for line in remittances::list_lines(conn, &submitted).await? {
            lines.entry(line.claim).or_default().push(Line::from(&line));
        }
    }
    let check = |record: Record| {
        let lines = lines.remove(&record.id).unwrap_or_default();
        (record.order_id, check_allowed(&record, &lines).map(|()| record))
    };
    Ok(records.into_iter().map(check).collect())
}

/// Checks that the claim can be withdrawn or is withdrawn already.
fn check_allowed(record: &Record, lines: &[Line]) -> Result<(), Error> {
    if record.state == State::Withdrawn {
        return Ok(());
    }
    if record.is_submitting {
        return Err(Error::SubmissionInProgress);
    }
    record.state.allows(Step::Withdraw)?;
    if Balance::new(&decode::claimed_activities(&record.details), lines).net_paid() > 0 {
        return Err(Error::Paid);
    }
    Ok(())
}

/// Marks these claims as withdrawn in the database and in their records.
pub(crate) async fn mark_withdrawn(
    conn: &mut PgConnection,
    claims: &mut [(&Facility, &mut Record)],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = claims
        .iter()
        .map(|(facility, record)| (*facility, record.id))
        .collect();
    let updated_at = withdrawals::withdraw(conn, &rows).await?;
    for (_, record) in claims {
        record.state = State::Withdrawn;
        record.version += 1;
        record.updated_at = updated_at;
    }
    Ok(())
}

pub(crate) fn withdrawn_event(facility: &Facility, record: &Record, reason: String) -> Event {
    let withdrawn = ClaimWithdrawn {
        claim_id: record.id.to_string(),
        order_id: record.order_id.to_string(),
        reason,
    };
    to_event(facility, record.id, record.version, &withdrawn)
}
