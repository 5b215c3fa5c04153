//! ImportRemittance: reads a remittance file twice, first to validate it as a whole, then to book it claim by
//! claim. If an import was interrupted, importing the file again continues it. A file that was imported before
//! returns its first report.

use std::{collections::HashSet, io::BufRead};

use chassis::{Facility, idempotency, idempotency::Key};
use futures_util::{StreamExt as _, TryStreamExt as _};
use prost::Message;
use proto::claims::v1::{
    FileDuplicate, FileFailed, ImportRemittanceHeader, ImportRemittanceResponse, RemittanceReport,
};
use sqlx::PgConnection;
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use crate::{
    app::App,
    book_remittance,
    error::Error,
    events::to_event,
    import_report::Report,
    remittance::{self, Claim, Disposition, Fault},
    request::Request,
    response::Response,
    rules::Violation,
    store::{
        self,
        remittances::{FileRow, NewFile},
    },
    upload::UploadedFile,
};

/// The method's name in idempotency keys.
pub const METHOD: &str = "claims.v1.ClaimService/ImportRemittance";

/// How many claims are read ahead of the booking.
const READ_AHEAD: usize = 16;
/// The number of attempts to book a claim that conflicts with other transactions.
const BOOKING_ATTEMPTS: u32 = 3;

/// Imports an uploaded file.
///
/// # Errors
/// [`Error::Invalid`] for a fault of the file as a whole; nothing of it is booked then.
pub async fn execute(
    app: &App,
    facility: &Facility,
    header: ImportRemittanceHeader,
    uploaded: UploadedFile,
) -> Result<Response<ImportRemittanceResponse>, Error> {
    let info = FileInfo {
        name: header.file_name,
        digest_hex: uploaded.hex_digest(),
        digest: uploaded.digest,
    };
    // The key identifies the file by its digest, regardless of its name.
    let fingerprint = RemittanceReport {
        digest: info.digest_hex.clone(),
        ..RemittanceReport::default()
    };
    let key = Key::new(METHOD, &header.request_id, &fingerprint)?;
    let request = Request { facility, key: &key };

    let (uploaded, scanned) = read_blocking(uploaded, |reader| remittance::scan(reader)).await?;
    match scanned {
        Err(refused) if refused.test => Err(Error::Invalid(refused.faults)),
        Err(refused) => Err(fail(app, facility, &info, refused.faults).await?),
        Ok(scanned) if scanned.header.disposition == Disposition::Test => {
            dry_run(app, facility, &info, (uploaded, scanned.remarks))
                .await
                .map(Response::New)
        }
        Ok(scanned) => match open(app, request, &info).await? {
            OpenedFile::Responded(response) => Ok(*response),
            OpenedFile::Reading(file) => {
                book(app, facility, file, uploaded).await?;
                finish(app, request, &info, &scanned.remarks).await
            }
        },
    }
}

struct FileInfo {
    name: String,
    digest_hex: String,
    digest: [u8; 32],
}

impl FileInfo {
    fn to_row<'a>(&'a self, facility: &'a Facility) -> NewFile<'a> {
        NewFile {
            facility: facility.as_str(),
            digest: &self.digest,
            file_name: &self.name,
        }
    }
}

enum OpenedFile {
    /// The file's claims are to be booked.
    Reading(Uuid),
    /// The request has its response already.
    Responded(Box<Response<ImportRemittanceResponse>>),
}

