//! Books one claim of a remittance file in its own transaction, so that an invalid claim does not stop the others.

use chassis::{Facility, postgres::Fault as DatabaseFault};
use money::{Currency, Money};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    booking::{self, Booking},
    error::Error,
    import_report::{LineOutcome, Report},
    matching::{self, HoldReason, MatchedLines},
    remittance::{Claim, Fault},
    store::{
        self, Record,
        parked::ClaimNumber,
        remittances::{Advice, NewLine},
    },
};

/// Books the lines that can be booked, parks the others and stores the claim's report. A claim that another import
/// of the same file has processed is not changed. A claim that can never be booked is refused in its report.
///
/// # Errors
/// A transient failure: the claim is to be booked again later.
pub async fn execute(app: &App, facility: &Facility, file: Uuid, claim: Claim) -> Result<(), Error> {
    match try_book(app, facility, file, &claim).await {
        Err(error) => match permanent_fault(&error) {
            Some(fault) => refuse(app, facility, file, &claim, &fault).await,
            None => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

/// Why the claim can never be booked; `None` for a transient error.
fn permanent_fault(error: &Error) -> Option<Fault> {
    match error {
        Error::Events(events::Error::TooLarge { size, limit, .. }) => {
            let message =
                format!("the event with its changes has {size} bytes, at most {limit} can be published");
            Some(Fault::new("CLAIM_TOO_LARGE", message))
        }
        Error::Database(error) | Error::Events(events::Error::Database(error))
            if DatabaseFault::classify(error) == DatabaseFault::Refused =>
        {
            tracing::error!(error.message = %error, "the database refuses a claim of a remittance");
            Some(Fault::new(
                "CLAIM_UNSTORABLE",
                "cannot be stored; see the service's log",
            ))
        }
        _ => None,
    }
}

async fn refuse(
    app: &App,
    facility: &Facility,
    file: Uuid,
    claim: &Claim,
    fault: &Fault,
) -> Result<(), Error> {
    let mut report = Report::for_claim();
    report.add_violation(&claim.id, "", fault);
    for line in &claim.lines {
        report.add_line(LineOutcome::Refused, line.payment.unwrap_or(0));
    }
    let mut tx = app.database.begin(facility).await?;
    let encoded = report.encode();
    store::remittances::insert_claim_report(&mut tx, facility.as_str(), file, claim.ordinal, &encoded)
        .await?;
    tx.commit().await?;
    Ok(())
}

async fn try_book(app: &App, facility: &Facility, file: Uuid, claim: &Claim) -> Result<(), Error> {
    let mut tx = app.database.begin(facility).await?;
    let advice = advice(file, claim);
    let mut plan = plan(&mut tx, facility, advice, claim).await?;
    let report = plan.report.encode();
    if !store::remittances::insert_claim_report(&mut tx, facility.as_str(), file, claim.ordinal, &report)
        .await?
    {
        tx.rollback().await?;
        return Ok(());
    }
    for reason in HoldReason::ALL {
        let lines = plan.matched.held_lines(reason);
        if !lines.is_empty() {
            let held = (reason.as_str(), &lines[..]);
            store::parked::insert(
                &mut tx,
                facility.as_str(),
                number(claim),
                &claim.id_payer,
                advice,
                held,
            )
            .await?;
        }
    }
    if let Some((record, booking)) = &mut plan.booking {
        booking::set_payer(record, advice.sender_id, &claim.id_payer);
        let booking = std::mem::take(booking);
        let event = booking.execute(&mut tx, facility, record, advice).await?;
        plan.events.push(event);
    }
    events::append(&mut tx, &plan.events).await?;
    tx.commit().await?;
    plan.report.record_metrics();
    app.outbox.wake();
    Ok(())
}

/// The report that [`execute`] would store. Writes nothing.
pub async fn dry_run(app: &App, facility: &Facility, claim: Claim) -> Result<Report, Error> {
    let mut tx = app.database.begin(facility).await?;
    let plan = plan(&mut tx, facility, advice(Uuid::nil(), &claim), &claim).await?;
    tx.rollback().await?;
    Ok(plan.report)
}

struct Plan {
    matched: MatchedLines,
    booking: Option<(Record, Booking)>,
    /// The events of early lines that are booked in the same transaction.
    events: Vec<events::Event>,
    report: Report,
}

fn advice(file: Uuid, claim: &Claim) -> Advice<'_> {
    Advice {
        file,
        ordinal: claim.ordinal,
        sender_id: &claim.sender_id,
        payment_reference: &claim.payment_reference,
        settled_at: claim.settled_at,
    }
}

fn number(claim: &Claim) -> ClaimNumber<'_> {
    ClaimNumber {
        provider_id: &claim.provider_id,
        claim_id: &claim.id,
    }
}

async fn plan(
    conn: &mut PgConnection,
    facility: &Facility,
    advice: Advice<'_>,
    claim: &Claim,
) -> Result<Plan, Error> {
    let (valid, mut report) = validate(claim);
    let mut plan = Plan {
        matched: MatchedLines::default(),
        booking: None,
        events: Vec::new(),
        report: Report::default(),
    };
    if valid.is_empty() {
        plan.report = report;
        return Ok(plan);
    }
    store::parked::lock_numbers(conn, &[(facility, number(claim))]).await?;
    let Some(mut record) = find(conn, facility, claim).await? else {
        let parked = store::parked::list_by_number(conn, facility.as_str(), number(claim)).await?;
        plan.matched = matching::match_without_claim(&parked, advice, valid);
        report_held(claim, &plan.matched, &mut report);
        plan.report = report;
        return Ok(plan);
    };
    plan.events = booking::book_parked_lines(conn, facility, &mut record).await?;
    let booked = store::remittances::list_lines(conn, &[record.id]).await?;
    plan.matched = matching::match_to_claim(&record, &booked, advice, valid);
    report_held(claim, &plan.matched, &mut report);
    if !plan.matched.to_book.is_empty() {
        let booking = Booking::new(&record, &booked, advice, plan.matched.to_book.clone());
        report_booked(claim, &record, &booking, &mut report);
        plan.booking = Some((record, booking));
    }
    plan.report = report;
    Ok(plan)
}

/// Refuses the whole claim if it or one of its lines breaks a rule. A claim is booked completely or not at all, so
/// that a corrected file finds none of its lines booked.
fn validate(claim: &Claim) -> (Vec<NewLine>, Report) {
    let mut report = Report::for_claim();
    for remark in &claim.remarks {
        report.add_remark(&claim.id, "", remark);
    }
    for fault in &claim.faults {
        report.add_violation(&claim.id, "", fault);
    }
    let mut valid = Vec::new();
    for (index, line) in claim.lines.iter().enumerate() {
        for fault in &line.faults {
            report.add_violation(&claim.id, &line.activity_id, fault);
        }
        if let Some(payment) = line.payment {
            valid.push(NewLine {
                line: i32::try_from(index).unwrap_or(i32::MAX),
                activity_id: line.activity_id.clone(),
                payment,
                denial_code: line.denial_code.clone(),
            });
        }
    }
    if claim.faults.is_empty() && claim.lines.iter().all(|line| line.faults.is_empty()) {
        return (valid, report);
    }
    for line in &claim.lines {
        report.add_line(LineOutcome::Refused, line.payment.unwrap_or(0));
    }
    (Vec::new(), report)
}

/// Finds and locks the claim that the file refers to. `None` until the post office has received it.
async fn find(conn: &mut PgConnection, facility: &Facility, claim: &Claim) -> Result<Option<Record>, Error> {
    let id = store::find_id(conn, facility.as_str(), &claim.provider_id, &claim.id).await?;
    let record = match id {
        Some(id) => store::lock(conn, id).await?,
        None => None,
    };
    Ok(record.filter(|record| record.submitted_at.is_some()))
}

fn report_held(claim: &Claim, matched: &MatchedLines, report: &mut Report) {
    let mut sender_reported = false;
    for held in &matched.held {
        report.add_line(LineOutcome::from(held.reason), held.line.payment);
        match (&held.fault, held.reason) {
            (None, _) => {}
            // The sender is the same for all lines of the claim, so it is reported once.
            (Some(_), HoldReason::ForeignSender) if sender_reported => {}
            (Some(fault), HoldReason::ForeignSender) => {
                sender_reported = true;
                report.add_violation(&claim.id, "", fault);
            }
            (Some(fault), _) => report.add_violation(&claim.id, &held.line.activity_id, fault),
        }
    }
}

fn report_booked(claim: &Claim, record: &Record, booking: &Booking, report: &mut Report) {
    if !record.id_payer.is_empty() && record.id_payer != claim.id_payer {
        let message = format!(
            "the payer's number of the claim changed from {} to {}",
            record.id_payer, claim.id_payer
        );
        report.add_remark(&claim.id, "", &Fault::new("ID_PAYER_CHANGED", message));
    }
    for (line, change) in booking.lines().iter().zip(&booking.changes) {
        report.add_line(LineOutcome::Booked, change.amount);
        report.add_above_net(line.payment - change.amount);
        let net = booking.claimed_net(&line.activity_id);
        let reported = usize::try_from(line.line)
            .ok()
            .and_then(|index| claim.lines.get(index)?.net);
        if let Some(reported) = reported.filter(|reported| *reported != net) {
            report.add_violation(&claim.id, &line.activity_id, &net_differs(reported, net));
        }
        if change.excess > 0 {
            report.add_violation(&claim.id, &line.activity_id, &excess(change.excess));
        }
        if change.surplus > 0 {
            report.add_violation(&claim.id, &line.activity_id, &surplus(change.surplus, net));
        }
    }
}

fn money(minor: i64) -> Money {
    Money::new(minor, Currency::AED)
}

/// The payer reports another net than was claimed. The line is booked; the claimed net bounds what counts as paid.
fn net_differs(reported: i64, net: i64) -> Fault {
    let message = format!(
        "the payer reports a net of {}, but {} was claimed; booked, and the claimed net counts",
        money(reported),
        money(net)
    );
    Fault::new("NET_DIFFERS", message)
}

/// The payer has paid more than was claimed. The line is booked; the net bounds what counts as paid.
fn surplus(minor: i64, net: i64) -> Fault {
    let message = format!(
        "{} is paid on a net of {}; booked, and {} beyond the net does not count",
        money(net.saturating_add(minor)),
        money(net),
        money(minor)
    );
    Fault::new("PAID_ABOVE_NET", message)
}

/// The payer takes back more than it has paid so far. The line is booked, so that its amount is not lost; the
/// excess counts once the payments arrive.
fn excess(minor: i64) -> Fault {
    let message = format!(
        "{} more is taken back than was paid; booked, and counted up to the amount paid",
        money(minor)
    );
    Fault::new("TAKEBACK_ABOVE_PAID", message)
}
