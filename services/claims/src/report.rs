//! What became of every line of a file, added up claim by claim.

use std::sync::LazyLock;

use opentelemetry::{KeyValue, global, metrics::Counter};
use prost::Message;
use proto::claims::v1::{FileIngested, RemittanceReport, RemittanceViolation};

use crate::{matching::Hold, remittance::Fault, view};

/// The most violations that a report names; its counts and sums are always of the whole file.
const VIOLATIONS: usize = 10_000;
/// The most violations that are named of one claim. A few bytes of a file can break many rules, and the reports of all its
/// claims are kept: a report takes not much more than its claim.
const VIOLATIONS_OF_A_CLAIM: usize = 100;
/// The most bytes of the violations that a report names: with the remarks it stays below the 4 MiB that callers read.
const VIOLATION_BYTES: usize = 2 << 20;
/// The most remarks that a report has.
const REMARKS: usize = 1_000;

/// A report of some claims of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    of_one_claim: bool,
    claims: i32,
    booked: Part,
    parked: Part,
    held: Part,
    repeated: Part,
    refused: Part,
    /// What the booked lines say beside what they change, in fils.
    beyond: i64,
    violations: Vec<RemittanceViolation>,
    /// What the violations take, encoded.
    violation_bytes: usize,
    remarks: Vec<RemittanceViolation>,
    left_out: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    lines: i32,
    minor: i64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It counts.
    Booked,
    /// It waits for its claim.
    Parked,
    /// It is not the claim's payer's.
    Held,
    /// It came in an earlier file already.
    Repeated,
    /// It breaks a rule.
    Refused,
}

impl From<Hold> for Fate {
    fn from(hold: Hold) -> Fate {
        match hold {
            Hold::Early => Fate::Parked,
            Hold::ForeignSender => Fate::Held,
            Hold::Repeated => Fate::Repeated,
        }
    }
}

impl Report {
    /// Of a file, of which no claim is added yet.
    pub fn of_file(remarks: &[Fault]) -> Report {
        let mut report = Report::default();
        for remark in remarks {
            report.remark("", "", remark);
        }
        report
    }

    /// Of one claim, of which no line is counted yet.
    pub fn of_one_claim() -> Report {
        Report {
            of_one_claim: true,
            claims: 1,
            ..Report::default()
        }
    }

    /// Counts a line of `minor` fils; of a booked line, what it changes.
    pub fn line(&mut self, fate: Fate, minor: i64) {
        let part = match fate {
            Fate::Booked => &mut self.booked,
            Fate::Parked => &mut self.parked,
            Fate::Held => &mut self.held,
            Fate::Repeated => &mut self.repeated,
            Fate::Refused => &mut self.refused,
        };
        part.lines += 1;
        part.minor += minor;
    }

    /// Counts what a booked line says beside what it changes.
    pub fn beyond(&mut self, minor: i64) {
        self.beyond += minor;
    }

    /// Names what was not read, or is odd without harm. An empty `activity_id`: the claim's as a whole.
    pub fn remark(&mut self, claim_id: &str, activity_id: &str, fault: &Fault) {
        if self.remarks.len() < REMARKS {
            self.remarks.push(named(claim_id, activity_id, fault));
        }
    }

    /// Names a broken rule. An empty `activity_id`: the claim's as a whole.
    pub fn violation(&mut self, claim_id: &str, activity_id: &str, fault: &Fault) {
        self.name(named(claim_id, activity_id, fault));
    }

    /// Adds the report of other claims of the file.
    pub fn add(&mut self, other: Report) {
        self.claims += other.claims;
        for (part, more) in [
            (&mut self.booked, other.booked),
            (&mut self.parked, other.parked),
            (&mut self.held, other.held),
            (&mut self.repeated, other.repeated),
            (&mut self.refused, other.refused),
        ] {
            part.lines += more.lines;
            part.minor += more.minor;
        }
        self.beyond += other.beyond;
        let room = REMARKS.saturating_sub(self.remarks.len());
        self.remarks.extend(other.remarks.into_iter().take(room));
        self.left_out += other.left_out;
        for violation in other.violations {
            self.name(violation);
        }
    }

