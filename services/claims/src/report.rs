//! What became of every line of a file, added up claim by claim.

use prost::Message;
use proto::claims::v1::{RemittanceReport, RemittanceViolation};

use crate::{remittance::Fault, view};

/// The most violations that a report names; its counts and sums are always of the whole file.
const VIOLATIONS: usize = 10_000;

/// A report of some claims of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    claims: i32,
    booked: Part,
    parked: Part,
    refused: Part,
    violations: Vec<RemittanceViolation>,
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
    /// It breaks a rule.
    Refused,
}

impl Report {
    /// Of one claim, of which no line is counted yet.
    pub fn of_one_claim() -> Report {
        Report {
            claims: 1,
            ..Report::default()
        }
    }

    /// Counts a line of `minor` fils.
    pub fn line(&mut self, fate: Fate, minor: i64) {
        let part = match fate {
            Fate::Booked => &mut self.booked,
            Fate::Parked => &mut self.parked,
            Fate::Refused => &mut self.refused,
        };
        part.lines += 1;
        part.minor += minor;
    }

    /// Names a broken rule. An empty `activity_id`: the claim's as a whole.
    pub fn violation(&mut self, claim_id: &str, activity_id: &str, fault: &Fault) {
        self.name(RemittanceViolation {
            claim_id: claim_id.to_owned(),
            activity_id: activity_id.to_owned(),
            rule: fault.rule.to_owned(),
            message: fault.message.clone(),
        });
    }

    /// Adds the report of other claims of the file.
    pub fn add(&mut self, other: Report) {
        self.claims += other.claims;
        for (part, more) in [
            (&mut self.booked, other.booked),
            (&mut self.parked, other.parked),
            (&mut self.refused, other.refused),
        ] {
            part.lines += more.lines;
            part.minor += more.minor;
        }
        self.left_out += other.left_out;
        for violation in other.violations {
            self.name(violation);
        }
    }

    /// How many lines were booked, parked and refused.
    pub fn counts(&self) -> (i32, i32, i32) {
        (self.booked.lines, self.parked.lines, self.refused.lines)
    }

    /// As the contract shows it; `total` is the sum of the parts.
    pub fn into_wire(self, file_name: &str, digest: &str) -> RemittanceReport {
        let mut violations = self.violations;
        if self.left_out > 0 {
            violations.push(RemittanceViolation {
                rule: "TOO_MANY_VIOLATIONS".to_owned(),
                message: format!("{} more violations are not named", self.left_out),
                ..RemittanceViolation::default()
            });
        }
        RemittanceReport {
            file_name: file_name.to_owned(),
            digest: digest.to_owned(),
            duplicate: false,
            test: false,
            claim_count: self.claims,
            booked_lines: self.booked.lines,
            parked_lines: self.parked.lines,
            refused_lines: self.refused.lines,
            total: Some(view::aed(
                self.booked.minor + self.parked.minor + self.refused.minor,
            )),
            booked: Some(view::aed(self.booked.minor)),
            parked: Some(view::aed(self.parked.minor)),
            refused: Some(view::aed(self.refused.minor)),
            violations,
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
        let part = |lines, sum: Option<proto::google::r#type::Money>| {
            let minor = sum.map_or(Ok(0), |sum| money::Money::try_from(&sum).map(money::Money::minor));
            minor.map(|minor| Part { lines, minor }).map_err(unreadable)
        };
        Ok(Report {
            claims: wire.claim_count,
            booked: part(wire.booked_lines, wire.booked)?,
            parked: part(wire.parked_lines, wire.parked)?,
            refused: part(wire.refused_lines, wire.refused)?,
            violations: wire.violations,
            left_out: 0,
        })
    }

    fn name(&mut self, violation: RemittanceViolation) {
        if self.violations.len() < VIOLATIONS {
            self.violations.push(violation);
        } else {
            self.left_out += 1;
        }
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
        assert_eq!(Report::decode(&one.encode()).unwrap(), one);

        let mut file = Report::default();
        file.add(one.clone());
        file.add(one);
        assert_eq!(file.counts(), (2, 2, 2));
        let wire = file.into_wire("f.xml", "00");
        assert_eq!((wire.claim_count, wire.total), (2, Some(view::aed(29_500))));
        assert_eq!(wire.violations.len(), 2);
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
}
