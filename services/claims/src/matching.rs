//! Which lines of a remittance are booked on a claim, and which are held: lines of somebody who is not the claim's
//! payer, lines that came in an earlier file, and lines of an activity that the claim does not have.

use proto::claims::v1::ParkedReason;
use time::OffsetDateTime;

use crate::{
    remittance::Fault,
    store::{
        Record,
        parked::ParkedLine,
        remittances::{Advice, BookedLine, NewLine},
    },
};

/// Why a line is not booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Its claim has not been filed, or has no such activity: it is booked once it has.
    Early,
    /// It comes from somebody who is not the claim's payer.
    ForeignSender,
    /// It came in an earlier file already.
    Repeated,
}

impl Hold {
    /// Every reason.
    pub const ALL: [Hold; 3] = [Hold::Early, Hold::ForeignSender, Hold::Repeated];

    /// The name as the database spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Hold::Early => "EARLY",
            Hold::ForeignSender => "FOREIGN_SENDER",
            Hold::Repeated => "REPEATED",
        }
    }

    /// The contract's name.
    pub fn on_wire(self) -> ParkedReason {
        match self {
            Hold::Early => ParkedReason::Early,
            Hold::ForeignSender => ParkedReason::ForeignSender,
            Hold::Repeated => ParkedReason::Repeated,
        }
    }
}

/// A line that is not booked.
#[derive(Clone, Debug)]
pub struct Held {
    /// The line.
    pub line: NewLine,
    /// Why it is not booked.
    pub hold: Hold,
    /// The same in words; none for a line that is early.
    pub fault: Option<Fault>,
}

/// What is done with the lines of one claim in one file.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// To be booked.
    pub book: Vec<NewLine>,
    /// To be parked.
    pub held: Vec<Held>,
}

/// Matches lines with their claim. `booked`: what is booked on it.
pub fn with_claim(
    record: &Record,
    booked: &[BookedLine],
    advice: Advice<'_>,
    lines: Vec<NewLine>,
) -> Matched {
    let mut matched = Matched::default();
    let foreign = foreign_sender(record, advice.sender_id);
    for line in lines {
        let has_activity = (record.details.activities.iter()).any(|activity| activity.id == line.activity_id);
        let repeats = || {
            booked
                .iter()
                .find(|booked| is_repetition(&Past::from(*booked), advice, &line))
        };
        if let Some(fault) = &foreign {
            matched.hold(line, Hold::ForeignSender, Some(fault.clone()));
        } else if !has_activity {
            matched.hold(line, Hold::Early, None);
        } else if let Some(first) = repeats() {
            let fault = repeated(&first.file_name, advice.payment_reference);
            matched.hold(line, Hold::Repeated, Some(fault));
        } else {
            matched.book.push(line);
        }
    }
    matched
}

/// Holds lines whose claim has not been filed. `parked`: what waits for it already.
pub fn without_claim(parked: &[ParkedLine], advice: Advice<'_>, lines: Vec<NewLine>) -> Matched {
    let mut matched = Matched::default();
    for line in lines {
        let first = parked.iter().find(|parked| {
            parked.reason == Hold::Early.as_str() && is_repetition(&Past::from(*parked), advice, &line)
        });
        match first {
            Some(first) => {
                let fault = repeated(&first.file_name, advice.payment_reference);
                matched.hold(line, Hold::Repeated, Some(fault));
            }
            None => matched.hold(line, Hold::Early, None),
        }
    }
    matched
}

impl Matched {
    fn hold(&mut self, line: NewLine, hold: Hold, fault: Option<Fault>) {
        self.held.push(Held { line, hold, fault });
    }

    /// The lines that are held for this reason.
    pub fn held_for(&self, hold: Hold) -> Vec<NewLine> {
        let lines = self.held.iter().filter(|held| held.hold == hold);
        lines.map(|held| held.line.clone()).collect()
    }
}

/// Remittances come from the receiver of the submission or from the insurer itself. Where the receiver is not known, the
/// first sender is taken for it.
fn foreign_sender(record: &Record, sender_id: &str) -> Option<Fault> {
    let details = &record.details;
    let known = if details.receiver_id.is_empty() {
        &record.remitter_id
    } else {
        &details.receiver_id
    };
    // Lines of before senders were kept have none.
    if known.is_empty() || sender_id.is_empty() || sender_id == known || sender_id == details.payer_id {
        return None;
    }
    let message = format!(
        "the file is {sender_id}'s, the remittances of this claim are {known}'s, its payer is {}; held, not booked",
        details.payer_id
    );
    Some(Fault::new("FOREIGN_SENDER", message))
}

fn repeated(file_name: &str, payment_reference: &str) -> Fault {
    let message = format!(
        "is in the file {file_name} already, with the same payment reference {payment_reference:?}, settlement date and \
         amount; held, not booked again"
    );
    Fault::new("REPEATED", message)
}

/// What tells payments apart.
struct Past<'a> {
    place: (uuid::Uuid, i32),
    sender_id: &'a str,
    payment_reference: &'a str,
    settled_at: OffsetDateTime,
    activity_id: &'a str,
    payment: i64,
}

fn is_repetition(past: &Past<'_>, advice: Advice<'_>, line: &NewLine) -> bool {
    let same_sender =
        past.sender_id.is_empty() || advice.sender_id.is_empty() || past.sender_id == advice.sender_id;
    past.place != (advice.file, advice.ordinal)
        && same_sender
        && past.payment_reference == advice.payment_reference
        && past.settled_at == advice.settled_at
        && past.activity_id == line.activity_id
        && past.payment == line.payment
}

impl<'a> From<&'a BookedLine> for Past<'a> {
    fn from(line: &'a BookedLine) -> Past<'a> {
        Past {
            place: (line.file, line.ordinal),
            sender_id: &line.sender_id,
            payment_reference: &line.payment_reference,
            settled_at: line.settled_at,
            activity_id: &line.activity_id,
            payment: line.payment,
        }
    }
}

impl<'a> From<&'a ParkedLine> for Past<'a> {
    fn from(line: &'a ParkedLine) -> Past<'a> {
        Past {
            place: (line.file, line.ordinal),
            sender_id: &line.sender_id,
            payment_reference: &line.payment_reference,
            settled_at: line.settled_at,
            activity_id: &line.activity_id,
            payment: line.payment,
        }
    }
}
