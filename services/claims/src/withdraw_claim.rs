//! A claim is taken out of the process, or kept from entering it.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Facility,
    audit::Origin,
    batch::{Batcher, Command, Limits},
    idempotency::{self, Key, Request},
    postgres::Database,
};
use events::{Event, Outbox};
use prost::Message as _;
use proto::claims::v1::{self as wire, ClaimWithdrawn, WithdrawClaimRequest, WithdrawClaimResponse};
use sqlx::PgConnection;
use tracing::Span;
use uuid::Uuid;

use crate::{
    announce::event,
    balance::{Balance, Line},
    claim::{State, Step},
    desk::{self, Answer, Desk},
    error::Error,
    grpc::uuid,
    store::{Record, drafts, remittances, withdrawals},
    view::{self, Attachments},
};

/// The method's name, as keys know it.
pub const METHOD: &str = "claims.v1.ClaimService/WithdrawClaim";

/// Withdraws the order's claim. If none has arrived, a late one will be refused. A withdrawn one stays as it is.
///
/// # Errors
/// [`Error::Paid`], and [`Error::FilingInProgress`] while the claim is on its way to the post office.
pub async fn withdraw(
    desk: &Desk,
    facility: &Facility,
    request: WithdrawClaimRequest,
) -> Result<Answer<WithdrawClaimResponse>, Error> {
    let key = Key::of(METHOD, &request.request_id, &request)?;
    let withdrawal = Withdrawal {
        facility: facility.clone(),
        order_id: uuid("order_id", &request.order_id)?,
        reason: request.reason,
        key,
        origin: Origin::current(),
        span: Span::current(),
    };
    let withdrawn = desk.withdrawals.submit(withdrawal, desk::deadline()).await;
    withdrawn.map_err(Error::from)?
}

/// An order whose claim is to be withdrawn.
pub struct Withdrawal {
    facility: Facility,
    order_id: Uuid,
    reason: String,
    key: Key,
    origin: Origin,
    /// The call in which it happens.
    span: Span,
}

/// Withdraws claims, those that come at the same time in one transaction.
pub struct Withdraw {
    database: Database,
    outbox: Outbox,
}

/// Where withdrawals are handed in.
pub type Withdrawals = Batcher<Withdraw>;

impl Withdraw {
    /// Where withdrawals of claims in `database` are handed in.
    pub fn batcher(database: &Database, outbox: &Outbox, tasks: chassis::Tasks) -> Withdrawals {
        let withdraw = Withdraw {
            database: database.clone(),
            outbox: outbox.clone(),
        };
        Batcher::new(withdraw, Limits::default(), tasks)
    }
}

type Outcome = Result<Answer<WithdrawClaimResponse>, Error>;

impl Command for Withdraw {
    type Item = Withdrawal;
    type Outcome = Outcome;
    type Error = Error;

