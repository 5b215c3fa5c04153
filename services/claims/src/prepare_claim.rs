//! A claim's details become a validated draft, if no rule is broken.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Facility,
    audit::Origin,
    batch::{Batcher, Command, Limits},
    idempotency::{self, Key, Request},
    postgres::Database,
};
use events::{Event, Outbox};
use prost::Message;
use proto::claims::v1::{
    self as wire, ClaimDetails, ClaimPrepared, PrepareClaimRequest, PrepareClaimResponse,
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    announce::event,
    claim::State,
    desk::{Answer, Desk},
    error::Error,
    grpc::uuid,
    rules, store, view,
};

/// The method's name, as keys know it.
pub const METHOD: &str = "claims.v1.ClaimService/PrepareClaim";

/// Keeps the draft, or only checks it.
///
/// # Errors
/// [`Error::Invalid`] with every broken rule; [`Error::ClaimKnown`], [`Error::OrderBilled`] and
/// [`Error::OrderWithdrawn`] by what is there already.
pub async fn prepare(
    desk: &Desk,
    facility: &Facility,
    request: PrepareClaimRequest,
) -> Result<Answer<PrepareClaimResponse>, Error> {
    let key = Key::of(METHOD, &request.request_id, &request)?;
    let order_id = uuid("order_id", &request.order_id)?;
    let details = request.details.unwrap_or_default();
    let broken = checked(&details);
    if !broken.is_empty() {
        return Err(Error::Invalid(broken));
    }
    let record = record(order_id, details);
    if request.validate_only {
        return validate_only(desk, facility, record).await;
    }
    let draft = Draft::new(facility, key, record);
    let patience = mesh::Context::current().and_then(|context| context.remaining());
    let until = patience.map(|patience| Instant::now() + patience);
    let prepared = desk.drafts.submit(draft, until).await;
    prepared.map_err(Error::from)?
}

/// The broken rules, by their paths in the request.
pub(crate) fn checked(details: &ClaimDetails) -> Vec<rules::Violation> {
    let mut broken = rules::submission(details);
    for violation in &mut broken {
        violation.field.insert_str(0, "details.");
    }
    broken
}

/// A draft that is to be kept, with all that its transaction writes.
pub struct Draft {
    facility: Facility,
    key: Key,
    record: store::Record,
    event: Event,
    answer: PrepareClaimResponse,
    encoded: Vec<u8>,
    origin: Origin,
}

impl Draft {
    fn new(facility: &Facility, key: Key, record: store::Record) -> Draft {
        let prepared = ClaimPrepared {
            claim_id: record.id.to_string(),
            order_id: record.order_id.to_string(),
            net: record.details.net.clone(),
        };
        let answer = PrepareClaimResponse {
            claim: Some(view::claim(record.clone(), Vec::new())),
        };
        Draft {
            facility: facility.clone(),
            event: event(facility, record.id, record.version, &prepared),
            encoded: answer.encode_to_vec(),
            origin: Origin::current(),
            key,
            record,
            answer,
        }
    }
}

impl Draft {
    fn request(&self) -> Request<'_> {
        Request {
            facility: &self.facility,
            key: &self.key,
            resource_id: self.record.id,
            answer: Some(&self.encoded),
        }
    }
}

/// Keeps drafts, those that come at the same time in one transaction.
pub struct Prepare {
    database: Database,
    outbox: Outbox,
}

/// Where drafts are handed in.
pub type Drafts = Batcher<Prepare>;

impl Prepare {
    /// Where drafts for `database` are handed in.
    pub fn batcher(database: &Database, outbox: &Outbox, tasks: chassis::Tasks) -> Drafts {
        let prepare = Prepare {
            database: database.clone(),
            outbox: outbox.clone(),
        };
        Batcher::new(prepare, Limits::default(), tasks)
    }
}

impl Command for Prepare {
    type Item = Draft;
    type Outcome = Result<Answer<PrepareClaimResponse>, Error>;
    type Error = Error;

    fn aggregate(&self, draft: &Draft) -> Uuid {
        draft.record.order_id
    }

    fn facility<'a>(&self, draft: &'a Draft) -> &'a Facility {
        &draft.facility
    }

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, drafts: &[Arc<Draft>]) -> Result<Vec<Self::Outcome>, Error> {
        let Some(first) = drafts.first() else {
            return Ok(Vec::new());
        };
        let mut tx = self.database.begin(&first.facility).await?;
        let outcomes = keep(&mut tx, &first.facility, drafts).await?;
        tx.commit().await?;
        self.outbox.wake();
        for draft in drafts {
            idempotency::announce(&self.database, &draft.facility, &draft.key);
        }
        Ok(outcomes)
    }
}

