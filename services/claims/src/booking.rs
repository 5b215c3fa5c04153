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
    store::{
        self, Record,
        remittances::{Advice, NewLine, ParkedLine},
    },
    view,
};

/// Lines that are to be booked on a claim, seen against what is booked already.
#[derive(Debug)]
pub struct Booking {
    asked: Vec<balance::Asked>,
    booked: Vec<Line>,
    new: Vec<NewLine>,
    /// What each new line changes.
    pub changes: Vec<Change>,
}

impl Booking {
    /// Sees what `new` would change. The claim is locked.
    pub async fn plan(
        conn: &mut PgConnection,
        record: &Record,
        advice: Advice<'_>,
        new: Vec<NewLine>,
    ) -> Result<Booking, sqlx::Error> {
        let asked = view::asked(&record.details);
        let booked: Vec<Line> = store::remittances::lines(conn, &[record.id])
            .await?
            .iter()
            .map(Line::from)
            .collect();
        let changes = balance::changes(&asked, &booked, &lines(advice, &new));
        Ok(Booking {
            asked,
            booked,
            new,
            changes,
        })
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
        store::remittances::touch(conn, record.id, &record.id_payer, record.version).await?;
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

/// Books the lines that have waited for a claim which arrives now, one event for each file, the earliest settled
/// first. Answers the events to append.
pub async fn unpark(
    conn: &mut PgConnection,
    facility: &Facility,
    record: &mut Record,
) -> Result<Vec<Event>, Error> {
    let details = &record.details;
    let activities: Vec<String> = details
        .activities
        .iter()
        .map(|activity| activity.id.clone())
        .collect();
    let waited = store::remittances::unpark(
        conn,
        facility.as_str(),
        &details.provider_id,
        &details.claim_id,
        &activities,
    )
    .await?;
    let mut by_advice: BTreeMap<(time::OffsetDateTime, Uuid, i32), Vec<ParkedLine>> = BTreeMap::new();
    for line in waited {
        by_advice
            .entry((line.settled_at, line.file, line.ordinal))
            .or_default()
            .push(line);
    }
    let mut events = Vec::new();
    for ((settled_at, file, ordinal), mut waited) in by_advice {
        waited.sort_by_key(|line| line.line);
        let Some(first) = waited.first().cloned() else {
            continue;
        };
        let advice = Advice {
            file,
            ordinal,
            payment_reference: &first.payment_reference,
            settled_at,
        };
        record.id_payer.clone_from(&first.id_payer);
        let new = waited.into_iter().map(NewLine::from).collect();
        let booking = Booking::plan(conn, record, advice, new).await?;
        booking.tell_what_is_beyond(record);
        events.push(booking.write(conn, facility, record, advice).await?);
    }
    Ok(events)
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
