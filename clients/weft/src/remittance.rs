//! `weft remittance …`: sends a Remittance.Advice file to the claims service, and resolves lines that were not
//! booked.

mod parked;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Subcommand;
use proto::{
    claims::v1::{
        ImportRemittanceHeader, ImportRemittanceRequest, ImportRemittanceResponse, ParkedResolution,
        RemittanceReport, import_remittance_request::Part,
    },
    google::r#type::Money,
};
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncReadExt as _, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    clients::Clients,
    duration,
    failure::{During as _, Failure},
    globals::{Format, Globals},
    import::{self, CallError, RetryingClient, is_replayed, request_id},
    output::{self, Table, money},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Import a Remittance.Advice file (XML); the same file again changes nothing
    Import {
        /// The file
        file: PathBuf,
        /// How long a claims service that cannot be reached is tried again
        #[arg(long, default_value = "2m", value_parser = duration::parse)]
        retry_for: Duration,
    },
    /// List the lines that are not booked: early ones, another payer's, and those of an earlier file
    Parked(parked::ListArguments),
    /// Book a parked line on its claim, whatever its sender and however often it came
    Book(parked::ResolveArguments),
    /// Discard a parked line: it is not booked and not listed any more
    Discard(parked::ResolveArguments),
}

/// The contract's limit for one chunk.
const CHUNK_BYTES: usize = 64 * 1024;

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let clients = Clients::open(globals)?;
    let (file, retry_for) = match command {
        Command::Import { file, retry_for } => (file, retry_for),
        Command::Parked(arguments) => return parked::list(&clients, globals.output, arguments).await,
        Command::Book(arguments) => {
            return parked::resolve(&clients, globals.output, arguments, ParkedResolution::Book).await;
        }
        Command::Discard(arguments) => {
            return parked::resolve(&clients, globals.output, arguments, ParkedResolution::Discard).await;
        }
    };
    let report = import(&clients, &file, retry_for).await?;
    match globals.output {
        Format::Json => {
            let response = ImportRemittanceResponse {
                report: Some(report.clone()),
            };
            output::print_json(&output::json(&response)?)?;
        }
        Format::Table => print!("{}", show(&report)),
    }
    // Lines that wait for their claim are no failure; refused, held and cut lines need attention.
    if report.violations.is_empty() {
        Ok(())
    } else {
        Err(Failure::AlreadyReported)
    }
}

/// Streams the file, and retries for `retry_for` while the claims service cannot be reached. The request id is
/// derived from the content, so that the service recognises a repetition and continues the import.
pub(crate) async fn import(
    clients: &Clients,
    path: &Path,
    retry_for: Duration,
) -> Result<RemittanceReport, Failure> {
    clients.check_timeout::<ImportRemittanceRequest>()?;
    import::read_start(path)?;
    let digest = digest(path)
        .await
        .with_context(|| format!("cannot read {}", path.display()))?;
    let header = ImportRemittanceHeader {
        request_id: request_id(clients.facility(), "remittance", &[&digest]).to_string(),
        file_name: path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
    };
    let client = RetryingClient {
        clients: clients.clone(),
        retry_for,
        halt: CancellationToken::new(),
    };
    let answer = client
        .call(header, move |request| async move {
            let (metadata, extensions, header) = request.into_parts();
            let (parts, stream) = mpsc::channel(4);
            let request = tonic::Request::from_parts(metadata, extensions, ReceiverStream::new(stream));
            let mut claims = clients.claims();
            let (read, answer) = tokio::join!(read(path, header, parts), claims.import_remittance(request));
            read.map_err(|error| {
                Status::failed_precondition(format!("cannot read {}: {error}", path.display()))
            })?;
            answer
        })
        .await;
    let answer = answer
        .map_err(|(CallError::Refused(status) | CallError::Undecided(status))| status)
        .during("claims.v1.ClaimService/ImportRemittance")?;
    let replayed = is_replayed(&answer);
    let mut report = answer.into_inner().report.unwrap_or_default();
    // A replayed answer is the first one, which does not have the mark.
    report.duplicate |= replayed;
    Ok(report)
}

/// Sends the header, then the file in chunks.
async fn read(
    path: &Path,
    header: ImportRemittanceHeader,
    parts: mpsc::Sender<ImportRemittanceRequest>,
) -> std::io::Result<()> {
    let part = |part| ImportRemittanceRequest { part: Some(part) };
    let mut file = tokio::fs::File::open(path).await?;
    if parts.send(part(Part::Header(header))).await.is_err() {
        return Ok(());
    }
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        // The channel closes when the service refuses the file before its end.
        let read = (&mut file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut chunk)
            .await?;
        if read == 0 || parts.send(part(Part::Chunk(chunk))).await.is_err() {
            return Ok(());
        }
    }
}

async fn digest(path: &Path) -> std::io::Result<String> {
    let mut file = tokio::fs::File::open(path).await?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = file.read(&mut buffer).await?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

fn show(report: &RemittanceReport) -> String {
    let mut text = format!("{}: {} claims", report.file_name, report.claim_count);
    if report.duplicate {
        text.push_str(", imported before: nothing has changed, this is the first report");
    }
    if report.test {
        text.push_str(", a test: nothing was kept");
    }
    let mut table = Table::new(["", ">LINES", ">MONEY"], "");
    let mut row = |name: &str, lines: Option<i32>, sum: Option<&Money>| {
        let lines = lines.map(|lines| lines.to_string()).unwrap_or_default();
        table.row([name.to_owned(), lines, money(sum)]);
    };
    row("booked", Some(report.booked_lines), report.booked.as_ref());
    if report
        .above_net
        .as_ref()
        .is_some_and(|sum| (sum.units, sum.nanos) != (0, 0))
    {
        row("beyond the net or what was paid", None, report.above_net.as_ref());
    }
    row(
        "waiting for their claim",
        Some(report.parked_lines),
        report.parked.as_ref(),
    );
    if report.held_lines > 0 {
        row(
            "held: another payer's",
            Some(report.held_lines),
            report.held.as_ref(),
        );
    }
    if report.repeated_lines > 0 {
        let (lines, sum) = (report.repeated_lines, report.repeated.as_ref());
        row("held: in an earlier file", Some(lines), sum);
    }
    row("refused", Some(report.refused_lines), report.refused.as_ref());
    let lines = [
        report.booked_lines,
        report.parked_lines,
        report.held_lines,
        report.repeated_lines,
        report.refused_lines,
    ];
    row("in the file", Some(lines.iter().sum()), report.total.as_ref());
    text.push_str(&format!("\n{table}"));
    for violation in report.violations.iter().chain(&report.remarks) {
        let place = [violation.claim_id.as_str(), violation.activity_id.as_str()].join(" ");
        text.push_str(&format!(
            "  - {} {}: {}\n",
            place.trim(),
            violation.rule,
            violation.message
        ));
    }
    text
}