/// Claims the idempotency key and finds or inserts the file.
async fn open(app: &App, request: Request<'_>, info: &FileInfo) -> Result<OpenedFile, Error> {
    let mut tx = app.database.begin(request.facility).await?;
    let file = store::remittances::find_or_insert_file(&mut tx, info.to_row(request.facility)).await?;
    if let idempotency::KeyState::Completed(bytes) =
        idempotency::acquire(&mut tx, request.facility, request.key, file.id).await?
    {
        return Ok(OpenedFile::Responded(Box::new(Response::Replayed(bytes))));
    }
    if file.report.is_some() {
        let (report, event) = duplicate(&mut tx, request.facility, file, info).await?;
        let message = ImportRemittanceResponse { report: Some(report) };
        return app
            .commit(tx, request, &[event], message)
            .await
            .map(|response| OpenedFile::Responded(Box::new(response)));
    }
    tx.commit().await?;
    Ok(OpenedFile::Reading(file.id))
}

/// The first report of a file that was imported before, and the event of the repetition.
async fn duplicate(
    conn: &mut PgConnection,
    facility: &Facility,
    file: FileRow,
    info: &FileInfo,
) -> Result<(RemittanceReport, events::Event), Error> {
    let version = file.version + 1;
    store::remittances::update_file_version(conn, file.id, version).await?;
    let duplicate = FileDuplicate {
        file_name: info.name.clone(),
        digest: info.digest_hex.clone(),
    };
    let report = file.report.unwrap_or_default();
    let report = RemittanceReport::decode(&*report).map_err(store::unreadable)?;
    Ok((
        RemittanceReport {
            duplicate: true,
            ..report
        },
        to_event(facility, file.id, version, &duplicate),
    ))
}

/// Books the claims that are not processed yet, several at once. A claim that fails does not stop the others; the
/// import must then be repeated and continues with the remaining claims.
async fn book(app: &App, facility: &Facility, file: Uuid, uploaded: UploadedFile) -> Result<(), Error> {
    let mut tx = app.database.begin(facility).await?;
    let processed: HashSet<i32> = store::remittances::list_processed_claims(&mut tx, file)
        .await?
        .into_iter()
        .collect();
    tx.rollback().await?;
    let (claims, reading) = read(uploaded);
    let (failed, first) = claims
        .filter(|claim| std::future::ready(!processed.contains(&claim.ordinal)))
        .map(|claim| book_with_retry(app, facility, file, claim))
        .buffer_unordered(usize::from(app.import_settings.concurrency))
        .fold((0, None), |(failed, first), booked| {
            std::future::ready(match booked {
                Ok(()) => (failed, first),
                Err(error) => (failed + 1, first.or(Some(error))),
            })
        })
        .await;
    reading.await?;
    match first {
        None => Ok(()),
        Some(error) => {
            tracing::warn!(remittance.failed_claims = failed, error.message = %error, "a remittance is not completely booked yet");
            Err(error)
        }
    }
}

/// Books a claim; retries after a conflict with another transaction.
async fn book_with_retry(app: &App, facility: &Facility, file: Uuid, claim: Claim) -> Result<(), Error> {
    let mut attempts = 1;
    loop {
        let result = book_remittance::execute(app, facility, file, claim.clone()).await;
        match result {
            Err(error) if attempts < BOOKING_ATTEMPTS && error.is_contention() => attempts += 1,
            result => return result,
        }
    }
}

/// Merges the reports of the claims and stores the result as the file's report.
async fn finish(
    app: &App,
    request: Request<'_>,
    info: &FileInfo,
    remarks: &[Fault],
) -> Result<Response<ImportRemittanceResponse>, Error> {
    let mut tx = app.database.begin(request.facility).await?;
    let file = store::remittances::find_or_insert_file(&mut tx, info.to_row(request.facility)).await?;
    if file.report.is_some() {
        // Another import of the same file, perhaps for the same request, has finished first.
        tx.rollback().await?;
        return match open(app, request, info).await? {
            OpenedFile::Responded(response) => Ok(*response),
            OpenedFile::Reading(_) => Err(Error::InProgress),
        };
    }
    let mut report = Report::for_file(remarks);
    let mut claims = store::remittances::stream_claim_reports(&mut tx, file.id);
    while let Some(claim) = claims.try_next().await? {
        report.merge(Report::decode(&claim)?);
    }
    drop(claims);
    let ingested = report.ingested_event(&file.file_name, &info.digest_hex);
    let report = report.into_proto(&file.file_name, &info.digest_hex);
    let version = file.version + 1;
    store::remittances::mark_ingested(&mut tx, file.id, version, &report.encode_to_vec()).await?;
    let events = [to_event(request.facility, file.id, version, &ingested)];
    app.commit(
        tx,
        request,
        &events,
        ImportRemittanceResponse { report: Some(report) },
    )
    .await
}

