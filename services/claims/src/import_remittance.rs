//! A remittance file is read twice: once to see that it is whole, once to book it claim by claim. A killed import of
//! the file goes on where it was when the file comes again; a file that was imported answers its first report.

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
    announce::event,
    book_remittance,
    desk::{Answer, Asked, Desk},
    error::Error,
    remittance::{self, Claim, Disposition, Fault},
    report::Report,
    rules::Violation,
    spool::Spooled,
    store::{
        self,
        remittances::{FileRow, NewFile},
    },
};

/// The method's name, as keys know it.
pub const METHOD: &str = "claims.v1.ClaimService/ImportRemittance";

/// Claims read ahead of the booking.
const READ_AHEAD: usize = 16;
/// How often a claim is booked when another transaction is in its way.
const BOOKING_TRIES: u32 = 3;

/// Imports a file that has come in.
///
/// # Errors
/// [`Error::Invalid`] for a fault of the file as a whole; nothing of it is booked then.
pub async fn import(
    desk: &Desk,
    facility: &Facility,
    header: ImportRemittanceHeader,
    spooled: Spooled,
) -> Result<Answer<ImportRemittanceResponse>, Error> {
    let upload = Upload {
        name: header.file_name,
        hex: spooled.hex(),
        digest: spooled.digest,
    };
    // The file is what the request says: it stands in the key by its digest, whatever its name.
    let said = RemittanceReport {
        digest: upload.hex.clone(),
        ..RemittanceReport::default()
    };
    let key = Key::of(METHOD, &header.request_id, &said)?;
    let asked = Asked { facility, key: &key };

    let (spooled, scanned) = blocking(spooled, |reader| remittance::scan(reader)).await?;
    match scanned {
        Err(refused) if refused.test => Err(Error::Invalid(refused.faults)),
        Err(refused) => Err(fail(desk, facility, &upload, refused.faults).await?),
        Ok(scanned) if scanned.header.disposition == Disposition::Test => {
            check(desk, facility, &upload, (spooled, scanned.remarks))
                .await
                .map(Answer::New)
        }
        Ok(scanned) => match open(desk, asked, &upload).await? {
            Opened::Answered(answer) => Ok(*answer),
            Opened::Reading(file) => {
                book(desk, facility, file, spooled).await?;
                finish(desk, asked, &upload, &scanned.remarks).await
            }
        },
    }
}

struct Upload {
    name: String,
    hex: String,
    digest: [u8; 32],
}

impl Upload {
    fn row<'a>(&'a self, facility: &'a Facility) -> NewFile<'a> {
        NewFile {
            facility: facility.as_str(),
            digest: &self.digest,
            file_name: &self.name,
        }
    }
}

enum Opened {
    Reading(Uuid),
    Answered(Box<Answer<ImportRemittanceResponse>>),
}

/// Claims the key, and finds or makes the file.
async fn open(desk: &Desk, asked: Asked<'_>, upload: &Upload) -> Result<Opened, Error> {
    let mut tx = desk.database.begin(asked.facility).await?;
    let file = store::remittances::open_file(&mut tx, upload.row(asked.facility)).await?;
    if let idempotency::Claim::Answered(answer) =
        idempotency::claim(&mut tx, asked.facility, asked.key, file.id).await?
    {
        return Ok(Opened::Answered(Box::new(Answer::Repeated(answer))));
    }
    if file.report.is_some() {
        let (report, event) = duplicate(&mut tx, asked.facility, file, upload).await?;
        let answer = ImportRemittanceResponse { report: Some(report) };
        return desk
            .close(tx, asked, &[event], answer)
            .await
            .map(|answer| Opened::Answered(Box::new(answer)));
    }
    tx.commit().await?;
    Ok(Opened::Reading(file.id))
}

/// The first report of a file that has come again.
async fn duplicate(
    conn: &mut PgConnection,
    facility: &Facility,
    file: FileRow,
    upload: &Upload,
) -> Result<(RemittanceReport, events::Event), Error> {
    let version = file.version + 1;
    store::remittances::touch_file(conn, file.id, version).await?;
    let again = FileDuplicate {
        file_name: upload.name.clone(),
        digest: upload.hex.clone(),
    };
    let report = file.report.unwrap_or_default();
    let report = RemittanceReport::decode(&*report).map_err(store::unreadable)?;
    Ok((
        RemittanceReport {
            duplicate: true,
            ..report
        },
        event(facility, file.id, version, &again),
    ))
}

/// Books the claims that are not done yet, several at once. One that fails stops none of the others; the import is then
/// to be made again, and goes on with what is left.
async fn book(desk: &Desk, facility: &Facility, file: Uuid, spooled: Spooled) -> Result<(), Error> {
    let mut tx = desk.database.begin(facility).await?;
    let done: HashSet<i32> = store::remittances::done(&mut tx, file)
        .await?
        .into_iter()
        .collect();
    tx.rollback().await?;
    let (claims, reading) = read(spooled);
    let (failed, first) = claims
        .filter(|claim| std::future::ready(!done.contains(&claim.ordinal)))
        .map(|claim| book_again(desk, facility, file, claim))
        .buffer_unordered(usize::from(desk.import.concurrency))
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
            tracing::warn!(remittance.failed_claims = failed, error.message = %error, "a remittance is not booked whole yet");
            Err(error)
        }
    }
}

