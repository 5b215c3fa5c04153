//! eClaimLink's Claim.Submission: read as a stream, one claim at a time.
//!
//! A file is read twice. [`scan`] checks the rules of the file as a whole, so that a file that breaks one leaves
//! nothing behind; [`claims`] reads the claims. A claim that cannot be read stops none of the others.

mod details;

use std::{collections::HashSet, fs, io::BufReader, path::Path};

use anyhow::{Context as _, anyhow};
use eclaimlink::{Disposition, Fault, Fields, File, Kind};
use money::{Currency, Money};
use proto::claims::v1::{ClaimDetails, Resubmission};

/// eClaimLink is in dirhams throughout.
pub(crate) const CURRENCY: Currency = Currency::AED;

/// At most so many claims in one file.
const MAX_CLAIMS: u64 = 500;

/// What a sound file says about itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Header {
    /// The file is to be checked and not stored.
    pub(crate) test: bool,
    /// What was not read beside its claims.
    pub(crate) remarks: Vec<Fault>,
}

/// One claim of the file.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Its place in the file, from 1.
    pub(crate) ordinal: u64,
    /// Claim.ID as it stands there; may be empty.
    pub(crate) id: String,
    /// Gross, if it can be read.
    pub(crate) gross: Option<Money>,
    pub(crate) parsed: Result<ParsedClaim, Vec<Fault>>,
    /// What was not read of it.
    pub(crate) remarks: Vec<Fault>,
}

/// What a readable claim asks for.
#[derive(Clone, Debug)]
pub(crate) struct ParsedClaim {
    pub(crate) details: ClaimDetails,
    /// Set when the claim is filed again.
    pub(crate) resubmission: Option<Resubmission>,
}

/// Checks the file's own rules.
///
/// # Errors
/// Inside: every violated rule. Outside: the file cannot be opened.
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

/// Reads the claims, one after the other, each with the number of bytes read so far. The scan has been through the whole
/// file: an error says that the file has changed since, or cannot be read any more, and is the last item.
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