/// Reports what importing a file with the disposition TEST would do. Each claim is compared with the booked lines,
/// not with earlier claims of the file.
async fn dry_run(
    app: &App,
    facility: &Facility,
    info: &FileInfo,
    (uploaded, remarks): (UploadedFile, Vec<Fault>),
) -> Result<ImportRemittanceResponse, Error> {
    let (claims, reading) = read(uploaded);
    let report = claims
        .map(|claim| book_remittance::dry_run(app, facility, claim))
        .buffered(usize::from(app.import_settings.concurrency))
        .try_fold(Report::for_file(&remarks), |mut sum, one| {
            sum.merge(one);
            std::future::ready(Ok(sum))
        })
        .await?;
    reading.await?;
    let report = RemittanceReport {
        test: true,
        ..report.into_proto(&info.name, &info.digest_hex)
    };
    Ok(ImportRemittanceResponse { report: Some(report) })
}

/// Records that the file was refused, and why. If the file was refused before, nothing is written.
async fn fail(
    app: &App,
    facility: &Facility,
    info: &FileInfo,
    faults: Vec<Violation>,
) -> Result<Error, Error> {
    let mut tx = app.database.begin(facility).await?;
    if store::remittances::is_failed(&mut tx, facility.as_str(), &info.digest).await? {
        tx.rollback().await?;
        return Ok(Error::Invalid(faults));
    }
    let file = store::remittances::find_or_insert_file(&mut tx, info.to_row(facility)).await?;
    let version = file.version + 1;
    store::remittances::update_file_version(&mut tx, file.id, version).await?;
    let reason: Vec<String> = faults.iter().map(Violation::description).collect();
    let failed = FileFailed {
        file_name: info.name.clone(),
        digest: info.digest_hex.clone(),
        reason: reason.join("; "),
    };
    events::append(&mut tx, &[to_event(facility, file.id, version, &failed)]).await?;
    tx.commit().await?;
    app.outbox.wake();
    Ok(Error::Invalid(faults))
}

/// Reads the claims on a blocking thread, at most [`READ_AHEAD`] claims ahead of the consumer. The returned future
/// completes when the reading ends, with an error if it did not reach the end of the file.
fn read(uploaded: UploadedFile) -> (ReceiverStream<Claim>, impl Future<Output = Result<(), Error>>) {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let reading = spawn_blocking(move || {
        let mut uploaded = uploaded;
        let mut file = remittance::File::open(uploaded.reader()?).map_err(Error::Invalid)?;
        while let Some(claim) = file.next_claim().map_err(|fault| Error::Invalid(vec![fault]))? {
            if sender.blocking_send(claim).is_err() {
                break;
            }
        }
        Ok(())
    });
    let ended = async {
        reading
            .await
            .map_err(|error| Error::Upload(std::io::Error::other(error)))?
    };
    (ReceiverStream::new(receiver), ended)
}

/// Reads the file on a blocking thread.
async fn read_blocking<T: Send + 'static>(
    mut uploaded: UploadedFile,
    read: impl FnOnce(&mut dyn BufRead) -> T + Send + 'static,
) -> Result<(UploadedFile, T), Error> {
    let reading = spawn_blocking(move || {
        let result = read(&mut uploaded.reader()?);
        Ok::<_, std::io::Error>((uploaded, result))
    });
    Ok(reading.await.map_err(std::io::Error::other)??)
}
