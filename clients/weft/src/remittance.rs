//! `weft remittance import FILE`: hands a Remittance.Advice file to the claims service.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::Subcommand;
use proto::claims::v1::{
    ImportRemittanceHeader, ImportRemittanceRequest, ImportRemittanceResponse, RemittanceReport,
    import_remittance_request::Part,
};
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncReadExt as _, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    cli::{Format, Globals},
    clients::Clients,
    duration,
    failure::{During as _, Failure},
    import::{Caller, NoAnswer, request_id, was_given_before},
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
}

/// The contract's limit for one chunk.
const CHUNK_BYTES: usize = 64 * 1024;

pub(crate) async fn run(globals: &Globals, command: Command) -> Result<(), Failure> {
    let Command::Import { file, retry_for } = command;
    let clients = Clients::open(globals)?;
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
    if report.violations.is_empty() {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}

/// Streams the file, and again while the claims service cannot be reached: its request id follows from its content, so
/// that a repetition is recognised and goes on where the import was.
pub(crate) async fn import(
    clients: &Clients,
    path: &Path,
    retry_for: Duration,
) -> Result<RemittanceReport, Failure> {
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
    let caller = Caller {
        clients: clients.clone(),
        retry_for,
        halt: CancellationToken::new(),
    };
    let answer = caller
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
        .map_err(|(NoAnswer::Refused(status) | NoAnswer::Undecided(status))| status)
        .during("claims.v1.ClaimService/ImportRemittance")?;
    let replayed = was_given_before(&answer);
    let mut report = answer.into_inner().report.unwrap_or_default();
    // The first answer, given again, says nothing of being one.
    report.duplicate |= replayed;
    Ok(report)
}

/// Sends the header, and the file in pieces.
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
        // An answer before the end of the file, a refusal, closes the channel.
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
        text.push_str(", imported before: nothing has changed");
    }
    if report.test {
        text.push_str(", a test: nothing was kept");
    }
    let mut table = Table::new(["", ">LINES", ">MONEY"], "");
    let lines = report.booked_lines + report.parked_lines + report.refused_lines;
    table.row([
        "booked".into(),
        report.booked_lines.to_string(),
        money(report.booked.as_ref()),
    ]);
    table.row([
        "waiting for their claim".into(),
        report.parked_lines.to_string(),
        money(report.parked.as_ref()),
    ]);
    table.row([
        "refused".into(),
        report.refused_lines.to_string(),
        money(report.refused.as_ref()),
    ]);
    table.row([
        "in the file".into(),
        lines.to_string(),
        money(report.total.as_ref()),
    ]);
    text.push_str(&format!("\n{table}"));
    for violation in &report.violations {
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
