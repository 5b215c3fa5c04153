//! Reads a file claim by claim.

use std::io::BufRead;

use crate::{
    fault::{self, Fault},
    header::{self, Disposition, Header},
    schema::{self, Findings, Kind, truncate},
    xml::{Element, Malformed, Reader},
};

/// A file that is being read.
pub struct File<R: BufRead> {
    reader: Reader<R>,
    kind: Kind,
    header: Header,
    claims: i32,
    remarks: Findings,
}

/// One claim of a file.
#[derive(Debug)]
pub struct Claim {
    /// Its index in the file, from 0.
    pub ordinal: i32,
    /// Its element; only the fields at its start if it exceeds a bound.
    pub element: Element,
    /// Whether the claim is within the bounds and its element is complete.
    pub whole: bool,
    /// Faults of its elements. It cannot be accepted if there are any.
    pub faults: Vec<Fault>,
    /// Content of the claim that was not read.
    pub remarks: Vec<Fault>,
}

/// A file that is refused as a whole.
#[derive(Debug)]
pub struct RefusedFile {
    /// Whether the file has the disposition TEST.
    pub test: bool,
    /// The faults of the file as a whole.
    pub faults: Vec<Fault>,
}

/// A file that is valid as a whole.
#[derive(Debug)]
pub struct FileSummary {
    /// The header.
    pub header: Header,
    /// Content outside of the claims that was not read.
    pub remarks: Vec<Fault>,
}

/// Reads a whole file and checks that it is well-formed and has a header and as many claims as the header says, at
/// most `max_claims`. Nothing of a file that fails may be accepted.
///
/// # Errors
/// [`RefusedFile`] with every fault of the file as a whole.
pub fn scan<R: BufRead>(source: R, kind: Kind, max_claims: u64) -> Result<FileSummary, RefusedFile> {
    let mut file = File::open(source, kind)?;
    let test = file.header.disposition == Disposition::Test;
    let refused = |faults| RefusedFile { test, faults };
    let mut claims = 0;
    while file.next_claim().map_err(|fault| refused(vec![fault]))?.is_some() {
        claims += 1;
    }
    let mut faults = Vec::new();
    if file.header.record_count != claims {
        let message = format!(
            "says {}, but the file has {claims} claims",
            file.header.record_count
        );
        faults.push(Fault::new("RECORD_COUNT_MISMATCH", "Header.RecordCount", message));
    }
    if claims > max_claims {
        let message = format!("has {claims} claims, at most {max_claims} are taken");
        faults.push(Fault::new("TOO_MANY_CLAIMS", "the file", message));
    }
    if !faults.is_empty() {
        return Err(refused(faults));
    }
    Ok(FileSummary {
        header: file.header,
        remarks: file.remarks.remarks,
    })
}

impl<R: BufRead> File<R> {
    /// Reads up to the end of the header.
    ///
    /// # Errors
    /// [`RefusedFile`] with every fault of the root element and the header.
    pub fn open(source: R, kind: Kind) -> Result<File<R>, RefusedFile> {
        let refused = |faults| RefusedFile { test: false, faults };
        let refused_for = |fault| refused(vec![fault]);
        let mut reader = Reader::new(source);
        let root = reader.root().map_err(|error| refused_for(malformed(&error)))?;
        if root != kind.root() {
            return Err(refused_for(wrong_root(&root, kind)));
        }
        let first = reader.child().map_err(|error| refused_for(malformed(&error)))?;
        let Some(first) = first.filter(|child| child.element.name == "Header") else {
            let message = "is missing: the file must begin with it";
            return Err(refused_for(Fault::new("FIELD_MISSING", "Header", message)));
        };
        if let Some(fault) = first.exceeded {
            return Err(refused_for(fault));
        }
        let mut findings = Findings::default();
        let header = header::decode(&first.element, &mut findings).map_err(|faults| RefusedFile {
            test: header::is_test(&first.element),
            faults,
        })?;
        Ok(File {
            reader,
            kind,
            header,
            claims: 0,
            remarks: findings,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of bytes of the file that were read.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// The next claim; `None` after the last.
    ///
    /// # Errors
    /// When the file cannot be read from here on.
    pub fn next_claim(&mut self) -> Result<Option<Claim>, Fault> {
        loop {
            let Some(child) = self.reader.child().map_err(|error| malformed(&error))? else {
                return Ok(None);
            };
            match child.element.name.as_str() {
                "Claim" => {}
                "Header" => {
                    let message = "comes more than once, one is allowed";
                    return Err(Fault::new("ELEMENT_REPEATED", "Header", message));
                }
                other => {
                    let message = "is not in the schema and was not read";
                    self.remarks.remark("UNKNOWN_ELEMENT", truncate(other), message);
                    continue;
                }
            }
            let mut findings = Findings::default();
            let whole = child.exceeded.is_none();
            match child.exceeded {
                Some(fault) => findings.faults.push(fault),
                None => schema::check(&child.element, self.kind.claim(), "Claim", &mut findings),
            }
            let ordinal = self.claims;
            self.claims += 1;
            return Ok(Some(Claim {
                ordinal,
                element: child.element,
                whole,
                faults: findings.faults,
                remarks: findings.remarks,
            }));
        }
    }
}

fn wrong_root(root: &str, kind: Kind) -> Fault {
    let command = match root {
        "Claim.Submission" => ": `weft order import` takes it",
        "Remittance.Advice" => ": `weft remittance import` takes it",
        _ => "",
    };
    let message = format!("is a {}, not a {}{command}", truncate(root), kind.root());
    Fault::new("WRONG_ROOT", "the file", message)
}

/// The message of the parser is truncated, because it may contain names of any length.
fn malformed(error: &Malformed) -> Fault {
    Fault::new("MALFORMED", "the file", fault::truncate(&error.to_string(), 300))
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
