//! A file, claim by claim.

use std::io::BufRead;

use crate::{
    fault::{self, Fault},
    header::{self, Disposition, Header},
    schema::{self, Findings, Kind, cut},
    xml::{Element, Malformed, Reader},
};

/// A file being read.
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
    /// Its place in the file, from 0.
    pub ordinal: i32,
    /// What it says; no more than the fields at its beginning if it is not whole.
    pub element: Element,
    /// False for a claim beyond a bound.
    pub whole: bool,
    /// Why it cannot be taken, as far as its elements say.
    pub faults: Vec<Fault>,
    /// What was not read of it.
    pub remarks: Vec<Fault>,
}

/// A file that cannot be taken as a whole.
#[derive(Debug)]
pub struct Refused {
    /// It says that it is a test.
    pub test: bool,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// A file that can be taken.
#[derive(Debug)]
pub struct Scanned {
    /// What it says of itself.
    pub header: Header,
    /// What was not read beside its claims.
    pub remarks: Vec<Fault>,
}

/// Reads a whole file to see whether it is one: well-formed, with a header, with as many claims as it says, at most
/// `most_claims`. Nothing of a file that fails here may be taken.
///
/// # Errors
/// [`Refused`] with every fault of the file as a whole.
pub fn scan<R: BufRead>(source: R, kind: Kind, most_claims: u64) -> Result<Scanned, Refused> {
    let mut file = File::open(source, kind)?;
    let test = file.header.disposition == Disposition::Test;
    let refused = |faults| Refused { test, faults };
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
    if claims > most_claims {
        let message = format!("has {claims} claims, at most {most_claims} are taken");
        faults.push(Fault::new("TOO_MANY_CLAIMS", "the file", message));
    }
    if !faults.is_empty() {
        return Err(refused(faults));
    }
    Ok(Scanned {
        header: file.header,
        remarks: file.remarks.remarks,
    })
}

impl<R: BufRead> File<R> {
    /// Reads up to the end of the header.
    ///
    /// # Errors
    /// [`Refused`] with every fault of the file's beginning.
    pub fn open(source: R, kind: Kind) -> Result<File<R>, Refused> {
        let refused = |faults| Refused { test: false, faults };
        let one = |fault| refused(vec![fault]);
        let mut reader = Reader::new(source);
        let root = reader.root().map_err(|error| one(malformed(&error)))?;
        if root != kind.root() {
            return Err(one(wrong_root(&root, kind)));
        }
        let first = reader.child().map_err(|error| one(malformed(&error)))?;
        let Some(first) = first.filter(|child| child.element.name == "Header") else {
            let message = "is missing: the file must begin with it";
            return Err(one(Fault::new("FIELD_MISSING", "Header", message)));
        };
        if let Some(beyond) = first.beyond {
            return Err(one(beyond));
        }
        let mut findings = Findings::default();
        let header = header::read(&first.element, &mut findings).map_err(|faults| Refused {
            test: header::says_test(&first.element),
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

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many bytes of the file were read.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// The next claim; none after the last.
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
                    self.remarks.remark("UNKNOWN_ELEMENT", cut(other), message);
                    continue;
                }
            }
            let mut findings = Findings::default();
            let whole = child.beyond.is_none();
            match child.beyond {
                Some(beyond) => findings.faults.push(beyond),
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
    let message = format!("is a {}, not a {}{command}", cut(root), kind.root());
    Fault::new("WRONG_ROOT", "the file", message)
}

/// The parser's words repeat names of the file, however long they are.
fn malformed(error: &Malformed) -> Fault {
    Fault::new("MALFORMED", "the file", fault::cut(&error.to_string(), 300))
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
