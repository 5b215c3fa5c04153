//! Imports an online-retail file: read as a stream, placed in parallel, one customer's invoices in the file's
//! order.

use std::{
    fs,
    io::BufReader,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, anyhow};
use money::Money;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Arguments, Report, cancellation,
    invoice::{CURRENCY, Invoice, Invoices},
    order_batcher::OrderBatcher,
    pool,
    progress::Progress,
    report::{Entry, Outcome},
    retrying_client::RetryingClient,
    sale,
};
use crate::{clients::Clients, failure::Failure};

/// The capacity of the channel between the reader and the workers, in invoices.
const READ_AHEAD: usize = 8;

pub(crate) async fn import(clients: &Clients, arguments: &Arguments) -> Result<Report, Failure> {
    let began = Instant::now();
    let halt = CancellationToken::new();
    let worker = Arc::new(RetailImport {
        orders: OrderBatcher::new(RetryingClient {
            clients: clients.clone(),
            retry_for: arguments.retry_for,
            halt: halt.clone(),
        }),
        payment_method: arguments.payment_method.clone(),
        progress: Progress::new(&arguments.file),
        report: Mutex::new(Report::new(
            arguments.file.display().to_string(),
            "online-retail",
            CURRENCY,
        )),
    });
    let (sender, invoices) = mpsc::channel(READ_AHEAD);
    let (path, stop_reading) = (arguments.file.clone(), halt.clone());
    let reading = tokio::task::spawn_blocking(move || read(&path, &sender, &stop_reading));
    let stop = pool::run(&worker, arguments.concurrency, invoices, &halt).await?;
    // Without a report if the heading is wrong or the file cannot be opened.
    reading.await.map_err(|_| anyhow!("the reader failed"))??;
    let worker = Arc::into_inner(worker).ok_or_else(|| anyhow!("a worker failed"))?;
    let mut report = worker.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.stopped = stop.message();
    report.finish(began.elapsed());
    Ok(report)
}

struct RetailImport {
    orders: OrderBatcher,
    payment_method: String,
    progress: Progress,
    report: Mutex<Report>,
}

/// The position in the file, in bytes, at which an invoice ends, and the invoice.
type PositionedInvoice = (u64, Invoice);

impl pool::Worker for RetailImport {
    type Job = PositionedInvoice;

    fn key<'a>(&self, (_, invoice): &'a PositionedInvoice) -> Option<&'a str> {
        (!invoice.customer.is_empty()).then_some(invoice.customer.as_str())
    }

    fn accept(&self, (position, invoice): &PositionedInvoice) {
        let total = invoice.total().unwrap_or(Money::zero(CURRENCY));
        let mut report = self.report();
        report.count(invoice.lines() as u64, total);
        report.unreadable_lines += invoice.unreadable_lines() as u64;
        report.lines_without_amount += invoice.lines_without_total() as u64;
        drop(report);
        self.progress.advance(*position, "invoices");
    }

    async fn work(&self, (_, invoice): PositionedInvoice) {
        let entries = self.import_invoice(&invoice).await;
        let mut report = self.report();
        entries.into_iter().for_each(|entry| report.record(entry));
    }
}

impl RetailImport {
    async fn import_invoice(&self, invoice: &Invoice) -> Vec<Entry> {
        let mut entries = if self.orders.client.halt.is_cancelled() {
            not_begun(invoice)
        } else if invoice.is_cancellation() {
            cancellation::refund(&self.orders.client, invoice).await
        } else {
            sale::place(&self.orders, invoice, &self.payment_method).await
        };
        entries.extend(invoice.faults.iter().map(|fault| Entry {
            document: invoice.number.clone(),
            line: fault.line,
            lines: 1,
            amount: fault.total.unwrap_or(Money::zero(CURRENCY)),
            outcome: Outcome::Refused,
            reason: fault.reason.clone(),
        }));
        entries
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the file in a blocking thread: the file system has no asynchronous reads.
fn read(
    path: &Path,
    sender: &mpsc::Sender<PositionedInvoice>,
    halt: &CancellationToken,
) -> anyhow::Result<()> {
    let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut invoices =
        Invoices::new(BufReader::new(file)).map_err(|reason| anyhow!("{}: {reason}", path.display()))?;
    while let Some(invoice) = invoices.next() {
        if halt.is_cancelled() || sender.blocking_send((invoices.position(), invoice)).is_err() {
            return Ok(());
        }
    }
    match invoices.into_failure() {
        None => Ok(()),
        Some(error) => Err(error).with_context(|| super::truncated_message(path)),
    }
}

/// The entry for an invoice that was queued when the import stopped.
fn not_begun(invoice: &Invoice) -> Vec<Entry> {
    let Some(first) = invoice.items.first() else {
        return Vec::new();
    };
    vec![Entry {
        document: invoice.number.clone(),
        line: first.line,
        lines: invoice.items.len() as u64,
        amount: Money::sum(CURRENCY, invoice.items.iter().map(|item| item.total))
            .unwrap_or(Money::zero(CURRENCY)),
        outcome: Outcome::Undecided,
        reason: "NOT_BEGUN: the import stopped before".to_owned(),
    }]
}
