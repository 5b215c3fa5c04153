//! One claim of a remittance file is booked, in a transaction of its own: one bad claim never stops the others.

use std::collections::HashSet;

use chassis::Facility;
use money::{Currency, Money};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    booking::Booking,
    desk::Desk,
    error::Error,
    remittance::{Claim, Fault},
    report::{Fate, Report},
    store::{
        self, Record,
        remittances::{Advice, NewLine, Number},
    },
};

/// Books what can be booked, parks what is early, and keeps the claim's report with it. A claim that is done already,
/// by another import of the same file, is left alone.
pub async fn book(desk: &Desk, facility: &Facility, file: Uuid, claim: Claim) -> Result<(), Error> {
    let mut tx = desk.database.begin(facility).await?;
    let advice = advice(file, &claim);
    let plan = plan(&mut tx, facility, advice, &claim).await?;
    let report = plan.report.encode();
    if !store::remittances::keep_claim(&mut tx, facility.as_str(), file, claim.ordinal, &report).await? {
        tx.rollback().await?;
        return Ok(());
    }
    if !plan.park.is_empty() {
        let number = Number {
            provider_id: &claim.provider_id,
            claim_id: &claim.id,
            id_payer: &claim.id_payer,
        };
        store::remittances::park(&mut tx, facility.as_str(), number, advice, &plan.park).await?;
    }
    if let Some((mut record, booking)) = plan.book {
        record.id_payer.clone_from(&claim.id_payer);
        let event = booking.write(&mut tx, facility, &mut record, advice).await?;
        events::append(&mut tx, &[event]).await?;
    }
    tx.commit().await?;
    desk.outbox.wake();
    Ok(())
}

/// What [`book`] would do, and nothing done.
pub async fn check(desk: &Desk, facility: &Facility, claim: Claim) -> Result<Report, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let plan = plan(&mut tx, facility, advice(Uuid::nil(), &claim), &claim).await?;
    tx.rollback().await?;
    Ok(plan.report)
}

struct Plan {
    book: Option<(Record, Booking)>,
    park: Vec<NewLine>,
    report: Report,
}

fn advice(file: Uuid, claim: &Claim) -> Advice<'_> {
    Advice {
        file,
        ordinal: claim.ordinal,
        payment_reference: &claim.payment_reference,
        settled_at: claim.settled_at,
    }
}

async fn plan(
    conn: &mut PgConnection,
    facility: &Facility,
    advice: Advice<'_>,
    claim: &Claim,
) -> Result<Plan, Error> {
    let (good, mut report) = sift(claim);
    let submitted = if good.is_empty() {
        None
    } else {
        find(conn, facility, claim).await?
    };
    let Some(record) = submitted else {
        good.iter()
            .for_each(|line| report.line(Fate::Parked, line.payment));
        return Ok(Plan {
            book: None,
            park: good,
            report,
        });
    };
    let activities: HashSet<&str> = record
        .details
        .activities
        .iter()
        .map(|activity| activity.id.as_str())
        .collect();
    let (book, park): (Vec<_>, Vec<_>) = good
        .into_iter()
        .partition(|line| activities.contains(line.activity_id.as_str()));
    park.iter()
        .for_each(|line| report.line(Fate::Parked, line.payment));
    if book.is_empty() {
        return Ok(Plan {
            book: None,
            park,
            report,
        });
    }
    let booking = Booking::plan(conn, &record, advice, book).await?;
    for (line, change) in booking.lines().iter().zip(&booking.changes) {
        report.line(Fate::Booked, line.payment);
        if change.excess > 0 {
            report.violation(&claim.id, &line.activity_id, &excess(change.excess));
        }
        if change.surplus > 0 {
            let net = booking.net_of(&line.activity_id);
            report.violation(&claim.id, &line.activity_id, &surplus(change.surplus, net));
        }
    }
    Ok(Plan {
        book: Some((record, booking)),
        park,
        report,
    })
}

/// Refuses the lines that break a rule; all of them when the claim does.
fn sift(claim: &Claim) -> (Vec<NewLine>, Report) {
    let mut report = Report::of_one_claim();
    let mut good = Vec::new();
    claim
        .faults
        .iter()
        .for_each(|fault| report.violation(&claim.id, "", fault));
    for (index, line) in claim.lines.iter().enumerate() {
        line.faults
            .iter()
            .for_each(|fault| report.violation(&claim.id, &line.activity_id, fault));
        match line.payment {
            Some(payment) if claim.faults.is_empty() && line.faults.is_empty() => good.push(NewLine {
                line: i32::try_from(index).unwrap_or(i32::MAX),
                activity_id: line.activity_id.clone(),
                payment,
                denial_code: line.denial_code.clone(),
            }),
            unread => report.line(Fate::Refused, unread.unwrap_or(0)),
        }
    }
    (good, report)
}

/// The claim that the file speaks of, locked, once the post office has taken it.
async fn find(conn: &mut PgConnection, facility: &Facility, claim: &Claim) -> Result<Option<Record>, Error> {
    let id = store::id_of_number(conn, facility.as_str(), &claim.provider_id, &claim.id).await?;
    let record = match id {
        Some(id) => store::lock(conn, id).await?,
        None => None,
    };
    Ok(record.filter(|record| record.submitted_at.is_some()))
}

/// The payer has paid more than it was asked for. The line is booked; what counts as paid is cut to the net.
fn surplus(minor: i64, net: i64) -> Fault {
    let money = |minor| Money::new(minor, Currency::AED);
    let paid = money(net.saturating_add(minor));
    let message = format!(
        "{paid} is paid on a net of {}; booked, and {} beyond the net does not count",
        money(net),
        money(minor)
    );
    Fault::new("PAID_ABOVE_NET", message)
}

/// The payer takes back more than it has paid so far. The line is booked, or its money would be lost sight of; what is
/// beyond the payments counts once they come.
fn excess(minor: i64) -> Fault {
    let message = format!(
        "{} more is taken back than was paid; booked, and counted up to what is paid",
        Money::new(minor, Currency::AED)
    );
    Fault::new("TAKEBACK_ABOVE_PAID", message)
}
