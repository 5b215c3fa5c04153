//! Reads a remittance file claim by claim and checks the rules that need no other data than the file.

use std::{collections::HashSet, io::BufRead};

use eclaimlink::Kind;

use super::{Claim, Fault, Header, claim};
use crate::rules::{self, Violation};

/// A remittance file that is being read.
pub struct File<R: BufRead> {
    file: eclaimlink::File<R>,
    id_payers: HashSet<String>,
}

/// A file that can be imported.
#[derive(Debug)]
pub struct FileSummary {
    /// The header.
    pub header: Header,
    /// Content outside of the claims that was not read.
    pub remarks: Vec<Fault>,
}

/// A file that cannot be imported.
#[derive(Debug)]
pub struct RefusedFile {
    /// Whether the file has the disposition TEST.
    pub test: bool,
    /// The faults of the file as a whole.
    pub faults: Vec<Violation>,
}

/// Reads a whole file and checks that it is well-formed and has a header and as many claims as the header says.
/// Nothing of a file that fails may be booked. The number of claims is bounded only by the file's size.
///
/// # Errors
/// [`RefusedFile`] with every fault of the file as a whole.
pub fn scan<R: BufRead>(source: R) -> Result<FileSummary, RefusedFile> {
    match eclaimlink::scan(source, Kind::Remittance, u64::MAX) {
        Ok(scanned) => Ok(FileSummary {
            header: scanned.header,
            remarks: scanned.remarks.into_iter().map(Fault::from).collect(),
        }),
        Err(refused) => Err(RefusedFile {
            test: refused.test,
            faults: refused.faults.iter().map(violation).collect(),
        }),
    }
}

impl<R: BufRead> File<R> {
    /// Reads up to the end of the header.
    ///
    /// # Errors
    /// Every fault of the root element and the header.
    pub fn open(source: R) -> Result<File<R>, Vec<Violation>> {
        match eclaimlink::File::open(source, Kind::Remittance) {
            Ok(file) => Ok(File {
                file,
                id_payers: HashSet::new(),
            }),
            Err(refused) => Err(refused.faults.iter().map(violation).collect()),
        }
    }

    /// The next claim, with its faults and those of its lines; `None` after the last.
    ///
    /// # Errors
    /// When the file is not well-formed from here on.
    pub fn next_claim(&mut self) -> Result<Option<Claim>, Violation> {
        let Some(read) = self.file.next_claim().map_err(|fault| violation(&fault))? else {
            return Ok(None);
        };
        let mut claim = claim::decode(read, self.file.header());
        let is_first = claim.id_payer.is_empty() || self.id_payers.insert(claim.id_payer.clone());
        claim
            .faults
            .extend(rules::claim_faults(&claim, self.file.header(), is_first));
        for index in 0..claim.lines.len() {
            let faults = rules::line_faults(&claim.lines[index], claim.settled_at);
            claim.lines[index].faults.extend(faults);
        }
        Ok(Some(claim))
    }
}

/// Maps a fault to a violation of the request's field `file`.
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
