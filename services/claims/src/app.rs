//! The dependencies that all request handlers share.

use std::sync::Arc;

use chassis::{idempotency, postgres::Database};
use events::{Event, Outbox};
use prost::Message;
use sqlx::{Postgres, Transaction};

use crate::{
    apply_withdrawals::WithdrawalBatcher,
    config,
    error::Error,
    insert_drafts::DraftBatcher,
    post_office::PostOffice,
    request::Request,
    response::Response,
    submission::{leases::Leases, outcomes::Outcomes},
};

/// Shared dependencies of all request handlers. Cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The service's database.
    pub database: Database,
    /// Wakes the relay after a commit.
    pub outbox: Outbox,
    /// Inserts drafts of claims in batches.
    pub draft_batcher: DraftBatcher,
    /// Acquires leases of claims for submission, in batches.
    pub leases: Leases,
    /// Records the outcomes of submissions and releases their leases, in batches.
    pub outcomes: Outcomes,
    /// Withdraws claims in batches.
    pub withdrawal_batcher: WithdrawalBatcher,
    /// The post office to which claims are submitted.
    pub post_office: Arc<dyn PostOffice>,
    /// Timeouts and backoff of calls to the post office.
    pub post_office_settings: config::PostOffice,
    /// Bounds of remittance imports.
    pub import_settings: config::Import,
}

impl App {
    /// Ends a use case: appends its events, stores its response and commits.
    pub async fn commit<M: Message>(
        &self,
        mut tx: Transaction<'static, Postgres>,
        request: Request<'_>,
        events: &[Event],
        message: M,
    ) -> Result<Response<M>, Error> {
        events::append(&mut tx, events).await?;
        let own = message.encode_to_vec();
        let stored = idempotency::store_response(&mut tx, request.facility, request.key, &message).await?;
        tx.commit().await?;
        idempotency::notify_waiters(&self.database, request.facility, request.key);
        self.outbox.wake();
        // Another execution of the same request may have stored its response first.
        Ok(if stored == own {
            Response::New(message)
        } else {
            Response::Replayed(stored)
        })
    }
}
