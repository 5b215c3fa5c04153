//! Writes how calls ended, many records in one statement.
//!
//! Only transient errors are retried: an outage, a lock, a timeout. A record that the database rejects is found by
//! halving its batch; it is logged and counted, and the others are written.

use std::time::Duration;

use opentelemetry::{KeyValue, global, metrics::Counter};
use tokio::sync::mpsc;

use super::AuditRecord;
use crate::{
    Process,
    postgres::{Database, Fault},
    status,
};

const QUEUE_CAPACITY: usize = 4096;
const BATCH_SIZE: usize = 256;
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Attempts while the process stops. Before that, attempts are unlimited.
const SHUTDOWN_ATTEMPTS: u32 = 3;
/// How long a response waits for space in the queue when the database is slow.
const ENQUEUE_TIMEOUT: Duration = Duration::from_millis(50);

/// Accepts records for writing.
#[derive(Clone)]
pub(crate) struct Writer {
    records: mpsc::Sender<AuditRecord>,
    lost: LostRecords,
}

impl Writer {
    /// Queues a record. When the queue stays full for 50 ms, the record is logged instead.
    pub(crate) async fn enqueue(&self, record: AuditRecord) {
        if let Err(error) = self.records.send_timeout(record, ENQUEUE_TIMEOUT).await {
            let (mpsc::error::SendTimeoutError::Timeout(record)
            | mpsc::error::SendTimeoutError::Closed(record)) = error;
            self.lost.record(&record, "full");
        }
    }
}

/// Starts the writer. It ends when the last sender is dropped and everything is written.
pub(crate) fn start(process: &Process) -> Writer {
    let (records, receiver) = mpsc::channel(QUEUE_CAPACITY);
    let lost = LostRecords::new();
    let worker = Worker {
        process: process.clone(),
        receiver,
        lost: lost.clone(),
    };
    process.tasks.spawn("audit", async move {
        worker.run().await;
        Ok(())
    });
    Writer { records, lost }
}

/// Why a record is missing from the audit trail.
const REASONS: [&str; 3] = ["refused", "full", "stopping"];

/// Counts and logs records that are missing from the audit trail.
#[derive(Clone)]
struct LostRecords(Counter<u64>);

impl LostRecords {
    fn new() -> LostRecords {
        let meter = global::meter("weft");
        let counter = meter
            .u64_counter("weft.audit.lost")
            .with_unit("{record}")
            .with_description("Audit records missing from the database; they are in the log");
        let counter = counter.build();
        // An alert on the increase must see the first one.
        for reason in REASONS {
            counter.add(0, &[KeyValue::new("weft.audit.reason", reason)]);
        }
        LostRecords(counter)
    }

    fn record(&self, record: &AuditRecord, reason: &'static str) {
        self.0.add(1, &[KeyValue::new("weft.audit.reason", reason)]);
        record.log(match reason {
            "refused" => "the database refuses an audit record: it is kept in the log only",
            "full" => "audit queue is full; this record is only in the log",
            _ => "the process stops while the database is down; this audit record is only in the log",
        });
    }
}

struct Worker {
    process: Process,
    receiver: mpsc::Receiver<AuditRecord>,
    lost: LostRecords,
}

impl Worker {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_SIZE);
        while self.receiver.recv_many(&mut batch, BATCH_SIZE).await > 0 {
            self.write_batch(&batch).await;
            batch.clear();
        }
    }

    async fn write_batch(&self, batch: &[AuditRecord]) {
        let Some(database) = self.process.database() else {
            return batch
                .iter()
                .for_each(|record| record.log("no database for the audit trail"));
        };
        // Parts still to be written, the next one last: halves of a rejected batch.
        let mut pending = vec![batch];
        while let Some(records) = pending.pop() {
            let Err(error) = self.write_with_retries(database, records).await else {
                continue;
            };
            match records {
                [] => {}
                records if Fault::classify(&error).is_transient() => {
                    for record in records {
                        self.lost.record(record, "stopping");
                    }
                }
                [record] => {
                    tracing::error!(
                        error.message = status::chain(&error),
                        "audit record rejected by the database"
                    );
                    self.lost.record(record, "refused");
                }
                records => {
                    let (first, second) = records.split_at(records.len() / 2);
                    pending.extend([second, first]);
                }
            }
        }
    }

    /// Writes the records in one statement; retries while the error is transient.
    async fn write_with_retries(
        &self,
        database: &Database,
        records: &[AuditRecord],
    ) -> Result<(), sqlx::Error> {
        let mut shutdown_attempts = 0;
        loop {
            let Err(error) = write(database, records).await else {
                return Ok(());
            };
            if self.process.shutdown.is_cancelled() {
                shutdown_attempts += 1;
            }
            if !Fault::classify(&error).is_transient() || shutdown_attempts >= SHUTDOWN_ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(
                error.message = status::chain(&error),
                audit.records = records.len(),
                "the audit trail waits for the database"
            );
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}

async fn write(database: &Database, records: &[AuditRecord]) -> Result<(), sqlx::Error> {
    fn column<T>(records: &[AuditRecord], value: impl Fn(&AuditRecord) -> T) -> Vec<T> {
        records.iter().map(value).collect()
    }
    sqlx::query!(
        "select chassis.conclude_audit($1, $2, $3, $4, $5, $6, $7, $8)",
        &column(records, |record| record.call.at),
        &column(records, |record| record.call.facility.as_str().to_owned()),
        &column(records, |record| record.call.subject.clone()),
        &column(records, |record| record.call.service.clone()) as &[Option<String>],
        &column(records, |record| record.call.method.clone()),
        &column(records, |record| record.request_id.clone()) as &[Option<String>],
        &column(records, |record| record.status.to_owned()),
        &column(records, |record| record.call.call_id),
    )
    .execute(database.pool())
    .await?;
    Ok(())
}
