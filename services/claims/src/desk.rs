//! What every use case works with.

use std::sync::Arc;

use chassis::{Facility, idempotency, idempotency::Key, postgres::Database};
use events::{Event, Outbox};
use prost::Message;
use sqlx::{Postgres, Transaction};

use tokio::time::Instant;

use crate::{
    config,
    error::Error,
    filing::{leases::Leases, outcomes::Outcomes},
    post_office::PostOffice,
    prepare_claim::Drafts,
    withdraw_claim::Withdrawals,
};

/// The claims desk: its files, its mail and its rules of work. Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    /// The service's database.
    pub database: Database,
    /// Wakes the relay after a commit.
    pub outbox: Outbox,
    /// Where drafts of claims are handed in.
    pub drafts: Drafts,
    /// Where claims are leased for the post office.
    pub leases: Leases,
    /// Where leases end.
    pub outcomes: Outcomes,
    /// Where orders whose claims are withdrawn are handed in.
    pub withdrawals: Withdrawals,
    /// Where claims are filed.
    pub post_office: Arc<dyn PostOffice>,
    /// How it is talked to.
    pub filing: config::PostOffice,
    /// How remittance files are imported.
    pub import: config::Import,
}

/// What a use case answers: its own result, or that of the same request before.
#[derive(Debug)]
pub enum Answer<M> {
    /// Done now.
    New(M),
    /// The stored answer, encoded.
    Repeated(Vec<u8>),
}

/// The caller's facility and the request's key.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Whose claims are dealt with.
    pub facility: &'a Facility,
    /// What makes a repetition of the request one.
    pub key: &'a Key,
}

impl Desk {
    /// Ends a use case: appends its events, stores its answer, commits.
    pub async fn close<M: Message>(
        &self,
        mut tx: Transaction<'static, Postgres>,
        asked: Asked<'_>,
        events: &[Event],
        answer: M,
    ) -> Result<Answer<M>, Error> {
        events::append(&mut tx, events).await?;
        let own = answer.encode_to_vec();
        let stored = idempotency::answer(&mut tx, asked.facility, asked.key, &answer).await?;
        tx.commit().await?;
        idempotency::announce(&self.database, asked.facility, asked.key);
        self.outbox.wake();
        // Somebody else who carried out the same request may have been first.
        Ok(if stored == own {
            Answer::New(answer)
        } else {
            Answer::Repeated(stored)
        })
    }
}

/// When the time of the call that runs is over; none outside of a call.
pub fn deadline() -> Option<Instant> {
    let remaining = mesh::Context::current()?.remaining()?;
    Some(Instant::now() + remaining)
}
