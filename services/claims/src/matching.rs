//! Decides which lines of a remittance are booked on a claim and which are held: lines from a sender that is not
//! the claim's payer, lines that were in an earlier file, and lines of an activity that the claim does not have.

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
pub enum HoldReason {
    /// Its claim has not been submitted or has no such activity. The line is booked later, once it has.
    Early,
    /// Its sender is not the claim's payer.
    ForeignSender,
    /// It was in an earlier file.
    Repeated,
}

impl HoldReason {
    /// Every reason.
    pub const ALL: [HoldReason; 3] = [HoldReason::Early, HoldReason::ForeignSender, HoldReason::Repeated];

    /// The database's name of the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            HoldReason::Early => "EARLY",
            HoldReason::ForeignSender => "FOREIGN_SENDER",
            HoldReason::Repeated => "REPEATED",
        }
    }

    /// The protobuf enum value of the reason.
    pub fn encode(self) -> ParkedReason {
        match self {
            HoldReason::Early => ParkedReason::Early,
            HoldReason::ForeignSender => ParkedReason::ForeignSender,
            HoldReason::Repeated => ParkedReason::Repeated,
        }
    }
}

/// A line that is not booked.
#[derive(Clone, Debug)]
pub struct HeldLine {
    /// The line.
    pub line: NewLine,
    /// Why it is not booked.
    pub reason: HoldReason,
    /// A description of the reason; `None` for an early line.
    pub fault: Option<Fault>,
}

/// The lines of one claim of one file, by what is done with them.
#[derive(Clone, Debug, Default)]
pub struct MatchedLines {
    /// The lines to be booked.
    pub to_book: Vec<NewLine>,
    /// The lines that are not booked: early ones, which are parked, and those held for a decision.
    pub held: Vec<HeldLine>,
}

/// Matches lines to their claim. `booked` are the lines that are booked on it.
pub fn match_to_claim(
    record: &Record,
    booked: &[BookedLine],
    advice: Advice<'_>,
    lines: Vec<NewLine>,
) -> MatchedLines {
    let mut matched = MatchedLines::default();
    let foreign = foreign_sender_fault(record, advice.sender_id);
    for line in lines {
        let has_activity = (record.details.activities.iter()).any(|activity| activity.id == line.activity_id);
        let find_repeated = || {
            booked
                .iter()
                .find(|booked| is_repetition(&EarlierLine::from(*booked), advice, &line))
        };
        if let Some(fault) = &foreign {
            matched.hold(line, HoldReason::ForeignSender, Some(fault.clone()));
        } else if !has_activity {
            matched.hold(line, HoldReason::Early, None);
        } else if let Some(first) = find_repeated() {
            let fault = repeated_fault(&first.file_name, advice.payment_reference);
            matched.hold(line, HoldReason::Repeated, Some(fault));
        } else {
            matched.to_book.push(line);
        }
    }
    matched
}

/// Parks the lines of a claim that is not known or not submitted. `parked` are the lines that are parked for it already.
pub fn match_without_claim(parked: &[ParkedLine], advice: Advice<'_>, lines: Vec<NewLine>) -> MatchedLines {
    let mut matched = MatchedLines::default();
    for line in lines {
        let first = parked.iter().find(|parked| {
            parked.reason == HoldReason::Early.as_str()
                && is_repetition(&EarlierLine::from(*parked), advice, &line)
        });
        match first {
            Some(first) => {
                let fault = repeated_fault(&first.file_name, advice.payment_reference);
                matched.hold(line, HoldReason::Repeated, Some(fault));
            }
            None => matched.hold(line, HoldReason::Early, None),
        }
    }
    matched
}

impl MatchedLines {
    fn hold(&mut self, line: NewLine, reason: HoldReason, fault: Option<Fault>) {
        self.held.push(HeldLine { line, reason, fault });
    }

    /// The lines that are held for `reason`.
    pub fn held_lines(&self, reason: HoldReason) -> Vec<NewLine> {
        let lines = self.held.iter().filter(|held| held.reason == reason);
        lines.map(|held| held.line.clone()).collect()
    }
}

/// A fault if the sender is not the claim's payer. Remittances come from the receiver of the submission or from
/// the insurer itself. If the receiver is not known, the first sender counts as the receiver.
fn foreign_sender_fault(record: &Record, sender_id: &str) -> Option<Fault> {
    let details = &record.details;
    let known = if details.receiver_id.is_empty() {
        &record.remitter_id
    } else {
        &details.receiver_id
    };
    // Lines stored by a release that did not store senders have none.
    if known.is_empty() || sender_id.is_empty() || sender_id == known || sender_id == details.payer_id {
        return None;
    }
    let message = format!(
        "the sender of the file is {sender_id}, but this claim's remittances come from {known} or its payer {}; held, not booked",
        details.payer_id
    );
    Some(Fault::new("FOREIGN_SENDER", message))
}

fn repeated_fault(file_name: &str, payment_reference: &str) -> Fault {
    let message = format!(
        "the file {file_name} has the same line with the payment reference {payment_reference:?}, settlement date and \
         amount; held, not booked again"
    );
    Fault::new("REPEATED", message)
}

/// An earlier line, with the fields that identify a payment.
struct EarlierLine<'a> {
    /// The file and the index of the claim in it.
    position: (uuid::Uuid, i32),
    sender_id: &'a str,
    payment_reference: &'a str,
    settled_at: OffsetDateTime,
    activity_id: &'a str,
    payment: i64,
}

fn is_repetition(earlier: &EarlierLine<'_>, advice: Advice<'_>, line: &NewLine) -> bool {
    let same_sender =
        earlier.sender_id.is_empty() || advice.sender_id.is_empty() || earlier.sender_id == advice.sender_id;
    earlier.position != (advice.file, advice.ordinal)
        && same_sender
        && earlier.payment_reference == advice.payment_reference
        && earlier.settled_at == advice.settled_at
        && earlier.activity_id == line.activity_id
        && earlier.payment == line.payment
}

impl<'a> From<&'a BookedLine> for EarlierLine<'a> {
    fn from(line: &'a BookedLine) -> EarlierLine<'a> {
        EarlierLine {
            position: (line.file, line.ordinal),
            sender_id: &line.sender_id,
            payment_reference: &line.payment_reference,
            settled_at: line.settled_at,
            activity_id: &line.activity_id,
            payment: line.payment,
        }
    }
}

impl<'a> From<&'a ParkedLine> for EarlierLine<'a> {
    fn from(line: &'a ParkedLine) -> EarlierLine<'a> {
        EarlierLine {
            position: (line.file, line.ordinal),
            sender_id: &line.sender_id,
            payment_reference: &line.payment_reference,
            settled_at: line.settled_at,
            activity_id: &line.activity_id,
            payment: line.payment,
        }
    }
}
