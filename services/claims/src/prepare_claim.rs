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
use uuid::Uuid;

use crate::{
    announce::event,
    claim::State,
    desk::{self, Answer, Desk},
    error::Error,
    grpc::uuid,
    rules,
    store::{
        self,
        drafts::{self, Obstacle},
    },
    view,
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
    let prepared = desk.drafts.submit(draft, desk::deadline()).await;
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

    fn is_outage(&self, error: &Error) -> bool {
        error.is_outage()
    }

    async fn execute(&self, drafts: &[Arc<Draft>]) -> Result<Vec<Self::Outcome>, Error> {
        let facilities = drafts.iter().map(|draft| &draft.facility);
        let mut tx = self.database.begin_for(facilities).await?;
        let outcomes = keep(&mut tx, drafts).await?;
        tx.commit().await?;
        self.outbox.wake();
        Ok(outcomes)
    }
}

type Outcome = Result<Answer<PrepareClaimResponse>, Error>;

async fn keep(conn: &mut PgConnection, drafts: &[Arc<Draft>]) -> Result<Vec<Outcome>, Error> {
    let orders: Vec<_> = drafts.iter().map(|draft| draft.record.order_id).collect();
    drafts::lock_orders(conn, &orders).await?;
    let mut outcomes = repetitions(conn, drafts).await?;
    let wanted: Vec<&Draft> = drafts
        .iter()
        .map(Arc::as_ref)
        .filter(|draft| !outcomes.contains_key(&draft.record.id))
        .collect();
    if wanted.is_empty() {
        return Ok(in_order(drafts, outcomes));
    }
    let written = drafts::insert(conn, &rows(&wanted)).await?;
    let (new, refused): (Vec<&Draft>, Vec<&Draft>) = wanted
        .into_iter()
        .partition(|draft| written.contains(&draft.record.id));
    if !new.is_empty() {
        let requests: Vec<_> = new.iter().map(|draft| draft.request()).collect();
        // An id that was used for another order at the same moment, here or in another process. Tried again in halves, all
        // but that one draft are written.
        if idempotency::claim_all(conn, &requests).await?.contains(&false) {
            return Err(idempotency::Error::KeyReused.into());
        }
        chassis::audit::record_effects(conn, new.iter().map(|draft| &draft.origin)).await?;
        let events: Vec<_> = new.iter().map(|draft| draft.event.clone()).collect();
        events::append(conn, &events).await?;
    }
    if !refused.is_empty() {
        let obstacles = drafts::obstacles(conn, &rows(&refused)).await?;
        for (draft, obstacle) in refused.iter().zip(obstacles) {
            // A claim that stood in the way may have been withdrawn since.
            let obstacle = obstacle.unwrap_or(Obstacle::NumberTaken);
            outcomes.insert(draft.record.id, Err(obstacle.into()));
        }
    }
    Ok(in_order(drafts, outcomes))
}

/// The outcomes of drafts whose `request_id` was used before, by their claims.
async fn repetitions(
    conn: &mut PgConnection,
    drafts: &[Arc<Draft>],
) -> Result<HashMap<Uuid, Outcome>, Error> {
    let keys: Vec<_> = drafts.iter().map(|draft| (&draft.facility, &draft.key)).collect();
    let known = idempotency::find(conn, &keys).await?;
    let mut outcomes = HashMap::new();
    for (draft, known) in drafts.iter().zip(known) {
        let outcome = match known {
            Some(Ok(idempotency::Claim::Answered(answer))) => Ok(Answer::Repeated(answer)),
            Some(Ok(_)) => Err(Error::InProgress),
            Some(Err(error)) => Err(error.into()),
            None => continue,
        };
        outcomes.insert(draft.record.id, outcome);
    }
    Ok(outcomes)
}

/// Those without another outcome are written.
fn in_order(drafts: &[Arc<Draft>], mut outcomes: HashMap<Uuid, Outcome>) -> Vec<Outcome> {
    let outcome = |draft: &Arc<Draft>| {
        let other = outcomes.remove(&draft.record.id);
        other.unwrap_or_else(|| Ok(Answer::New(draft.answer.clone())))
    };
    drafts.iter().map(outcome).collect()
}

fn rows<'a>(drafts: &[&'a Draft]) -> Vec<drafts::Draft<'a>> {
    let row = |draft: &&'a Draft| drafts::Draft {
        facility: &draft.facility,
        record: &draft.record,
    };
    drafts.iter().map(row).collect()
}

impl From<Obstacle> for Error {
    fn from(obstacle: Obstacle) -> Error {
        match obstacle {
            Obstacle::OrderWithdrawn => Error::OrderWithdrawn,
            Obstacle::OrderBilled => Error::OrderBilled,
            Obstacle::NumberTaken => Error::ClaimKnown,
        }
    }
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

/// What would be kept, without its identifier; the same refusals, and nothing is written.
async fn validate_only(desk: &Desk, facility: &Facility, record: store::Record) -> Outcome {
    let draft = drafts::Draft {
        facility,
        record: &record,
    };
    let mut tx = desk.database.begin(facility).await?;
    let obstacles = drafts::obstacles(&mut tx, &[draft]).await?;
    tx.rollback().await?;
    if let Some(obstacle) = obstacles.into_iter().flatten().next() {
        return Err(obstacle.into());
    }
    let claim = wire::Claim {
        id: String::new(),
        ..view::claim(record, Vec::new())
    };
    Ok(Answer::New(PrepareClaimResponse { claim: Some(claim) }))
}
