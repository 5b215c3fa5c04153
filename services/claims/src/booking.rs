//! Books remittance lines on a claim and builds the event with the changes.

use std::collections::BTreeMap;

use chassis::Facility;
use events::Event;
use proto::claims::v1 as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    balance::{self, Balance, Change, Line},
    error::Error,
    events::to_event,
    grpc::{decode, encode},
    matching::{self, HoldReason},
    store::{
        self, Record,
        parked::{ClaimNumber, ParkedLine},
        remittances::{Advice, BookedLine, NewLine},
    },
};

/// Lines to be booked on a claim, compared with the lines that are booked already.
#[derive(Debug, Default)]
pub struct Booking {
    claimed: Vec<balance::ClaimedActivity>,
    booked: Vec<Line>,
    new: Vec<NewLine>,
    /// The change by each new line.
    pub changes: Vec<Change>,
}

impl Booking {
    /// Computes the changes by the lines in `new`. The caller has locked the claim; `booked` are its booked lines.
    pub fn new(record: &Record, booked: &[BookedLine], advice: Advice<'_>, new: Vec<NewLine>) -> Booking {
        let claimed = decode::claimed_activities(&record.details);
        let booked: Vec<Line> = booked.iter().map(Line::from).collect();
        let changes = balance::changes(&claimed, &booked, &lines(advice, &new));
        Booking {
            claimed,
            booked,
            new,
            changes,
        }
    }

    /// The new lines.
    pub fn lines(&self) -> &[NewLine] {
        &self.new
    }

    /// The claimed net of an activity, in minor units.
    pub fn claimed_net(&self, activity_id: &str) -> i64 {
        let activity = self
            .claimed
            .iter()
            .find(|activity| activity.activity_id == activity_id);
        activity.map_or(0, |activity| activity.net)
    }

    /// Books the lines. Returns the event to append.
    pub async fn execute(
        self,
        conn: &mut PgConnection,
        facility: &Facility,
        record: &mut Record,
        advice: Advice<'_>,
    ) -> Result<Event, sqlx::Error> {
        store::remittances::insert_lines(conn, facility.as_str(), record.id, advice, &self.new).await?;
        record.version += 1;
        store::remittances::update_claim(conn, record).await?;
        Ok(self.into_event(facility, record, advice))
    }

    /// Logs surplus and excess of lines that were parked. The report of their file was returned before they were
    /// booked.
    fn log_excess(&self, record: &Record) {
        for (line, change) in self.new.iter().zip(&self.changes) {
            for (rule, minor) in [
                ("PAID_ABOVE_NET", change.surplus),
                ("TAKEBACK_ABOVE_PAID", change.excess),
            ] {
                if minor > 0 {
                    tracing::warn!(
                        claim.id = %record.id, claim.activity_id = line.activity_id, remittance.rule = rule,
                        remittance.beyond_minor = minor, "a parked line was booked with a surplus or an excess"
                    );
                }
            }
        }
    }

    fn into_event(mut self, facility: &Facility, record: &Record, advice: Advice<'_>) -> Event {
        let takes_back = self.new.iter().any(|line| line.payment < 0);
        let pays = self.new.iter().any(|line| line.payment > 0);
        self.booked.extend(lines(advice, &self.new));
        let balance = Balance::new(&self.claimed, &self.booked);
        let booked = |(line, change): (NewLine, &Change)| wire::BookedLine {
            activity_id: line.activity_id,
            amount: Some(encode::aed(change.amount)),
            denial_code: line.denial_code,
            payment_reference: advice.payment_reference.to_owned(),
        };
        let remittance = Some(wire::ClaimRemittance {
            claim_id: record.id.to_string(),
            order_id: record.order_id.to_string(),
            payer_id: record.details.payer_id.clone(),
            lines: self.new.into_iter().zip(&self.changes).map(booked).collect(),
            net: record.details.net.clone(),
            net_paid: Some(encode::aed(balance.net_paid())),
            activities: encode::activities(&balance),
            financial_status: encode::status(balance.status).into(),
        });
        let (id, version) = (record.id, record.version);
        match (takes_back, pays) {
            (true, _) => to_event(facility, id, version, &wire::ClaimTakenBack { remittance }),
            (false, true) => to_event(facility, id, version, &wire::ClaimRemitted { remittance }),
            (false, false) => to_event(facility, id, version, &wire::ClaimDenied { remittance }),
        }
    }
}

