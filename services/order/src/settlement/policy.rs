//! What happens to an activity that the payer did not pay in full, by its denial code.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disposition {
    /// Billed to the patient.
    Patient,
    /// The claim is corrected and resubmitted.
    Resubmit,
    /// Written off.
    WriteOff,
    /// A person decides.
    Review,
}

/// The dispositions by the longest matching prefix of the denial code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DenialPolicy {
    /// By payer licence (`*`: all payers), then by code or prefix of codes (`TIME`, `TIME-002`). They take
    /// precedence over the defaults: COPY, ELIG, NCOV, BENX to the patient; AUTH, CODE, CLAI, MNEC, TIME-002
    /// resubmitted; DUPL, TIME-001, PRCE written off; all others reviewed.
    pub payers: BTreeMap<String, BTreeMap<String, Disposition>>,
}

const DEFAULTS: [(&str, Disposition); 12] = [
    ("COPY", Disposition::Patient),
    ("ELIG", Disposition::Patient),
    ("NCOV", Disposition::Patient),
    ("BENX", Disposition::Patient),
    ("AUTH", Disposition::Resubmit),
    ("CODE", Disposition::Resubmit),
    ("CLAI", Disposition::Resubmit),
    ("MNEC", Disposition::Resubmit),
    ("TIME-002", Disposition::Resubmit),
    ("DUPL", Disposition::WriteOff),
    ("TIME-001", Disposition::WriteOff),
    ("PRCE", Disposition::WriteOff),
];

impl DenialPolicy {
    /// The disposition of `payer`'s denial with `code`.
    pub fn disposition(&self, payer: &str, code: &str) -> Disposition {
        let overrides = [payer, "*"]
            .into_iter()
            .filter_map(|payer| self.payers.get(payer));
        let mut found = overrides.filter_map(|table| {
            longest(
                table.iter().map(|(prefix, found)| (prefix.as_str(), *found)),
                code,
            )
        });
        found
            .next()
            .or_else(|| longest(DEFAULTS, code))
            .unwrap_or(Disposition::Review)
    }
}

fn longest<'a>(table: impl IntoIterator<Item = (&'a str, Disposition)>, code: &str) -> Option<Disposition> {
    let matching = table.into_iter().filter(|(prefix, _)| code.starts_with(prefix));
    matching
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, disposition)| disposition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_dispositions_are_those_of_the_domain() {
        let policy = DenialPolicy::default();
        for (code, expected) in [
            ("COPY-002", Disposition::Patient),
            ("ELIG-001", Disposition::Patient),
            ("NCOV-003", Disposition::Patient),
            ("BENX-005", Disposition::Patient),
            ("AUTH-001", Disposition::Resubmit),
            ("CODE-010", Disposition::Resubmit),
            ("CLAI-012", Disposition::Resubmit),
            ("MNEC-003", Disposition::Resubmit),
            ("TIME-002", Disposition::Resubmit),
            ("DUPL-001", Disposition::WriteOff),
            ("TIME-001", Disposition::WriteOff),
            ("PRCE-003", Disposition::WriteOff),
            ("TIME-003", Disposition::Review),
            ("WRNG-001", Disposition::Review),
            ("", Disposition::Review),
        ] {
            assert_eq!(policy.disposition("INS-1", code), expected, "{code}");
        }
    }

    #[test]
    fn a_payers_own_dispositions_and_longer_prefixes_take_precedence() {
        let table = |entries: &[(&str, Disposition)]| {
            entries
                .iter()
                .map(|(prefix, disposition)| ((*prefix).to_owned(), *disposition))
                .collect()
        };
        let policy = DenialPolicy {
            payers: [
                (
                    "INS-1".to_owned(),
                    table(&[("AUTH", Disposition::Review), ("AUTH-003", Disposition::WriteOff)]),
                ),
                ("*".to_owned(), table(&[("AUTH", Disposition::Patient)])),
            ]
            .into(),
        };
        assert_eq!(policy.disposition("INS-1", "AUTH-001"), Disposition::Review);
        assert_eq!(policy.disposition("INS-1", "AUTH-003"), Disposition::WriteOff);
        assert_eq!(policy.disposition("INS-2", "AUTH-001"), Disposition::Patient);
        assert_eq!(policy.disposition("INS-2", "PRCE-001"), Disposition::WriteOff);
    }
}