    /// Counts the lines in the service's metrics.
    pub fn meter(&self) {
        static LINES: LazyLock<Counter<u64>> = LazyLock::new(|| {
            global::meter("weft")
                .u64_counter("claims.remittance.lines")
                .with_description("Lines of remittance files, by what became of them.")
                .build()
        });
        for (fate, part) in [
            ("booked", self.booked),
            ("parked", self.parked),
            ("held", self.held),
            ("repeated", self.repeated),
            ("refused", self.refused),
        ] {
            if let Ok(lines @ 1..) = u64::try_from(part.lines) {
                LINES.add(lines, &[KeyValue::new("fate", fate)]);
            }
        }
    }

    /// As the contract shows it; `total` is the sum of the parts.
    pub fn into_wire(self, file_name: &str, digest: &str) -> RemittanceReport {
        let mut violations = self.violations;
        if self.left_out > 0 {
            let claim_id = violations.first().filter(|_| self.of_one_claim);
            violations.push(RemittanceViolation {
                claim_id: claim_id.map(|first| first.claim_id.clone()).unwrap_or_default(),
                rule: "TOO_MANY_VIOLATIONS".to_owned(),
                message: format!("{} more violations are not named", self.left_out),
                ..RemittanceViolation::default()
            });
        }
        let parts = [self.booked, self.parked, self.held, self.repeated, self.refused];
        let total = parts.iter().map(|part| part.minor).sum::<i64>() + self.beyond;
        RemittanceReport {
            file_name: file_name.to_owned(),
            digest: digest.to_owned(),
            duplicate: false,
            test: false,
            claim_count: self.claims,
            booked_lines: self.booked.lines,
            parked_lines: self.parked.lines,
            refused_lines: self.refused.lines,
            held_lines: self.held.lines,
            repeated_lines: self.repeated.lines,
            total: Some(view::aed(total)),
            above_net: Some(view::aed(self.beyond)),
            held: Some(view::aed(self.held.minor)),
            repeated: Some(view::aed(self.repeated.minor)),
            booked: Some(view::aed(self.booked.minor)),
            parked: Some(view::aed(self.parked.minor)),
            refused: Some(view::aed(self.refused.minor)),
            violations,
            remarks: self.remarks,
        }
    }

    /// The event of a file that has come to this.
    pub fn ingested(&self, file_name: &str, digest: &str) -> FileIngested {
        FileIngested {
            file_name: file_name.to_owned(),
            digest: digest.to_owned(),
            booked_lines: self.booked.lines,
            parked_lines: self.parked.lines,
            refused_lines: self.refused.lines,
            held_lines: self.held.lines,
            repeated_lines: self.repeated.lines,
        }
    }

    /// As it is kept for one claim.
    pub fn encode(&self) -> Vec<u8> {
        self.clone().into_wire("", "").encode_to_vec()
    }

    /// What [`Report::encode`] wrote.
    ///
    /// # Errors
    /// When it did not.
    pub fn decode(bytes: &[u8]) -> Result<Report, sqlx::Error> {
        use crate::store::unreadable;
        let wire = RemittanceReport::decode(bytes).map_err(unreadable)?;
        let minor = |sum: Option<proto::google::r#type::Money>| {
            let minor = sum.map_or(Ok(0), |sum| money::Money::try_from(&sum).map(money::Money::minor));
            minor.map_err(unreadable)
        };
        let part = |lines, sum| minor(sum).map(|minor| Part { lines, minor });
        Ok(Report {
            of_one_claim: true,
            claims: wire.claim_count,
            booked: part(wire.booked_lines, wire.booked)?,
            parked: part(wire.parked_lines, wire.parked)?,
            held: part(wire.held_lines, wire.held)?,
            repeated: part(wire.repeated_lines, wire.repeated)?,
            refused: part(wire.refused_lines, wire.refused)?,
            beyond: minor(wire.above_net)?,
            violation_bytes: wire.violations.iter().map(Message::encoded_len).sum(),
            violations: wire.violations,
            remarks: wire.remarks,
            left_out: 0,
        })
    }

    fn name(&mut self, violation: RemittanceViolation) {
        let most = match self.of_one_claim {
            true => VIOLATIONS_OF_A_CLAIM,
            false => VIOLATIONS,
        };
        let bytes = violation.encoded_len();
        if self.violations.len() < most && self.violation_bytes + bytes <= VIOLATION_BYTES {
            self.violation_bytes += bytes;
            self.violations.push(violation);
        } else {
            self.left_out += 1;
        }
    }
}

