//! The audit trail's writer: many records in one statement, behind a bounded queue.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::{Facility, Process, postgres::Database, status};

const QUEUED_AT_MOST: usize = 4096;
const BATCH: usize = 256;
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Tries while the process stops; before that there is no end to them.
const LAST_TRIES: u32 = 3;

/// One call of an audited method.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) at: OffsetDateTime,
    pub(crate) facility: Facility,
    pub(crate) subject: String,
    pub(crate) service: Option<String>,
    pub(crate) method: String,
    pub(crate) request_id: Option<String>,
    pub(crate) status: &'static str,
}

impl Record {
    /// The last resort.
    pub(crate) fn log(&self, why: &str) {
        tracing::error!(
            audit.at = %self.at,
            audit.facility = %self.facility,
            audit.subject = self.subject,
            audit.service = self.service.as_deref().unwrap_or_default(),
            audit.method = self.method,
            audit.request_id = self.request_id.as_deref().unwrap_or_default(),
            audit.status = self.status,
            "{why}"
        );
    }
}

/// Starts the writer. It ends when the last sender is gone and everything is written.
pub(crate) fn start(process: &Process) -> mpsc::Sender<Record> {
    let (sender, receiver) = mpsc::channel(QUEUED_AT_MOST);
    let writer = Writer {
        process: process.clone(),
        receiver,
    };
    process.tasks.spawn("audit", async move {
        writer.run().await;
        Ok(())
    });
    sender
}

struct Writer {
    process: Process,
    receiver: mpsc::Receiver<Record>,
}

impl Writer {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.receiver.recv_many(&mut batch, BATCH).await > 0 {
            self.keep(&batch).await;
            batch.clear();
        }
    }

    async fn keep(&self, batch: &[Record]) {
        let Some(database) = self.process.database() else {
            return batch
                .iter()
                .for_each(|record| record.log("there is no database for the audit trail"));
        };
        let mut last_tries = 0;
        while let Err(error) = write(database, batch).await {
            if self.process.shutdown.is_cancelled() {
                last_tries += 1;
            }
            if last_tries >= LAST_TRIES {
                tracing::error!(
                    error.message = status::chain(&error),
                    "the audit trail cannot be written"
                );
                return batch
                    .iter()
                    .for_each(|record| record.log("this record is kept in the log only"));
            }
            tracing::warn!(
                error.message = status::chain(&error),
                "the audit trail waits for the database"
            );
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

async fn write(database: &Database, batch: &[Record]) -> Result<(), sqlx::Error> {
    let at: Vec<_> = batch.iter().map(|record| record.at).collect();
    let facility: Vec<_> = batch
        .iter()
        .map(|record| record.facility.as_str().to_owned())
        .collect();
    let subject: Vec<_> = batch.iter().map(|record| record.subject.clone()).collect();
    let service: Vec<_> = batch.iter().map(|record| record.service.clone()).collect();
    let method: Vec<_> = batch.iter().map(|record| record.method.clone()).collect();
    let request_id: Vec<_> = batch.iter().map(|record| record.request_id.clone()).collect();
    let status: Vec<_> = batch.iter().map(|record| record.status.to_owned()).collect();
    sqlx::query!(
        "insert into chassis.audit (at, facility, subject, service, method, request_id, status)
         select * from unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])",
        &at,
        &facility,
        &subject,
        &service as &[Option<String>],
        &method,
        &request_id as &[Option<String>],
        &status,
    )
    .execute(database.pool())
    .await?;
    Ok(())
}
