//! The report of an import: the outcome of every line, added up claim by claim.

use std::sync::LazyLock;

use opentelemetry::{KeyValue, global, metrics::Counter};
use prost::Message;
use proto::claims::v1::{FileIngested, RemittanceReport, RemittanceViolation};

use crate::{grpc::encode, matching::HoldReason, remittance::Fault};

/// The largest number of violations in a report. Its counts and sums always cover the whole file.
const MAX_VIOLATIONS: usize = 10_000;
/// The largest number of violations in the report of one claim. A few bytes of a file can break many rules, and
/// the reports of all claims are stored, so the size of a report must stay close to that of its claim.
const MAX_VIOLATIONS_PER_CLAIM: usize = 100;
/// The largest total size of the violations in a report. With the remarks, the report stays below 4 MiB, the limit
/// of callers.
const MAX_VIOLATION_BYTES: usize = 2 << 20;
/// The largest number of remarks in a report.
const MAX_REMARKS: usize = 1_000;

/// A report of some claims of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    is_single_claim: bool,
    claims: i32,
    booked: Totals,
    parked: Totals,
    held: Totals,
    repeated: Totals,
    refused: Totals,
    /// The part of the booked payments that does not change the balance, in fils.
    above_net: i64,
    violations: Vec<RemittanceViolation>,
    /// The encoded size of the violations.
    violation_bytes: usize,
    remarks: Vec<RemittanceViolation>,
    omitted: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    lines: i32,
    minor: i64,
}

/// The outcome of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineOutcome {
    /// It is booked.
    Booked,
    /// It is parked until its claim is submitted.
    Parked,
    /// It is held because its sender is not the claim's payer.
    Held,
    /// It is held because it was in an earlier file.
    Repeated,
    /// It is refused because it breaks a rule.
    Refused,
}

impl From<HoldReason> for LineOutcome {
    fn from(reason: HoldReason) -> LineOutcome {
        match reason {
            HoldReason::Early => LineOutcome::Parked,
            HoldReason::ForeignSender => LineOutcome::Held,
            HoldReason::Repeated => LineOutcome::Repeated,
        }
    }
}

impl Report {
    /// A report of a file without any claims yet.
    pub fn for_file(remarks: &[Fault]) -> Report {
        let mut report = Report::default();
        for remark in remarks {
            report.add_remark("", "", remark);
        }
        report
    }

    /// A report of one claim without any lines yet.
    pub fn for_claim() -> Report {
        Report {
            is_single_claim: true,
            claims: 1,
            ..Report::default()
        }
    }

    /// Counts a line. `minor` is its payment in fils; for a booked line, the change of the balance.
    pub fn add_line(&mut self, outcome: LineOutcome, minor: i64) {
        let totals = match outcome {
            LineOutcome::Booked => &mut self.booked,
            LineOutcome::Parked => &mut self.parked,
            LineOutcome::Held => &mut self.held,
            LineOutcome::Repeated => &mut self.repeated,
            LineOutcome::Refused => &mut self.refused,
        };
        totals.lines += 1;
        totals.minor += minor;
    }

    /// Adds the part of a booked payment that does not change the balance, in fils.
    pub fn add_above_net(&mut self, minor: i64) {
        self.above_net += minor;
    }

    /// Adds a remark about content that was not read or is unusual but harmless. An empty `activity_id` means the
    /// whole claim.
    pub fn add_remark(&mut self, claim_id: &str, activity_id: &str, fault: &Fault) {
        if self.remarks.len() < MAX_REMARKS {
            self.remarks.push(to_violation(claim_id, activity_id, fault));
        }
    }

    /// Adds a broken rule. An empty `activity_id` means the whole claim.
    pub fn add_violation(&mut self, claim_id: &str, activity_id: &str, fault: &Fault) {
        self.push_violation(to_violation(claim_id, activity_id, fault));
    }