fn named(claim_id: &str, activity_id: &str, fault: &Fault) -> RemittanceViolation {
    RemittanceViolation {
        claim_id: claim_id.to_owned(),
        activity_id: activity_id.to_owned(),
        rule: fault.rule.to_owned(),
        message: fault.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_to_the_total_and_survive_being_kept() {
        let mut one = Report::of_one_claim();
        one.line(Fate::Booked, 15_000);
        one.line(Fate::Parked, -500);
        one.violation("C", "A", &Fault::new("PAYMENT_ABOVE_NET", "too much"));
        one.line(Fate::Refused, 250);
        one.line(Fate::Held, 1_000);
        one.line(Fate::Repeated, 2_000);
        one.beyond(-50);
        one.remark("C", "", &Fault::new("UNKNOWN_ELEMENT", "Claim.Foo was not read"));
        assert_eq!(Report::decode(&one.encode()).unwrap(), one);

        let mut file = Report::default();
        file.add(one.clone());
        file.add(one);
        let wire = file.into_wire("f.xml", "00");
        let lines = [
            wire.booked_lines,
            wire.parked_lines,
            wire.held_lines,
            wire.repeated_lines,
            wire.refused_lines,
        ];
        assert_eq!(lines, [2; 5]);
        assert_eq!((wire.claim_count, wire.total), (2, Some(view::aed(35_400))));
        assert_eq!(wire.above_net, Some(view::aed(-100)));
        assert_eq!((wire.violations.len(), wire.remarks.len()), (2, 2));
    }

    #[test]
    fn the_list_of_violations_is_bounded_and_says_so() {
        let mut report = Report::default();
        for _ in 0..VIOLATIONS + 3 {
            report.violation("C", "", &Fault::new("FIELD_MISSING", "x"));
        }
        let wire = report.into_wire("f.xml", "00");
        assert_eq!(wire.violations.len(), VIOLATIONS + 1);
        assert_eq!(
            wire.violations[VIOLATIONS].message,
            "3 more violations are not named"
        );
    }

    #[test]
    fn a_report_can_be_read_however_long_its_violations_are() {
        let mut report = Report::default();
        let long = Fault::new("REPEATED", "x".repeat(600));
        for _ in 0..VIOLATIONS {
            report.violation(&"C".repeat(100), &"A".repeat(30), &long);
            report.remark(&"C".repeat(100), &"A".repeat(30), &long);
        }
        let wire = report.into_wire("f.xml", "00");
        assert!(wire.encoded_len() < 4 << 20, "{} bytes", wire.encoded_len());
        let named = wire.violations.len() - 1;
        assert!(named > 1_000);
        assert_eq!(
            wire.violations[named].message,
            format!("{} more violations are not named", VIOLATIONS - named)
        );
    }

    #[test]
    fn one_claim_names_a_part_of_what_is_wrong_with_it_and_says_how_much_more_there_is() {
        let mut claim = Report::of_one_claim();
        for _ in 0..8_000 {
            claim.violation(
                &"C".repeat(100),
                "",
                &Fault::new("FIELD_MISSING", "Claim.Activity[999].PaymentAmount is missing"),
            );
            claim.line(Fate::Refused, 1);
        }
        let kept = claim.encode();
        // A claim whose activities are all empty has 12,000 bytes in its file.
        assert!(kept.len() < 24_000, "{} bytes", kept.len());
        let mut file = Report::default();
        file.add(Report::decode(&kept).unwrap());
        let wire = file.into_wire("f.xml", "00");
        assert_eq!((wire.refused_lines, wire.violations.len()), (8_000, 101));
        let rest = &wire.violations[100];
        assert_eq!(rest.message, "7900 more violations are not named");
        assert_eq!(rest.claim_id, "C".repeat(100));
    }
}