async fn keep(
    conn: &mut PgConnection,
    facility: &Facility,
    drafts: &[Arc<Draft>],
) -> Result<Vec<Result<Answer<PrepareClaimResponse>, Error>>, Error> {
    let orders: Vec<_> = drafts.iter().map(|draft| draft.record.order_id).collect();
    store::lock_orders(conn, &orders).await?;
    let withdrawn = store::withdrawn(conn, facility.as_str(), &orders).await?;
    let wanted: Vec<_> = drafts
        .iter()
        .map(|draft| &draft.record)
        .filter(|record| !withdrawn.contains(&record.order_id))
        .collect();
    let written = store::insert(conn, facility.as_str(), &wanted).await?;
    let (new, others): (Vec<&Draft>, Vec<&Draft>) = drafts
        .iter()
        .map(Arc::as_ref)
        .partition(|draft| written.contains(&draft.record.id));
    if !new.is_empty() {
        let requests: Vec<_> = new.iter().map(|draft| draft.request()).collect();
        if idempotency::claim_all(conn, &requests).await?.contains(&false) {
            return Err(idempotency::Error::KeyReused.into());
        }
        chassis::audit::record_effects(conn, new.iter().map(|draft| &draft.origin)).await?;
        let events: Vec<_> = new.iter().map(|draft| draft.event.clone()).collect();
        events::append(conn, &events).await?;
    }
    let mut refusals = refusals(conn, facility, &others).await?;
    Ok(drafts
        .iter()
        .map(|draft| match refusals.remove(&draft.record.id) {
            Some(outcome) => outcome,
            None => Ok(Answer::New(draft.answer.clone())),
        })
        .collect())
}

/// Drafts that were not written: repetitions, and those that something is in the way of.
async fn refusals(
    conn: &mut PgConnection,
    facility: &Facility,
    drafts: &[&Draft],
) -> Result<HashMap<Uuid, Result<Answer<PrepareClaimResponse>, Error>>, Error> {
    let mut refusals = HashMap::new();
    if drafts.is_empty() {
        return Ok(refusals);
    }
    let keys: Vec<_> = drafts.iter().map(|draft| (&draft.facility, &draft.key)).collect();
    let known = idempotency::find(conn, &keys).await?;
    for (draft, known) in drafts.iter().zip(known) {
        let refusal = match known {
            Some(Ok(idempotency::Claim::Answered(answer))) => Ok(Answer::Repeated(answer)),
            Some(Ok(_)) => Err(Error::InProgress),
            Some(Err(error)) => Err(error.into()),
            None => Err(in_the_way(conn, facility, draft.record.order_id).await?),
        };
        refusals.insert(draft.record.id, refusal);
    }
    Ok(refusals)
}

async fn in_the_way(conn: &mut PgConnection, facility: &Facility, order_id: Uuid) -> Result<Error, Error> {
    let facility = facility.as_str();
    if store::withdrawn(conn, facility, &[order_id])
        .await?
        .contains(&order_id)
    {
        return Ok(Error::OrderWithdrawn);
    }
    Ok(match store::id_of_order(conn, facility, order_id).await? {
        Some(_) => Error::OrderBilled,
        None => Error::ClaimKnown,
    })
}

fn record(order_id: Uuid, details: ClaimDetails) -> store::Record {
    // PostgreSQL keeps microseconds; the answer must say what is kept.
    let now = OffsetDateTime::now_utc();
    let now = now.replace_nanosecond(now.microsecond() * 1_000).unwrap_or(now);
    store::Record {
        id: Uuid::now_v7(),
        order_id,
        id_payer: details.id_payer.clone(),
        details,
        state: State::Validated,
        cycle: 1,
        remitter_id: String::new(),
        rejection: String::new(),
        version: 1,
        submitted_at: None,
        filing_epoch: 0,
        filing: false,
        created_at: now,
        updated_at: now,
    }
}

/// What would be kept, without its identifier; the same refusals, and nothing kept.
async fn validate_only(
    desk: &Desk,
    facility: &Facility,
    draft: store::Record,
) -> Result<Answer<PrepareClaimResponse>, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let order = draft.order_id;
    let withdrawn = store::withdrawn(&mut tx, facility.as_str(), &[order]).await?;
    if withdrawn.contains(&order)
        || store::insert(&mut tx, facility.as_str(), &[&draft])
            .await?
            .is_empty()
    {
        return Err(in_the_way(&mut tx, facility, order).await?);
    }
    tx.rollback().await?;
    let claim = wire::Claim {
        id: String::new(),
        ..view::claim(draft, Vec::new())
    };
    Ok(Answer::New(PrepareClaimResponse { claim: Some(claim) }))
}