    fn aggregate(&self, withdrawal: &Withdrawal) -> Uuid {
        withdrawal.order_id
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, withdrawals: &[Arc<Withdrawal>]) -> Result<Vec<Outcome>, Error> {
        let facilities = withdrawals.iter().map(|withdrawal| &withdrawal.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let mut outcomes = carry_out(&mut tx, withdrawals).await?;
        tx.commit().await?;
        self.outbox.wake();
        let outcome = |withdrawal: &Arc<Withdrawal>| {
            let outcome = outcomes.remove(&withdrawal.order_id);
            outcome.unwrap_or(Err(Error::InProgress))
        };
        Ok(withdrawals.iter().map(outcome).collect())
    }
}

/// Carries withdrawals out; their outcomes, by their orders.
async fn carry_out(
    conn: &mut PgConnection,
    withdrawals: &[Arc<Withdrawal>],
) -> Result<HashMap<Uuid, Outcome>, Error> {
    let orders: Vec<_> = withdrawals.iter().map(|one| one.order_id).collect();
    drafts::lock_orders(conn, &orders).await?;
    let mut outcomes = repetitions(conn, withdrawals).await?;
    let wanted: Vec<&Withdrawal> = withdrawals
        .iter()
        .map(Arc::as_ref)
        .filter(|one| !outcomes.contains_key(&one.order_id))
        .collect();
    if wanted.is_empty() {
        return Ok(outcomes);
    }
    let orders: Vec<_> = wanted.iter().map(|one| (&one.facility, one.order_id)).collect();
    let mut claims = of_orders(conn, &orders).await?;
    let mut unknown = Vec::new();
    let mut done: Vec<(&Withdrawal, Option<Record>)> = Vec::new();
    for one in wanted {
        match claims.remove(&one.order_id) {
            Some(Err(error)) => {
                outcomes.insert(one.order_id, Err(error));
            }
            Some(Ok(record)) => done.push((one, Some(record))),
            None => {
                unknown.push((&one.facility, one.order_id, one.reason.as_str()));
                done.push((one, None));
            }
        }
    }
    if !unknown.is_empty() {
        drafts::bury(conn, &unknown).await?;
    }
    let events = take_all_out(conn, &mut done).await?;
    events::append(conn, &events).await?;
    outcomes.extend(answer(conn, done).await?);
    Ok(outcomes)
}

/// Withdraws those claims that are not withdrawn yet. Answers the events to append.
async fn take_all_out(
    conn: &mut PgConnection,
    done: &mut [(&Withdrawal, Option<Record>)],
) -> Result<Vec<Event>, Error> {
    let mut taken: Vec<(&Withdrawal, &mut Record)> = done
        .iter_mut()
        .filter_map(|(one, record)| Some((*one, record.as_mut()?)))
        .filter(|(_, record)| record.state != State::Withdrawn)
        .collect();
    if taken.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<_> = taken
        .iter_mut()
        .map(|(one, record)| (&one.facility, &mut **record))
        .collect();
    take_out(conn, &mut rows).await?;
    let happened = |(one, record): &(&Withdrawal, &mut Record)| {
        let happened = || withdrawn(&one.facility, record, one.reason.clone());
        one.span.in_scope(happened)
    };
    Ok(taken.iter().map(happened).collect())
}

/// The outcomes of withdrawals whose `request_id` was used before, by their orders.
async fn repetitions(
    conn: &mut PgConnection,
    withdrawals: &[Arc<Withdrawal>],
) -> Result<HashMap<Uuid, Outcome>, Error> {
    let keys: Vec<_> = withdrawals.iter().map(|one| (&one.facility, &one.key)).collect();
    let known = idempotency::find(conn, &keys).await?;
    let repeated = |(one, known): (&Arc<Withdrawal>, Option<Result<_, idempotency::Error>>)| {
        let outcome = match known? {
            Ok(idempotency::Claim::Answered(answer)) => Ok(Answer::Repeated(answer)),
            Ok(_) => Err(Error::InProgress),
            Err(error) => Err(error.into()),
        };
        Some((one.order_id, outcome))
    };
    Ok(withdrawals.iter().zip(known).filter_map(repeated).collect())
}

/// Stores the answers, which show the claims as they stand now.
async fn answer(
    conn: &mut PgConnection,
    done: Vec<(&Withdrawal, Option<Record>)>,
) -> Result<HashMap<Uuid, Outcome>, Error> {
    if done.is_empty() {
        return Ok(HashMap::new());
    }
    let (withdrawals, records): (Vec<&Withdrawal>, Vec<Option<Record>>) = done.into_iter().unzip();
    let shown = view::claims(conn, records.into_iter().flatten().collect(), Attachments::Shown).await?;
    let mut shown: HashMap<String, wire::Claim> = shown
        .into_iter()
        .map(|claim| (claim.order_id.clone(), claim))
        .collect();
    let answers: Vec<_> = withdrawals
        .iter()
        .map(|one| WithdrawClaimResponse {
            claim: shown.remove(&one.order_id.to_string()),
        })
        .collect();
    let encoded: Vec<_> = answers.iter().map(|answer| answer.encode_to_vec()).collect();
    let requests: Vec<_> = withdrawals
        .iter()
        .zip(&encoded)
        .map(|(one, encoded)| Request {
            facility: &one.facility,
            key: &one.key,
            resource_id: one.order_id,
            answer: Some(encoded),
        })
        .collect();
    // An id that was used for another order at the same moment, here or in another process. Tried again in halves, all but
    // that one withdrawal are carried out.
    if idempotency::claim_all(conn, &requests).await?.contains(&false) {
        return Err(idempotency::Error::KeyReused.into());
    }
    chassis::audit::record_effects(conn, withdrawals.iter().map(|one| &one.origin)).await?;
    Ok(withdrawals
        .iter()
        .zip(answers)
        .map(|(one, answer)| (one.order_id, Ok(Answer::New(answer))))
        .collect())
}

/// Withdraws the claim of an order that ended, if there is one. Leaves no tombstone: nothing is on its way any more.
///
/// # Errors
/// As [`withdraw`].
pub async fn of_ended_order(
    tx: &mut PgConnection,
    facility: &Facility,
    order_id: Uuid,
    reason: String,
) -> Result<(), Error> {
    drafts::lock_orders(tx, &[order_id]).await?;
    let mut claims = of_orders(tx, &[(facility, order_id)]).await?;
    let Some(claim) = claims.remove(&order_id) else {
        return Ok(());
    };
    let mut record = claim?;
    if record.state == State::Withdrawn {
        return Ok(());
    }
    take_out(tx, &mut [(facility, &mut record)]).await?;
    events::append(tx, &[withdrawn(facility, &record, reason)]).await?;
    Ok(())
}

/// Locks the claims of orders. Answers for each that there is whether it can be withdrawn, or is already.
async fn of_orders(
    conn: &mut PgConnection,
    orders: &[(&Facility, Uuid)],
) -> Result<HashMap<Uuid, Result<Record, Error>>, Error> {
    let records = withdrawals::lock(conn, orders).await?;
    let filed: Vec<_> = records
        .iter()
        .filter(|record| record.submitted_at.is_some() && record.state != State::Withdrawn)
        .map(|record| record.id)
        .collect();
    let mut lines: HashMap<Uuid, Vec<Line>> = HashMap::new();
    if !filed.is_empty() {
        for line in remittances::lines(conn, &filed).await? {
            lines.entry(line.claim).or_default().push(Line::from(&line));
        }
    }
    let verdict = |record: Record| {
        let lines = lines.remove(&record.id).unwrap_or_default();
        (record.order_id, allowed(&record, &lines).map(|()| record))
    };
    Ok(records.into_iter().map(verdict).collect())
}

/// Whether the claim can be withdrawn, or is already.
fn allowed(record: &Record, lines: &[Line]) -> Result<(), Error> {
    if record.state == State::Withdrawn {
        return Ok(());
    }
    if record.filing {
        return Err(Error::FilingInProgress);
    }
    record.state.allows(Step::Withdraw)?;
    if Balance::of(&view::asked(&record.details), lines).net_paid() > 0 {
        return Err(Error::Paid);
    }
    Ok(())
}

/// Writes that these claims are withdrawn, and what that changes in their records.
async fn take_out(
    conn: &mut PgConnection,
    claims: &mut [(&Facility, &mut Record)],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = claims
        .iter()
        .map(|(facility, record)| (*facility, record.id))
        .collect();
    let at = withdrawals::withdraw(conn, &rows).await?;
    for (_, record) in claims {
        record.state = State::Withdrawn;
        record.version += 1;
        record.updated_at = at;
    }
    Ok(())
}

fn withdrawn(facility: &Facility, record: &Record, reason: String) -> Event {
    let withdrawn = ClaimWithdrawn {
        claim_id: record.id.to_string(),
        order_id: record.order_id.to_string(),
        reason,
    };
    event(facility, record.id, record.version, &withdrawn)
}
