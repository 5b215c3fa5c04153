//! The report of an import: the outcome of every line and of every amount.

use std::{fmt, time::Duration};

use money::{Currency, Money};
use serde_json::{Value, json};

use crate::{duration, output::Table};

/// Accounts for a file. Two sums are kept, one over what was read and one over the outcomes; the balance equation
/// compares them.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) file: String,
    pub(crate) kind: &'static str,
    currency: Currency,
    read: Tally,
    tallies: [Tally; Outcome::COUNT],
    remarks: Vec<Remark>,
    /// Lines that cannot be parsed as records.
    pub(crate) unreadable_lines: u64,
    /// Lines whose amount cannot be parsed, including unreadable ones. No sum contains them.
    pub(crate) lines_without_amount: u64,
    /// Remarks about the file outside its documents.
    pub(crate) remarks_on_file: Vec<String>,
    /// The file is marked as a test, so nothing of it was stored.
    pub(crate) test: bool,
    /// Why the import stopped before the end of the file.
    pub(crate) stopped: Option<String>,
    pub(crate) took: Duration,
}

/// The outcome of a part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Accepted now.
    New,
    /// Existed already, with the same content.
    Unchanged,
    /// Refunded now.
    Refunded,
    /// Refunded by an earlier import.
    RefundUnchanged,
    /// Not accepted.
    Refused,
    /// A cancellation without a matching order.
    Unmatched,
    /// The outcome is unknown; it has to be imported again.
    Undecided,
}

impl Outcome {
    const COUNT: usize = 7;
    const ALL: [(Outcome, &'static str); Outcome::COUNT] = [
        (Outcome::New, "new"),
        (Outcome::Unchanged, "unchanged"),
        (Outcome::Refunded, "refunded"),
        (Outcome::RefundUnchanged, "refunded before"),
        (Outcome::Refused, "refused"),
        (Outcome::Unmatched, "unmatched"),
        (Outcome::Undecided, "undecided"),
    ];
}

/// A part of the file with one outcome: an order, or one line of a cancellation.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The invoice or claim.
    pub(crate) document: String,
    /// The first line in the file.
    pub(crate) line: u64,
    /// How many lines.
    pub(crate) lines: u64,
    /// Signed as in the file: a cancellation is negative.
    pub(crate) amount: Money,
    pub(crate) outcome: Outcome,
    /// A code in UPPER_SNAKE with a description; empty if there is nothing to report.
    pub(crate) reason: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// For outcomes: orders, and single lines of cancellations and refusals. For what was read: invoices or
    /// claims.
    entries: u64,
    lines: u64,
    minor: i128,
}

/// An entry with a reason, which the report lists.
#[derive(Debug)]
struct Remark {
    entry: Entry,
}

impl Report {
    pub(crate) fn new(file: String, kind: &'static str, currency: Currency) -> Report {
        Report {
            file,
            kind,
            currency,
            read: Tally::default(),
            tallies: Default::default(),
            remarks: Vec::new(),
            unreadable_lines: 0,
            lines_without_amount: 0,
            remarks_on_file: Vec::new(),
            test: false,
            stopped: None,
            took: Duration::ZERO,
        }
    }

    /// Adds a document that was read: its lines and their sum in the file.
    pub(crate) fn count(&mut self, lines: u64, total: Money) {
        self.read.add(lines, total);
    }

    pub(crate) fn record(&mut self, entry: Entry) {
        self.tallies[entry.outcome as usize].add(entry.lines, entry.amount);
        if !entry.reason.is_empty() {
            self.remarks.push(Remark { entry });
        }
    }

    /// Sorts the remarks by line and sets the duration.
    pub(crate) fn finish(&mut self, took: Duration) {
        self.took = took;
        self.remarks.sort_by_key(|remark| remark.entry.line);
    }

    /// Whether file total = accepted - refunded + refused + undecided exactly, and every line has an outcome.
    pub(crate) fn balances(&self) -> bool {
        let minor: i128 = self.tallies.iter().map(|tally| tally.minor).sum();
        let lines: u64 = self.tallies.iter().map(|tally| tally.lines).sum();
        minor == self.read.minor && lines == self.read.lines
    }

    /// Whether the import reached the end of the file, parsed every line, knows every outcome, and balances.
    pub(crate) fn is_clean(&self) -> bool {
        let is_whole = self.stopped.is_none() && self.unreadable_lines == 0;
        is_whole && self.tally(Outcome::Undecided).lines == 0 && self.balances()
    }

    /// The number of orders and resubmissions accepted now.
    pub(crate) fn new_entries(&self) -> u64 {
        self.tally(Outcome::New).entries
    }

