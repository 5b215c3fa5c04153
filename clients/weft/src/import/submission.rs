//! eClaimLink's Claim.Submission: read as a stream, one claim at a time.
//!
//! A file is read twice. [`scan`] checks the rules of the file as a whole, so that a file that breaks one leaves
//! nothing behind; [`claims`] reads the claims. A claim that cannot be read stops none of the others.

mod details;
mod element;

use std::{collections::HashSet, fs, io::BufReader, path::Path};

use anyhow::Context as _;
pub(crate) use details::Violation;
use element::{Element, Elements};
use money::{Currency, Money};
use proto::claims::v1::{ClaimDetails, Resubmission};

/// eClaimLink is in dirhams throughout.
pub(crate) const CURRENCY: Currency = Currency::AED;

/// At most so many claims in one file.
const MOST_CLAIMS: u64 = 500;

/// What a sound file says about itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Header {
    pub(crate) sender: String,
    pub(crate) receiver: String,
    /// The file is to be checked and not stored.
    pub(crate) test: bool,
}

/// One claim of the file.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Its place in the file, from 1.
    pub(crate) ordinal: u64,
    /// Claim.ID as it stands there; may be empty.
    pub(crate) id: String,
    /// Gross, as far as it can be read.
    pub(crate) gross: Money,
    pub(crate) reading: Result<Reading, Vec<Violation>>,
}

/// What a readable claim asks for.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) details: ClaimDetails,
    /// Set when the claim is filed again.
    pub(crate) resubmission: Option<Resubmission>,
}

/// Checks the file's own rules.
///
/// # Errors
/// Inside: every violated rule. Outside: the file cannot be opened.
pub(crate) fn scan(path: &Path) -> anyhow::Result<Result<Header, Vec<Violation>>> {
    let mut elements = open(path)?;
    let mut violations = Vec::new();
    let (mut header, mut count) = (None, 0);
    loop {
        match elements.next_below("Claim.Submission") {
            Ok(None) => break,
            Ok(Some(element)) if element.name == "Header" => header = Some(element),
            Ok(Some(element)) if element.name == "Claim" => count += 1,
            Ok(Some(_)) => {}
            // Nothing behind this place can be read.
            Err(violation) => return Ok(Err(vec![violation])),
        }
    }
    // Without a header every one of its fields is missing, and is named.
    let header = details::header(&header.unwrap_or_default(), count, &mut violations);
    if count > MOST_CLAIMS {
        let text = format!("a file has at most {MOST_CLAIMS} claims, this one has {count}");
        violations.push(Violation::new("TOO_MANY_CLAIMS", "Claim", text));
    }
    Ok(if violations.is_empty() {
        Ok(header)
    } else {
        Err(violations)
    })
}

/// Reads the claims, one after the other, each with the number of bytes read so far.
pub(crate) fn claims(path: &Path) -> anyhow::Result<impl Iterator<Item = (u64, Claim)>> {
    let mut elements = open(path)?;
    let mut seen = HashSet::new();
    let mut ordinal = 0;
    Ok(std::iter::from_fn(move || {
        loop {
            // The scan has been through the whole file; what fails now is no claim.
            let element = elements.next_below("Claim.Submission").ok().flatten()?;
            if element.name == "Claim" {
                ordinal += 1;
                return Some((elements.position(), claim(ordinal, &element, &mut seen)));
            }
        }
    }))
}

fn claim(ordinal: u64, element: &Element, seen: &mut HashSet<(String, String)>) -> Claim {
    let text = |name: &str| {
        element
            .child(name)
            .map(|child| child.text.clone())
            .unwrap_or_default()
    };
    let (id, provider) = (text("ID"), text("ProviderID"));
    let gross = Money::parse(&text("Gross"), CURRENCY).unwrap_or(Money::zero(CURRENCY));
    let mut reading = details::claim(element);
    // The set is bounded: the scan has counted the claims.
    if !seen.insert((provider.clone(), id.clone())) {
        let text = format!("{id} of {provider} is in the file already");
        let duplicate = Violation::new("DUPLICATE_CLAIM_ID", "ID", text);
        match &mut reading {
            Ok(_) => reading = Err(vec![duplicate]),
            Err(violations) => violations.push(duplicate),
        }
    }
    Claim {
        ordinal,
        id,
        gross,
        reading,
    }
}

fn open(path: &Path) -> anyhow::Result<Elements<BufReader<fs::File>>> {
    let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Elements::new(BufReader::new(file)))
}

#[cfg(test)]
#[path = "submission/tests.rs"]
mod tests;