/// Stores the payer's number and, for the first remittance that is booked, the sender in the claim's record.
pub fn set_payer(record: &mut Record, sender_id: &str, id_payer: &str) {
    record.id_payer = id_payer.to_owned();
    if record.remitter_id.is_empty() {
        record.remitter_id = sender_id.to_owned();
    }
}

/// Books the early lines that were parked for this claim or its activities, earliest settlement first, with one
/// event for each group of lines that were settled together. Lines of another sender, and repeated ones, are held for
/// the decision of a person; lines of an unknown activity stay parked. The caller has locked the claim number and the
/// claim. Returns the events to append.
pub async fn book_parked_lines(
    conn: &mut PgConnection,
    facility: &Facility,
    record: &mut Record,
) -> Result<Vec<Event>, Error> {
    let details = &record.details;
    let number = ClaimNumber {
        provider_id: &details.provider_id,
        claim_id: &details.claim_id,
    };
    let parked = store::parked::list_by_number(conn, facility.as_str(), number).await?;
    let mut by_advice: BTreeMap<(time::OffsetDateTime, Uuid, i32), Vec<ParkedLine>> = BTreeMap::new();
    let early = parked
        .into_iter()
        .filter(|line| line.reason == HoldReason::Early.as_str());
    for line in early {
        by_advice
            .entry((line.settled_at, line.file, line.ordinal))
            .or_default()
            .push(line);
    }
    let mut events = Vec::new();
    for (_, mut parked) in by_advice {
        parked.sort_by_key(|line| line.line);
        events.extend(book_parked_group(conn, facility, record, parked).await?);
    }
    Ok(events)
}

/// Books parked lines that one claim of a file has settled together.
async fn book_parked_group(
    conn: &mut PgConnection,
    facility: &Facility,
    record: &mut Record,
    parked: Vec<ParkedLine>,
) -> Result<Option<Event>, Error> {
    let Some(first) = parked.first().cloned() else {
        return Ok(None);
    };
    let advice = Advice::from(&first);
    let ids: BTreeMap<i32, i64> = parked.iter().map(|line| (line.line, line.id)).collect();
    let ids_of = |lines: &[NewLine]| -> Vec<i64> {
        let ids = lines.iter().filter_map(|line| ids.get(&line.line));
        ids.copied().collect()
    };
    let booked = store::remittances::list_lines(conn, &[record.id]).await?;
    let new = parked.into_iter().map(NewLine::from).collect();
    let matched = matching::match_to_claim(record, &booked, advice, new);
    for reason in [HoldReason::ForeignSender, HoldReason::Repeated] {
        let held = ids_of(&matched.held_lines(reason));
        if !held.is_empty() {
            store::parked::hold(conn, &held, reason.as_str()).await?;
        }
    }
    if matched.to_book.is_empty() {
        return Ok(None);
    }
    store::parked::delete(conn, &ids_of(&matched.to_book)).await?;
    set_payer(record, advice.sender_id, &first.id_payer);
    let booking = Booking::new(record, &booked, advice, matched.to_book);
    booking.log_excess(record);
    Ok(Some(booking.execute(conn, facility, record, advice).await?))
}

impl From<&BookedLine> for Line {
    fn from(line: &BookedLine) -> Line {
        Line {
            activity_id: line.activity_id.clone(),
            payment: line.payment,
            denial_code: line.denial_code.clone(),
            settled_at: line.settled_at,
        }
    }
}

impl<'a> From<&'a ParkedLine> for Advice<'a> {
    fn from(line: &'a ParkedLine) -> Advice<'a> {
        Advice {
            file: line.file,
            ordinal: line.ordinal,
            sender_id: &line.sender_id,
            payment_reference: &line.payment_reference,
            settled_at: line.settled_at,
        }
    }
}

impl From<ParkedLine> for NewLine {
    fn from(line: ParkedLine) -> NewLine {
        NewLine {
            line: line.line,
            activity_id: line.activity_id,
            payment: line.payment,
            denial_code: line.denial_code,
        }
    }
}

fn lines(advice: Advice<'_>, new: &[NewLine]) -> Vec<Line> {
    let line = |line: &NewLine| Line {
        activity_id: line.activity_id.clone(),
        payment: line.payment,
        denial_code: line.denial_code.clone(),
        settled_at: advice.settled_at,
    };
    new.iter().map(line).collect()
}
