//! `weft order import FILE`: places many orders from one file. An import can be restarted.
//!
//! Every request id is derived from the file's content, so that a second import of a file changes nothing and a
//! killed import continues where it stopped. The modules are in reading order: the parts that both kinds of file
//! share, then eClaimLink submissions, then online-retail invoices.

mod order_batcher;
mod place_order;
mod pool;
mod progress;
mod report;
mod retrying_client;

mod claim;
mod submission;

mod cancellation;
mod csv;
mod invoice;
mod retail;
mod sale;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use proto::order::v1::PlaceOrderRequest;
pub(crate) use report::Report;
pub(crate) use retrying_client::{CallError, RetryingClient};
use uuid::Uuid;

use crate::{
    clients::Clients,
    duration,
    failure::Failure,
    globals::{Format, Globals},
    output,
};

#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// The file: eClaimLink Claim.Submission (XML) or online-retail invoices (CSV)
    pub(crate) file: PathBuf,
    /// The payment method's token for every order's share
    #[arg(long, default_value = "tok_visa")]
    pub(crate) payment_method: String,
    /// How many orders are under way at once; up to 64 of them go to the service in one call
    #[arg(long, default_value_t = CONCURRENCY, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) concurrency: u16,
    /// How long a service that cannot be reached is tried again before the import stops
    #[arg(long, default_value = "2m", value_parser = duration::parse)]
    pub(crate) retry_for: Duration,
}

impl Arguments {
    /// The defaults of all other options.
    pub(crate) fn new(file: PathBuf) -> Arguments {
        Arguments {
            file,
            payment_method: "tok_visa".to_owned(),
            concurrency: CONCURRENCY,
            retry_for: RETRY_FOR,
        }
    }
}

/// The default number of concurrent orders: those of one full call.
const CONCURRENCY: u16 = 64;

/// How long an unavailable service is retried by default.
pub(crate) const RETRY_FOR: Duration = Duration::from_secs(120);

/// The kind of a file, detected by its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Submission,
    Retail,
}

pub(crate) async fn run(globals: &Globals, arguments: Arguments) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    let report = import(&clients, &arguments).await?;
    match globals.output {
        Format::Json => output::print_json(&report.to_json())?,
        Format::Table => print!("{report}"),
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err(Failure::AlreadyReported)
    }
}

/// Imports the file; the report accounts for every line of it.
pub(crate) async fn import(clients: &Clients, arguments: &Arguments) -> Result<Report, Failure> {
    // A --timeout that is too long is refused before the first call.
    clients.check_timeout::<PlaceOrderRequest>()?;
    match detect_kind(&arguments.file)? {
        Kind::Submission => claim::import(clients, arguments).await,
        Kind::Retail => retail::import(clients, arguments).await,
    }
}

/// A request id that is the same for every repetition of a request: a UUID version 5 of the facility, the kind of
/// request and what identifies its subject.
pub(crate) fn request_id(facility: &str, kind: &str, subject: &[&str]) -> Uuid {
    const NAMESPACE: Uuid = Uuid::from_u128(0x6f1b_29c4_8a57_4e0d_9c33_5d10_77a2_be64);
    // The separator cannot occur in a part, so that different subjects have different names.
    let mut name = format!("{facility}\u{1f}{kind}");
    for part in subject {
        name.push('\u{1f}');
        name.push_str(part);
    }
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

/// The response metadata that marks a replayed answer.
const REPLAYED_HEADER: &str = "idempotency-replayed";

/// Whether the service recognised the request id and replayed its first answer.
pub(crate) fn is_replayed<T>(response: &tonic::Response<T>) -> bool {
    response
        .metadata()
        .get(REPLAYED_HEADER)
        .is_some_and(|value| value == "true")
}

/// The error for a file that fails, or changes, while it is imported.
fn truncated_message(path: &Path) -> String {
    format!(
        "{} cannot be read to its end: what stands before is imported; next: the same command goes on from there",
        path.display()
    )
}

fn detect_kind(path: &Path) -> Result<Kind, Failure> {
    let start = read_start(path)?;
    Ok(if eclaimlink::is_xml(&start) {
        Kind::Submission
    } else {
        Kind::Retail
    })
}

/// Reads the beginning of a file.
///
/// # Errors
/// When it cannot be read, or is empty, as after a failed download.
pub(crate) fn read_start(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut reader = BufReader::new(fs::File::open(path).with_context(unreadable)?);
    let start = reader.fill_buf().with_context(unreadable)?;
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::Usage(format!(
            "{} is empty: there is nothing to import",
            path.display()
        )));
    }
    Ok(start.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_stable_and_differ_by_facility_kind_and_subject() {
        let id = request_id("al-noor", "order", &["536365"]);
        // A fixed value: a release that derived other ids would import everything twice.
        assert_eq!(id.to_string(), "af7d3964-c197-5a8b-854c-61b3ee54f579");
        assert_eq!(id, request_id("al-noor", "order", &["536365"]));
        let others = [
            request_id("al-nour", "order", &["536365"]),
            request_id("al-noor", "refund", &["536365"]),
            request_id("al-noor", "order", &["536366"]),
            request_id("al-noor", "order", &["53", "6365"]),
        ];
        assert!(!others.contains(&id));
    }
}
