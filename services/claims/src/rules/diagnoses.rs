//! PRINCIPAL_DIAGNOSIS_NOT_ONE, DUPLICATE_DIAGNOSIS.

use std::collections::HashSet;

use proto::claims::v1::{ClaimDetails, DiagnosisType};

use super::Violation;

pub(super) fn check(details: &ClaimDetails, found: &mut Vec<Violation>) {
    let principal = details
        .diagnoses
        .iter()
        .filter(|diagnosis| diagnosis.r#type() == DiagnosisType::Principal)
        .count();
    if principal != 1 {
        let message = format!("exactly one diagnosis must be the principal one, not {principal}");
        found.push(Violation::new(
            "PRINCIPAL_DIAGNOSIS_NOT_ONE",
            "diagnoses",
            message,
        ));
    }
    // The admitting diagnosis is often also the principal one, so it may repeat another diagnosis once.
    let mut seen = HashSet::new();
    for (index, diagnosis) in details.diagnoses.iter().enumerate() {
        let admitting = diagnosis.r#type() == DiagnosisType::Admitting;
        if !seen.insert((admitting, diagnosis.code.as_str())) {
            let field = format!("diagnoses[{index}].code");
            let message = format!("{} is duplicated", diagnosis.code);
            found.push(Violation::new("DUPLICATE_DIAGNOSIS", field, message));
        }
    }
}
