//! Reads an eClaimLink Claim.Submission as a stream, one claim at a time.
//!
//! A file is read twice. [`scan`] checks the rules of the whole file, so that a file that violates one is not
//! imported in part; [`claims`] reads the claims. A claim that cannot be parsed does not affect the others.

mod details;

use std::{collections::HashSet, fs, io::BufReader, path::Path};

use anyhow::{Context as _, anyhow};
use eclaimlink::{Disposition, Fault, Fields, File, Kind};
use money::{Currency, Money};
use proto::claims::v1::{ClaimDetails, Resubmission};

/// All amounts of eClaimLink are in dirhams.
pub(crate) const CURRENCY: Currency = Currency::AED;

/// The most claims in one file.
const MAX_CLAIMS: u64 = 500;

/// The header of a valid file.
#[derive(Debug, PartialEq)]
pub(crate) struct Header {
    /// The file is a test: it is checked and not stored.
    pub(crate) test: bool,
    /// Content outside the claims that was ignored.
    pub(crate) remarks: Vec<Fault>,
}

/// One claim of the file.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Its position in the file, from 1.
    pub(crate) ordinal: u64,
    /// Claim.ID as in the file; may be empty.
    pub(crate) id: String,
    /// Gross, if it can be parsed.
    pub(crate) gross: Option<Money>,
    pub(crate) parsed: Result<ParsedClaim, Vec<Fault>>,
    /// Content of the claim that was ignored.
    pub(crate) remarks: Vec<Fault>,
}

/// The content of a valid claim.
#[derive(Clone, Debug)]
pub(crate) struct ParsedClaim {
    pub(crate) details: ClaimDetails,
    /// Set if the claim is a resubmission.
    pub(crate) resubmission: Option<Resubmission>,
}

/// Checks the rules of the whole file.
///
/// # Errors
/// The inner result has every violated rule. The outer one fails if the file cannot be opened.
pub(crate) fn scan(path: &Path) -> anyhow::Result<Result<Header, Vec<Fault>>> {
    let scanned = eclaimlink::scan(open(path)?, Kind::Submission, MAX_CLAIMS);
    Ok(match scanned {
        Ok(scanned) => Ok(Header {
            test: scanned.header.disposition == Disposition::Test,
            remarks: scanned.remarks,
        }),
        Err(refused) => Err(refused.faults),
    })
}

/// Reads the claims one after the other, each with the number of bytes read so far. Since [`scan`] has read the
/// whole file, an error means that it has changed or become unreadable; the error is the last item.
pub(crate) fn claims(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<(u64, Claim)>>> {
    let failed = |faults: Vec<Fault>| {
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        anyhow!("{}: {}", super::truncated_message(path), faults.join("; "))
    };
    let mut file = File::open(open(path)?, Kind::Submission).map_err(|refused| failed(refused.faults))?;
    let mut seen = HashSet::new();
    let mut ended = false;
    let path = path.to_owned();
    Ok(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let read = match file.next_claim() {
            Ok(read) => read?,
            Err(fault) => {
                ended = true;
                return Some(Err(anyhow!("{}: {fault}", super::truncated_message(&path))));
            }
        };
        let claim = claim(read, &file.header().receiver_id, &mut seen);
        Some(Ok((file.position(), claim)))
    }))
}

fn claim(read: eclaimlink::Claim, receiver_id: &str, seen: &mut HashSet<(String, String)>) -> Claim {
    let text = |name: &str| Fields::new(&read.element, "Claim").optional_lines(name, usize::MAX);
    let shown = |text: &str| -> String { text.chars().take(100).collect() };
    let (id, provider) = (text("ID"), text("ProviderID"));
    let mut parsed = details::read(&read, receiver_id);
    let gross = details::gross(&read.element);
    // The set is bounded: the scan has counted the claims.
    if !seen.insert((provider.clone(), id.clone())) {
        let text = format!("{} of {} is in the file already", shown(&id), shown(&provider));
        let duplicate = Fault::new("DUPLICATE_CLAIM_ID", "Claim.ID", text);
        match &mut parsed {
            Ok(_) => parsed = Err(vec![duplicate]),
            Err(faults) => faults.push(duplicate),
        }
    }
    Claim {
        ordinal: u64::from(read.ordinal.unsigned_abs()) + 1,
        id: shown(&id),
        gross,
        parsed,
        remarks: read.remarks,
    }
}

fn open(path: &Path) -> anyhow::Result<BufReader<fs::File>> {
    let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(BufReader::new(file))
}

#[cfg(test)]
#[path = "submission/tests.rs"]
mod tests;
