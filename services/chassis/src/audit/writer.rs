//! Writes how calls ended: many records in one statement.
//!
//! Only what passes is waited for: an outage, a lock, a limit of time. A record that the database refuses is found by
//! halving its batch; it is kept in the log, counted, and the others go on.

use std::time::Duration;

use opentelemetry::{KeyValue, global, metrics::Counter};
use tokio::sync::mpsc;

use super::Record;
use crate::{
    Process,
    postgres::{Database, Fault},
    status,
};

const QUEUED_AT_MOST: usize = 4096;
const BATCH: usize = 256;
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Tries while the process stops; before that there is no end to them.
const LAST_TRIES: u32 = 3;
/// How long an answer waits for room among the records when the database is slow.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where records are handed in.
#[derive(Clone)]
pub(crate) struct Writer {
    records: mpsc::Sender<Record>,
    lost: Lost,
}

impl Writer {
    /// Hands a record in; when there is no room for it within 50 ms, it is kept in the log only.
    pub(crate) async fn keep(&self, record: Record) {
        if let Err(error) = self.records.send_timeout(record, PATIENCE).await {
            let (mpsc::error::SendTimeoutError::Timeout(record)
            | mpsc::error::SendTimeoutError::Closed(record)) = error;
            self.lost.record(&record, "full");
        }
    }
}

/// Starts the writer. It ends when the last sender is gone and everything is written.
pub(crate) fn start(process: &Process) -> Writer {
    let (records, receiver) = mpsc::channel(QUEUED_AT_MOST);
    let lost = Lost::new();
    let work = Work {
        process: process.clone(),
        receiver,
        lost: lost.clone(),
    };
    process.tasks.spawn("audit", async move {
        work.run().await;
        Ok(())
    });
    Writer { records, lost }
}

/// Why the audit trail does not hold a record.
const REASONS: [&str; 3] = ["refused", "full", "stopping"];

/// Counts and logs records that the audit trail does not hold.
#[derive(Clone)]
struct Lost(Counter<u64>);

impl Lost {
    fn new() -> Lost {
        let meter = global::meter("weft");
        let counter = meter
            .u64_counter("weft.audit.lost")
            .with_unit("{record}")
            .with_description("Audit records that the database does not hold as they ended; the log does");
        let counter = counter.build();
        // An alert on the increase must see the first one.
        for reason in REASONS {
            counter.add(0, &[KeyValue::new("weft.audit.reason", reason)]);
        }
        Lost(counter)
    }

    fn record(&self, record: &Record, reason: &'static str) {
        self.0.add(1, &[KeyValue::new("weft.audit.reason", reason)]);
        record.log(match reason {
            "refused" => "the database refuses an audit record: it is kept in the log only",
            "full" => "too many audit records wait for the database: this one is kept in the log only",
            _ => "the process stops and the database is away: this audit record is kept in the log only",
        });
    }
}

struct Work {
    process: Process,
    receiver: mpsc::Receiver<Record>,
    lost: Lost,
}

impl Work {
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
        // What is still to be written, the next last: halves of what was refused as a whole.
        let mut left = vec![batch];
        while let Some(records) = left.pop() {
            let Err(error) = self.insist(database, records).await else {
                continue;
            };
            match records {
                [] => {}
                records if Fault::of(&error).is_passing() => {
                    for record in records {
                        self.lost.record(record, "stopping");
                    }
                }
                [record] => {
                    tracing::error!(
                        error.message = status::chain(&error),
                        "an audit record is refused"
                    );
                    self.lost.record(record, "refused");
                }
                records => {
                    let (first, second) = records.split_at(records.len() / 2);
                    left.extend([second, first]);
                }
            }
        }
    }

    /// Writes the records as a whole, and waits for as long as what fails may pass.
    async fn insist(&self, database: &Database, records: &[Record]) -> Result<(), sqlx::Error> {
        let mut last_tries = 0;
        loop {
            let Err(error) = write(database, records).await else {
                return Ok(());
            };
            if self.process.shutdown.is_cancelled() {
                last_tries += 1;
            }
            if !Fault::of(&error).is_passing() || last_tries >= LAST_TRIES {
                return Err(error);
            }
            tracing::warn!(
                error.message = status::chain(&error),
                audit.records = records.len(),
                "the audit trail waits for the database"
            );
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

async fn write(database: &Database, records: &[Record]) -> Result<(), sqlx::Error> {
    fn column<T>(records: &[Record], value: impl Fn(&Record) -> T) -> Vec<T> {
        records.iter().map(value).collect()
    }
    sqlx::query!(
        "select chassis.conclude_audit($1, $2, $3, $4, $5, $6, $7, $8)",
        &column(records, |record| record.started.at),
        &column(records, |record| record.started.facility.as_str().to_owned()),
        &column(records, |record| record.started.subject.clone()),
        &column(records, |record| record.started.service.clone()) as &[Option<String>],
        &column(records, |record| record.started.method.clone()),
        &column(records, |record| record.request_id.clone()) as &[Option<String>],
        &column(records, |record| record.status.to_owned()),
        &column(records, |record| record.started.call_id),
    )
    .execute(database.pool())
    .await?;
    Ok(())
}
