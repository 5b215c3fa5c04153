//! A remittance file, claim by claim, with every rule checked that the file alone can answer.

use std::{collections::HashSet, io::BufRead};

use eclaimlink::Kind;

use super::{Claim, Fault, Header, claim};
use crate::rules::{self, Violation};

/// A remittance being read.
pub struct File<R: BufRead> {
    file: eclaimlink::File<R>,
    id_payers: HashSet<String>,
}

/// A file that can be imported.
#[derive(Debug)]
pub struct Scanned {
    /// What it says of itself.
    pub header: Header,
    /// What was not read beside its claims.
    pub remarks: Vec<Fault>,
}

/// A file that cannot be imported.
#[derive(Debug)]
pub struct Refused {
    /// It says that it is a test.
    pub test: bool,
    /// What is wrong with it as a whole.
    pub faults: Vec<Violation>,
}

/// Reads a whole file to see whether it is one: well-formed, with a header, with as many claims as it says. Nothing of
/// a file that fails here may be booked. The number of claims is bounded by the file's size.
///
/// # Errors
/// [`Refused`] with every fault of the file as a whole.
pub fn scan<R: BufRead>(source: R) -> Result<Scanned, Refused> {
    match eclaimlink::scan(source, Kind::Remittance, u64::MAX) {
        Ok(scanned) => Ok(Scanned {
            header: scanned.header,
            remarks: scanned.remarks.into_iter().map(Fault::from).collect(),
        }),
        Err(refused) => Err(Refused {
            test: refused.test,
            faults: refused.faults.iter().map(violation).collect(),
        }),
    }
}

impl<R: BufRead> File<R> {
    /// Reads up to the end of the header.
    ///
    /// # Errors
    /// Every fault of the file's beginning.
    pub fn open(source: R) -> Result<File<R>, Vec<Violation>> {
        match eclaimlink::File::open(source, Kind::Remittance) {
            Ok(file) => Ok(File {
                file,
                id_payers: HashSet::new(),
            }),
            Err(refused) => Err(refused.faults.iter().map(violation).collect()),
        }
    }

    /// The next claim, its faults and its lines' found; none after the last.
    ///
    /// # Errors
    /// When the file is not well-formed from here on.
    pub fn next_claim(&mut self) -> Result<Option<Claim>, Violation> {
        let Some(read) = self.file.next_claim().map_err(|fault| violation(&fault))? else {
            return Ok(None);
        };
        let mut claim = claim::read(read, self.file.header());
        let first = claim.id_payer.is_empty() || self.id_payers.insert(claim.id_payer.clone());
        claim
            .faults
            .extend(rules::claim_faults(&claim, self.file.header(), first));
        for index in 0..claim.lines.len() {
            let faults = rules::line_faults(&claim.lines[index], claim.settled_at);
            claim.lines[index].faults.extend(faults);
        }
        Ok(Some(claim))
    }
}

/// The file as a whole is the request's field `file`.
fn violation(fault: &eclaimlink::Fault) -> Violation {
    let field = match fault.place.as_str() {
        "the file" => "file".to_owned(),
        place => format!("file.{place}"),
    };
    Violation::new(fault.rule, field, fault.text())
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
