//! Imports a Claim.Submission: each claim becomes an insured order that is captured at once; one with a
//! Resubmission block resubmits the existing claim.

mod order;
mod resubmission;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::anyhow;
use eclaimlink::Fault;
use money::Money;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Arguments, Report,
    order_batcher::OrderBatcher,
    place_order::ImportResult,
    pool,
    progress::Progress,
    report::{Entry, Outcome},
    retrying_client::RetryingClient,
    submission::{self, CURRENCY, Claim},
};
use crate::{clients::Clients, failure::Failure};

/// The capacity of the channel between the reader and the workers, in claims.
const READ_AHEAD: usize = 8;

pub(crate) async fn import(clients: &Clients, arguments: &Arguments) -> Result<Report, Failure> {
    let began = Instant::now();
    let halt = CancellationToken::new();
    let path = arguments.file.clone();
    let scanned = tokio::task::spawn_blocking(move || submission::scan(&path)).await;
    let header = scanned
        .map_err(|_| anyhow!("the reader failed"))??
        .map_err(|violations| refused(arguments, &violations))?;
    let mut report = Report::new(
        arguments.file.display().to_string(),
        "eClaimLink submission",
        CURRENCY,
    );
    report.test = header.test;
    report.remarks_on_file = header.remarks.iter().map(ToString::to_string).collect();
    let worker = Arc::new(ClaimImport {
        orders: OrderBatcher::new(RetryingClient {
            clients: clients.clone(),
            retry_for: arguments.retry_for,
            halt: halt.clone(),
        }),
        payment_method: arguments.payment_method.clone(),
        test: header.test,
        progress: Progress::new(&arguments.file),
        report: Mutex::new(report),
    });
    let (sender, claims) = mpsc::channel(READ_AHEAD);
    let (path, stop_reading) = (arguments.file.clone(), halt.clone());
    let reading = tokio::task::spawn_blocking(move || read(&path, &sender, &stop_reading));
    let stop = pool::run(&worker, arguments.concurrency, claims, &halt).await?;
    reading.await.map_err(|_| anyhow!("the reader failed"))??;
    let worker = Arc::into_inner(worker).ok_or_else(|| anyhow!("a worker failed"))?;
    let mut report = worker.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.stopped = stop.message();
    report.finish(began.elapsed());
    Ok(report)
}

/// The import's state, shared by the workers.
struct ClaimImport {
    orders: OrderBatcher,
    payment_method: String,
    test: bool,
    progress: Progress,
    report: Mutex<Report>,
}

impl pool::Worker for ClaimImport {
    type Job = (u64, Claim);

    fn key<'a>(&self, (_, claim): &'a (u64, Claim)) -> Option<&'a str> {
        Some(&claim.id)
    }

    fn accept(&self, (position, claim): &(u64, Claim)) {
        let mut report = self.report();
        report.count(1, claim.gross.unwrap_or(Money::zero(CURRENCY)));
        report.lines_without_amount += u64::from(claim.gross.is_none());
        drop(report);
        self.progress.advance(*position, "claims");
    }

    async fn work(&self, (_, claim): (u64, Claim)) {
        let mut result = self.import_claim(&claim).await;
        if !claim.remarks.is_empty() {
            let remarks = join_faults(&claim.remarks);
            result.reason = match result.reason.as_str() {
                "" => remarks,
                reason => format!("{reason}; {remarks}"),
            };
        }
        self.report().record(Entry {
            document: claim.id,
            line: claim.ordinal,
            lines: 1,
            amount: result.gross.or(claim.gross).unwrap_or(Money::zero(CURRENCY)),
            outcome: result.outcome,
            reason: result.reason,
        });
    }
}

impl ClaimImport {
    async fn import_claim(&self, claim: &Claim) -> ImportResult {
        if self.orders.client.halt.is_cancelled() {
            return import_result(
                Outcome::Undecided,
                None,
                "NOT_BEGUN: the import stopped before".to_owned(),
            );
        }
        let parsed = match &claim.parsed {
            Ok(parsed) => parsed,
            Err(violations) => return import_result(Outcome::Refused, None, join_faults(violations)),
        };
        match &parsed.resubmission {
            Some(reason) => {
                resubmission::resubmit(&self.orders.client, &parsed.details, reason, self.test).await
            }
            None => order::place(&self.orders, &parsed.details, &self.payment_method, self.test).await,
        }
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, sender: &mpsc::Sender<(u64, Claim)>, halt: &CancellationToken) -> anyhow::Result<()> {
    for next in submission::claims(path)? {
        if halt.is_cancelled() || sender.blocking_send(next?).is_err() {
            break;
        }
    }
    Ok(())
}

fn import_result(outcome: Outcome, gross: Option<Money>, reason: String) -> ImportResult {
    ImportResult {
        outcome,
        gross,
        reason,
    }
}

fn join_faults(violations: &[Fault]) -> String {
    violations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// The error for a file that violates a rule of the whole file: nothing of it is sent.
fn refused(arguments: &Arguments, violations: &[Fault]) -> Failure {
    let list: String = violations
        .iter()
        .map(|violation| format!("\n  - {violation}"))
        .collect();
    Failure::Other(anyhow!(
        "{} is refused, nothing of it was taken:{list}",
        arguments.file.display()
    ))
}
