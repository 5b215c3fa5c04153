//! Remittance lines are booked on a claim, and the event says what that changes.

use std::collections::BTreeMap;

use chassis::Facility;
use events::Event;
use proto::claims::v1 as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    announce::event,
    balance::{self, Balance, Change, Line},
    error::Error,
    matching::{self, Hold},
    store::{
        self, Record,
        parked::{Number, ParkedLine},
        remittances::{Advice, BookedLine, NewLine},
    },
    view,
};

/// Lines that are to be booked on a claim, seen against what is booked already.
#[derive(Debug, Default)]
pub struct Booking {
    asked: Vec<balance::Asked>,
    booked: Vec<Line>,
    new: Vec<NewLine>,
    /// What each new line changes.
    pub changes: Vec<Change>,
}

impl Booking {
    /// Sees what `new` would change. The claim is locked; `booked` is what is booked on it.
    pub fn plan(record: &Record, booked: &[BookedLine], advice: Advice<'_>, new: Vec<NewLine>) -> Booking {
        let asked = view::asked(&record.details);
        let booked: Vec<Line> = booked.iter().map(Line::from).collect();
        let changes = balance::changes(&asked, &booked, &lines(advice, &new));
        Booking {
            asked,
            booked,
            new,
            changes,
        }
    }

    /// The lines themselves.
    pub fn lines(&self) -> &[NewLine] {
        &self.new
    }

    /// What was asked for an activity, in minor units.
    pub fn net_of(&self, activity_id: &str) -> i64 {
        let asked = self.asked.iter().find(|asked| asked.activity_id == activity_id);
        asked.map_or(0, |asked| asked.net)
    }

    /// Books the lines. Answers the event to append.
    pub async fn write(
        self,
        conn: &mut PgConnection,
        facility: &Facility,
        record: &mut Record,
        advice: Advice<'_>,
    ) -> Result<Event, sqlx::Error> {
        store::remittances::book(conn, facility.as_str(), record.id, advice, &self.new).await?;
        record.version += 1;
        store::remittances::touch(conn, record).await?;
        Ok(self.event(facility, record, advice))
    }

    /// The report of a file whose lines have waited was given long ago: what it could not name is told here.
    fn tell_what_is_beyond(&self, record: &Record) {
        for (line, change) in self.new.iter().zip(&self.changes) {
            for (rule, minor) in [
                ("PAID_ABOVE_NET", change.surplus),
                ("TAKEBACK_ABOVE_PAID", change.excess),
            ] {
                if minor > 0 {
                    tracing::warn!(
                        claim.id = %record.id, claim.activity_id = line.activity_id, remittance.rule = rule,
                        remittance.beyond_minor = minor, "a line that waited for its claim goes beyond it"
                    );
                }
            }
        }
    }

    fn event(mut self, facility: &Facility, record: &Record, advice: Advice<'_>) -> Event {
        let takes_back = self.new.iter().any(|line| line.payment < 0);
        let pays = self.new.iter().any(|line| line.payment > 0);
        self.booked.extend(lines(advice, &self.new));
        let balance = Balance::of(&self.asked, &self.booked);
        let booked = |(line, change): (NewLine, &Change)| wire::BookedLine {
            activity_id: line.activity_id,
            amount: Some(view::aed(change.amount)),
            denial_code: line.denial_code,
            payment_reference: advice.payment_reference.to_owned(),
        };
        let remittance = Some(wire::ClaimRemittance {
            claim_id: record.id.to_string(),
            order_id: record.order_id.to_string(),
            payer_id: record.details.payer_id.clone(),
            lines: self.new.into_iter().zip(&self.changes).map(booked).collect(),
            net: record.details.net.clone(),
            net_paid: Some(view::aed(balance.net_paid())),
            activities: view::activities(&balance),
            financial_status: view::status(balance.status).into(),
        });
        let (id, version) = (record.id, record.version);
        match (takes_back, pays) {
            (true, _) => event(facility, id, version, &wire::ClaimTakenBack { remittance }),
            (false, true) => event(facility, id, version, &wire::ClaimRemitted { remittance }),
            (false, false) => event(facility, id, version, &wire::ClaimDenied { remittance }),
        }
    }
}

/// The payer's number and who sends it are kept with the claim, from the first remittance that is booked on it.
pub fn name_payer(record: &mut Record, sender_id: &str, id_payer: &str) {
    record.id_payer = id_payer.to_owned();
    if record.remitter_id.is_empty() {
        record.remitter_id = sender_id.to_owned();
    }
}

/// Books the early lines that have waited for this claim or its activities, one event for each file, the earliest
/// settled first; those that are not to be booked go on waiting, for somebody's decision. The number and the claim are
/// locked. Answers the events to append.
pub async fn unpark(
    conn: &mut PgConnection,
    facility: &Facility,
    record: &mut Record,
) -> Result<Vec<Event>, Error> {
    let details = &record.details;
    let number = Number {
        provider_id: &details.provider_id,
        claim_id: &details.claim_id,
    };
    let waiting = store::parked::of_number(conn, facility.as_str(), number).await?;
    let mut by_advice: BTreeMap<(time::OffsetDateTime, Uuid, i32), Vec<ParkedLine>> = BTreeMap::new();
    let early = waiting
        .into_iter()
        .filter(|line| line.reason == Hold::Early.as_str());
    for line in early {
        by_advice
            .entry((line.settled_at, line.file, line.ordinal))
            .or_default()
            .push(line);
    }
    let mut events = Vec::new();
    for (_, mut waited) in by_advice {
        waited.sort_by_key(|line| line.line);
        events.extend(unpark_one(conn, facility, record, waited).await?);
    }
    Ok(events)
}

/// The lines of one claim in one file.
async fn unpark_one(
    conn: &mut PgConnection,
    facility: &Facility,
    record: &mut Record,
    waited: Vec<ParkedLine>,
) -> Result<Option<Event>, Error> {
    let Some(first) = waited.first().cloned() else {
        return Ok(None);
    };
    let advice = Advice::from(&first);
    let ids: BTreeMap<i32, i64> = waited.iter().map(|line| (line.line, line.id)).collect();
    let ids_of = |lines: &[NewLine]| -> Vec<i64> {
        let ids = lines.iter().filter_map(|line| ids.get(&line.line));
        ids.copied().collect()
    };
    let booked = store::remittances::lines(conn, &[record.id]).await?;
    let new = waited.into_iter().map(NewLine::from).collect();
    let matched = matching::with_claim(record, &booked, advice, new);
    for hold in [Hold::ForeignSender, Hold::Repeated] {
        let held = ids_of(&matched.held_for(hold));
        if !held.is_empty() {
            store::parked::hold(conn, &held, hold.as_str()).await?;
        }
    }
    if matched.book.is_empty() {
        return Ok(None);
    }
    store::parked::take(conn, &ids_of(&matched.book)).await?;
    name_payer(record, advice.sender_id, &first.id_payer);
    let booking = Booking::plan(record, &booked, advice, matched.book);
    booking.tell_what_is_beyond(record);
    Ok(Some(booking.write(conn, facility, record, advice).await?))
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