    /// Merges the report of other claims of the file.
    pub fn merge(&mut self, other: Report) {
        self.claims += other.claims;
        for (totals, other) in [
            (&mut self.booked, other.booked),
            (&mut self.parked, other.parked),
            (&mut self.held, other.held),
            (&mut self.repeated, other.repeated),
            (&mut self.refused, other.refused),
        ] {
            totals.lines += other.lines;
            totals.minor += other.minor;
        }
        self.above_net += other.above_net;
        let free = MAX_REMARKS.saturating_sub(self.remarks.len());
        self.remarks.extend(other.remarks.into_iter().take(free));
        self.omitted += other.omitted;
        for violation in other.violations {
            self.push_violation(violation);
        }
    }

    /// Counts the lines in the service's metrics.
    pub fn record_metrics(&self) {
        static LINES: LazyLock<Counter<u64>> = LazyLock::new(|| {
            global::meter("weft")
                .u64_counter("claims.remittance.lines")
                .with_description("Lines of remittance files, by what became of them.")
                .build()
        });
        for (outcome, totals) in [
            ("booked", self.booked),
            ("parked", self.parked),
            ("held", self.held),
            ("repeated", self.repeated),
            ("refused", self.refused),
        ] {
            if let Ok(lines @ 1..) = u64::try_from(totals.lines) {
                LINES.add(lines, &[KeyValue::new("fate", outcome)]);
            }
        }
    }

    /// Encodes the report. `total` is the sum of all amounts.
    pub fn into_proto(self, file_name: &str, digest: &str) -> RemittanceReport {
        let mut violations = self.violations;
        if self.omitted > 0 {
            let claim_id = violations.first().filter(|_| self.is_single_claim);
            violations.push(RemittanceViolation {
                claim_id: claim_id.map(|first| first.claim_id.clone()).unwrap_or_default(),
                rule: "TOO_MANY_VIOLATIONS".to_owned(),
                message: format!("{} more violations are not named", self.omitted),
                ..RemittanceViolation::default()
            });
        }
        let all = [self.booked, self.parked, self.held, self.repeated, self.refused];
        let total = all.iter().map(|totals| totals.minor).sum::<i64>() + self.above_net;
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
            total: Some(encode::aed(total)),
            above_net: Some(encode::aed(self.above_net)),
            held: Some(encode::aed(self.held.minor)),
            repeated: Some(encode::aed(self.repeated.minor)),
            booked: Some(encode::aed(self.booked.minor)),
            parked: Some(encode::aed(self.parked.minor)),
            refused: Some(encode::aed(self.refused.minor)),
            violations,
            remarks: self.remarks,
        }
    }

    /// The event of a file with this report.
    pub fn ingested_event(&self, file_name: &str, digest: &str) -> FileIngested {
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

    /// Encodes the report of one claim as it is stored.
    pub fn encode(&self) -> Vec<u8> {
        self.clone().into_proto("", "").encode_to_vec()
    }

    /// Decodes a report that [`Report::encode`] encoded.
    ///
    /// # Errors
    /// When the bytes are not such a report.
    pub fn decode(bytes: &[u8]) -> Result<Report, sqlx::Error> {
        use crate::store::unreadable;
        let wire = RemittanceReport::decode(bytes).map_err(unreadable)?;
        let minor = |sum: Option<proto::google::r#type::Money>| {
            let minor = sum.map_or(Ok(0), |sum| money::Money::try_from(&sum).map(money::Money::minor));
            minor.map_err(unreadable)
        };
        let totals = |lines, sum| minor(sum).map(|minor| Totals { lines, minor });
        Ok(Report {
            is_single_claim: true,
            claims: wire.claim_count,
            booked: totals(wire.booked_lines, wire.booked)?,
            parked: totals(wire.parked_lines, wire.parked)?,
            held: totals(wire.held_lines, wire.held)?,
            repeated: totals(wire.repeated_lines, wire.repeated)?,
            refused: totals(wire.refused_lines, wire.refused)?,
            above_net: minor(wire.above_net)?,
            violation_bytes: wire.violations.iter().map(Message::encoded_len).sum(),
            violations: wire.violations,
            remarks: wire.remarks,
            omitted: 0,
        })
    }

    fn push_violation(&mut self, violation: RemittanceViolation) {
        let limit = if self.is_single_claim {
            MAX_VIOLATIONS_PER_CLAIM
        } else {
            MAX_VIOLATIONS
        };
        let bytes = violation.encoded_len();
        if self.violations.len() < limit && self.violation_bytes + bytes <= MAX_VIOLATION_BYTES {
            self.violation_bytes += bytes;
            self.violations.push(violation);
        } else {
            self.omitted += 1;
        }
    }
}