/// Books a claim, and once more when another transaction was in its way.
async fn book_again(desk: &Desk, facility: &Facility, file: Uuid, claim: Claim) -> Result<(), Error> {
    let mut tries = 1;
    loop {
        let outcome = book_remittance::book(desk, facility, file, claim.clone()).await;
        match outcome {
            Err(error) if tries < BOOKING_TRIES && error.is_contention() => tries += 1,
            outcome => return outcome,
        }
    }
}

/// Adds up what became of the claims and keeps that as the file's report.
async fn finish(
    desk: &Desk,
    asked: Asked<'_>,
    upload: &Upload,
    remarks: &[Fault],
) -> Result<Answer<ImportRemittanceResponse>, Error> {
    let mut tx = desk.database.begin(asked.facility).await?;
    let file = store::remittances::open_file(&mut tx, upload.row(asked.facility)).await?;
    if file.report.is_some() {
        // Another import of the same file was quicker: perhaps for the same request.
        tx.rollback().await?;
        return match open(desk, asked, upload).await? {
            Opened::Answered(answer) => Ok(*answer),
            Opened::Reading(_) => Err(Error::InProgress),
        };
    }
    let mut report = Report::of_file(remarks);
    let mut claims = store::remittances::claim_reports(&mut tx, file.id);
    while let Some(claim) = claims.try_next().await? {
        report.add(Report::decode(&claim)?);
    }
    drop(claims);
    let ingested = report.ingested(&file.file_name, &upload.hex);
    let report = report.into_wire(&file.file_name, &upload.hex);
    let version = file.version + 1;
    store::remittances::ingested(&mut tx, file.id, version, &report.encode_to_vec()).await?;
    let events = [event(asked.facility, file.id, version, &ingested)];
    desk.close(
        tx,
        asked,
        &events,
        ImportRemittanceResponse { report: Some(report) },
    )
    .await
}

/// A file that says TEST: what would become of it. Each claim is seen against what is booked, not against the claims
/// before it in the file.
async fn check(
    desk: &Desk,
    facility: &Facility,
    upload: &Upload,
    (spooled, remarks): (Spooled, Vec<Fault>),
) -> Result<ImportRemittanceResponse, Error> {
    let (claims, reading) = read(spooled);
    let report = claims
        .map(|claim| book_remittance::check(desk, facility, claim))
        .buffered(usize::from(desk.import.concurrency))
        .try_fold(Report::of_file(&remarks), |mut sum, one| {
            sum.add(one);
            std::future::ready(Ok(sum))
        })
        .await?;
    reading.await?;
    let report = RemittanceReport {
        test: true,
        ..report.into_wire(&upload.name, &upload.hex)
    };
    Ok(ImportRemittanceResponse { report: Some(report) })
}

/// Says that the file could not be read, and why. A file that comes again and is as broken as before is answered the
/// same, and leaves nothing behind.
async fn fail(
    desk: &Desk,
    facility: &Facility,
    upload: &Upload,
    faults: Vec<Violation>,
) -> Result<Error, Error> {
    let mut tx = desk.database.begin(facility).await?;
    if store::remittances::is_failed(&mut tx, facility.as_str(), &upload.digest).await? {
        tx.rollback().await?;
        return Ok(Error::Invalid(faults));
    }
    let file = store::remittances::open_file(&mut tx, upload.row(facility)).await?;
    let version = file.version + 1;
    store::remittances::touch_file(&mut tx, file.id, version).await?;
    let reason: Vec<String> = faults.iter().map(Violation::description).collect();
    let failed = FileFailed {
        file_name: upload.name.clone(),
        digest: upload.hex.clone(),
        reason: reason.join("; "),
    };
    events::append(&mut tx, &[event(facility, file.id, version, &failed)]).await?;
    tx.commit().await?;
    desk.outbox.wake();
    Ok(Error::Invalid(faults))
}

/// Reads the claims in a thread of its own, not far ahead of whoever takes them. The second part ends when the reading
/// does, and says whether it reached the end.
fn read(spooled: Spooled) -> (ReceiverStream<Claim>, impl Future<Output = Result<(), Error>>) {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let reading = spawn_blocking(move || {
        let mut spooled = spooled;
        let mut file = remittance::File::open(spooled.reader()?).map_err(Error::Invalid)?;
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
            .map_err(|error| Error::Spool(std::io::Error::other(error)))?
    };
    (ReceiverStream::new(receiver), ended)
}

async fn blocking<T: Send + 'static>(
    mut spooled: Spooled,
    act: impl FnOnce(&mut dyn BufRead) -> T + Send + 'static,
) -> Result<(Spooled, T), Error> {
    let acting = spawn_blocking(move || {
        let outcome = act(&mut spooled.reader()?);
        Ok::<_, std::io::Error>((spooled, outcome))
    });
    Ok(acting.await.map_err(std::io::Error::other)??)
}