    pub(crate) fn to_json(&self) -> Value {
        let tally = |tally: &Tally| json!({"entries": tally.entries, "lines": tally.lines, "money": self.format_money(tally.minor)});
        let read = json!({"documents": self.read.entries, "lines": self.read.lines, "money": self.format_money(self.read.minor),
            "unreadableLines": self.unreadable_lines,
            "linesWithoutAmount": self.lines_without_amount});
        let remarks: Vec<Value> = self.remarks.iter().map(|remark| remark.to_json()).collect();
        json!({
            "file": self.file,
            "kind": self.kind,
            "currency": self.currency.code(),
            "read": read,
            "new": tally(&self.tally(Outcome::New)),
            "unchanged": tally(&self.tally(Outcome::Unchanged)),
            "refunded": tally(&self.tally(Outcome::Refunded)),
            "refundedBefore": tally(&self.tally(Outcome::RefundUnchanged)),
            "refused": tally(&self.tally(Outcome::Refused)),
            "unmatched": tally(&self.tally(Outcome::Unmatched)),
            "undecided": tally(&self.tally(Outcome::Undecided)),
            "equation": self.equation().to_json(self),
            "balanced": self.balances(),
            "test": self.test,
            "stopped": self.stopped,
            "durationMs": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "remarks": remarks,
            "remarksOnFile": self.remarks_on_file,
        })
    }

    fn tally(&self, outcome: Outcome) -> Tally {
        self.tallies[outcome as usize]
    }

    fn equation(&self) -> Equation {
        let sum = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| self.tally(*outcome).minor).sum();
        Equation {
            total: self.read.minor,
            accepted: sum(&[Outcome::New, Outcome::Unchanged]),
            refunded: -sum(&[Outcome::Refunded, Outcome::RefundUnchanged]),
            refused: sum(&[Outcome::Refused, Outcome::Unmatched]),
            undecided: sum(&[Outcome::Undecided]),
        }
    }

    fn format_money(&self, minor: i128) -> String {
        match i64::try_from(minor) {
            Ok(minor) => Money::new(minor, self.currency).to_string(),
            Err(_) => format!("{minor} minor units"),
        }
    }
}

struct Equation {
    total: i128,
    accepted: i128,
    refunded: i128,
    refused: i128,
    undecided: i128,
}

impl Equation {
    fn to_json(&self, report: &Report) -> Value {
        json!({
            "fileTotal": report.format_money(self.total),
            "accepted": report.format_money(self.accepted),
            "refunded": report.format_money(self.refunded),
            "refused": report.format_money(self.refused),
            "undecided": report.format_money(self.undecided),
        })
    }
}

impl Tally {
    fn add(&mut self, lines: u64, amount: Money) {
        self.entries += 1;
        self.lines += lines;
        self.minor += i128::from(amount.minor());
    }
}

impl Remark {
    fn to_json(&self) -> Value {
        let entry = &self.entry;
        let (_, name) = Outcome::ALL[entry.outcome as usize];
        json!({
            "line": entry.line,
            "lines": entry.lines,
            "document": entry.document,
            "amount": entry.amount.to_string(),
            "outcome": name,
            "reason": entry.reason,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for remark in &self.remarks {
            let Entry {
                document,
                line,
                amount,
                outcome,
                reason,
                ..
            } = &remark.entry;
            let (_, name) = Outcome::ALL[*outcome as usize];
            writeln!(
                f,
                "  line {line:<6} {document:<10} {amount:>10}  {name}: {reason}"
            )?;
        }
        for remark in &self.remarks_on_file {
            writeln!(f, "  {remark}")?;
        }
        writeln!(
            f,
            "{} ({}), in {}",
            self.file,
            self.kind,
            duration::format_rounded(self.took)
        )?;
        let mut table = Table::new(["", ">ENTRIES", ">LINES", ">MONEY"], "");
        for (outcome, name) in Outcome::ALL {
            let tally = self.tally(outcome);
            if tally.entries > 0 {
                let money = self.format_money(tally.minor);
                table.row([
                    name.to_owned(),
                    tally.entries.to_string(),
                    tally.lines.to_string(),
                    money,
                ]);
            }
        }
        let read = [
            self.read.entries.to_string(),
            self.read.lines.to_string(),
            self.format_money(self.read.minor),
        ];
        let [documents, lines, money] = read;
        table.row(["in the file".to_owned(), documents, lines, money]);
        write!(f, "{table}")?;
        let equation = self.equation();
        let sign = if self.balances() { "=" } else { "IS NOT" };
        let undecided = match self.tally(Outcome::Undecided).entries {
            0 => String::new(),
            _ => format!(" + undecided {}", self.format_money(equation.undecided)),
        };
        writeln!(
            f,
            "file total {} {sign} accepted {} - refunded {} + refused {}{undecided}  {}",
            self.format_money(equation.total),
            self.format_money(equation.accepted),
            self.format_money(equation.refunded),
            self.format_money(equation.refused),
            self.currency,
        )?;
        if self.lines_without_amount > 0 {
            writeln!(
                f,
                "no sum holds the {} refused lines whose amount cannot be read: the file's own total is another",
                self.lines_without_amount
            )?;
        }
        if self.test {
            writeln!(f, "the file says TEST: it was checked and nothing was kept")?;
        }
        match &self.stopped {
            Some(why) => writeln!(
                f,
                "stopped before the end: {why}\nnext: the same command goes on from there"
            ),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "report/tests.rs"]
mod tests;