fn to_violation(claim_id: &str, activity_id: &str, fault: &Fault) -> RemittanceViolation {
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
    fn the_amounts_add_up_to_the_total_and_survive_encoding() {
        let mut one = Report::for_claim();
        one.add_line(LineOutcome::Booked, 15_000);
        one.add_line(LineOutcome::Parked, -500);
        one.add_violation("C", "A", &Fault::new("PAYMENT_ABOVE_NET", "too much"));
        one.add_line(LineOutcome::Refused, 250);
        one.add_line(LineOutcome::Held, 1_000);
        one.add_line(LineOutcome::Repeated, 2_000);
        one.add_above_net(-50);
        one.add_remark("C", "", &Fault::new("UNKNOWN_ELEMENT", "Claim.Foo was not read"));
        assert_eq!(Report::decode(&one.encode()).unwrap(), one);

        let mut file = Report::default();
        file.merge(one.clone());
        file.merge(one);
        let wire = file.into_proto("f.xml", "00");
        let lines = [
            wire.booked_lines,
            wire.parked_lines,
            wire.held_lines,
            wire.repeated_lines,
            wire.refused_lines,
        ];
        assert_eq!(lines, [2; 5]);
        assert_eq!((wire.claim_count, wire.total), (2, Some(encode::aed(35_400))));
        assert_eq!(wire.above_net, Some(encode::aed(-100)));
        assert_eq!((wire.violations.len(), wire.remarks.len()), (2, 2));
    }

    #[test]
    fn the_list_of_violations_is_bounded_and_reports_the_omitted_ones() {
        let mut report = Report::default();
        for _ in 0..MAX_VIOLATIONS + 3 {
            report.add_violation("C", "", &Fault::new("FIELD_MISSING", "x"));
        }
        let wire = report.into_proto("f.xml", "00");
        assert_eq!(wire.violations.len(), MAX_VIOLATIONS + 1);
        assert_eq!(
            wire.violations[MAX_VIOLATIONS].message,
            "3 more violations are not named"
        );
    }

    #[test]
    fn a_report_with_long_violations_stays_below_the_message_size_limit() {
        let mut report = Report::default();
        let long = Fault::new("REPEATED", "x".repeat(600));
        for _ in 0..MAX_VIOLATIONS {
            report.add_violation(&"C".repeat(100), &"A".repeat(30), &long);
            report.add_remark(&"C".repeat(100), &"A".repeat(30), &long);
        }
        let wire = report.into_proto("f.xml", "00");
        assert!(wire.encoded_len() < 4 << 20, "{} bytes", wire.encoded_len());
        let named = wire.violations.len() - 1;
        assert!(named > 1_000);
        assert_eq!(
            wire.violations[named].message,
            format!("{} more violations are not named", MAX_VIOLATIONS - named)
        );
    }

    #[test]
    fn the_report_of_a_claim_has_bounded_violations_and_the_number_of_omitted_ones() {
        let mut claim = Report::for_claim();
        for _ in 0..8_000 {
            claim.add_violation(
                &"C".repeat(100),
                "",
                &Fault::new("FIELD_MISSING", "Claim.Activity[999].PaymentAmount is missing"),
            );
            claim.add_line(LineOutcome::Refused, 1);
        }
        let encoded = claim.encode();
        // A claim with only empty activities takes 12,000 bytes in its file.
        assert!(encoded.len() < 24_000, "{} bytes", encoded.len());
        let mut file = Report::default();
        file.merge(Report::decode(&encoded).unwrap());
        let wire = file.into_proto("f.xml", "00");
        assert_eq!((wire.refused_lines, wire.violations.len()), (8_000, 101));
        let rest = &wire.violations[100];
        assert_eq!(rest.message, "7900 more violations are not named");
        assert_eq!(rest.claim_id, "C".repeat(100));
    }
}
