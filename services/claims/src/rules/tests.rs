use prost_types::Timestamp;
use proto::{
    claims::v1::{
        Activity, ClaimDetails, Diagnosis, DiagnosisType, Encounter, Resubmission, ResubmissionType,
    },
    google::r#type::{Decimal, Money},
};

use super::*;

fn aed(units: i64) -> Option<Money> {
    Some(Money {
        currency_code: "AED".to_owned(),
        units,
        nanos: 0,
    })
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn activity(id: &str, net: i64) -> Activity {
    Activity {
        id: id.to_owned(),
        start_time: at(1_500),
        r#type: 8,
        code: "SVC".to_owned(),
        quantity: Some(Decimal {
            value: "1".to_owned(),
        }),
        net: aed(net),
        clinician: "CLN".to_owned(),
        ..Activity::default()
    }
}

fn diagnosis(kind: DiagnosisType, code: &str) -> Diagnosis {
    Diagnosis {
        r#type: kind.into(),
        code: code.to_owned(),
    }
}

/// Details that break no rule.
fn valid() -> ClaimDetails {
    ClaimDetails {
        claim_id: "CLM-1".to_owned(),
        payer_id: "INS".to_owned(),
        provider_id: "FAC".to_owned(),
        emirates_id_number: "999-9999-9999999-9".to_owned(),
        gross: aed(500),
        patient_share: aed(100),
        net: aed(400),
        encounter: Some(Encounter {
            facility_id: "FAC".to_owned(),
            r#type: 1,
            patient_id: "PT".to_owned(),
            start_time: at(1_000),
            end_time: at(2_000),
            start_type: 1,
            end_type: 1,
            ..Encounter::default()
        }),
        diagnoses: vec![
            diagnosis(DiagnosisType::Principal, "M54.5"),
            diagnosis(DiagnosisType::Secondary, "E78.5"),
        ],
        activities: vec![activity("A1", 250), activity("A2", 150)],
        ..ClaimDetails::default()
    }
}

/// The rules that valid details break after `change`, as (rule, field).
fn broken(change: impl FnOnce(&mut ClaimDetails)) -> Vec<(&'static str, String)> {
    let mut details = valid();
    change(&mut details);
    check_submission(&details)
        .into_iter()
        .map(|violation| (violation.rule, violation.field))
        .collect()
}

fn one(rule: &'static str, field: &str) -> Vec<(&'static str, String)> {
    vec![(rule, field.to_owned())]
}

fn encounter(details: &mut ClaimDetails) -> &mut Encounter {
    details.encounter.as_mut().unwrap()
}

#[test]
fn a_valid_claim_breaks_no_rule() {
    assert_eq!(broken(|_| {}), []);
}

#[test]
fn gross_covers_net_and_share() {
    assert_eq!(broken(|d| d.gross = aed(499)), one("GROSS_BELOW_PARTS", "gross"));
    assert_eq!(broken(|d| d.gross = aed(501)), []);
}

#[test]
fn net_is_the_sum_of_the_activities_within_a_fils() {
    let sum_of_nets = |nanos| move |d: &mut ClaimDetails| d.activities[0].net.as_mut().unwrap().nanos = nanos;
    assert_eq!(broken(sum_of_nets(10_000_000)), []);
    assert_eq!(
        broken(sum_of_nets(20_000_000)),
        one("NET_NOT_SUM_OF_ACTIVITIES", "net")
    );
}

#[test]
fn amounts_are_dirham_without_fractions_of_a_fils() {
    assert_eq!(
        broken(|d| d.gross.as_mut().unwrap().currency_code = "USD".to_owned()),
        one("CURRENCY_NOT_AED", "gross")
    );
    for bad in [
        None,
        aed(-1),
        aed(i64::MAX),
        Some(Money {
            nanos: 1,
            ..aed(1).unwrap()
        }),
    ] {
        assert_eq!(
            broken(|d| d.patient_share = bad),
            one("AMOUNT_INVALID", "patient_share")
        );
    }
}

#[test]
fn exactly_one_diagnosis_is_principal() {
    let rule = one("PRINCIPAL_DIAGNOSIS_NOT_ONE", "diagnoses");
    assert_eq!(
        broken(|d| d.diagnoses[0] = diagnosis(DiagnosisType::Secondary, "M54.5")),
        rule
    );
    assert_eq!(
        broken(|d| d.diagnoses[1] = diagnosis(DiagnosisType::Principal, "E78.5")),
        rule
    );
}

#[test]
fn a_diagnosis_is_unique_except_for_the_admitting_one() {
    let again = |kind| move |d: &mut ClaimDetails| d.diagnoses.push(diagnosis(kind, "M54.5"));
    assert_eq!(
        broken(again(DiagnosisType::Secondary)),
        one("DUPLICATE_DIAGNOSIS", "diagnoses[2].code")
    );
    assert_eq!(broken(again(DiagnosisType::Admitting)), []);
}

#[test]
fn activity_ids_are_unique() {
    assert_eq!(
        broken(|d| d.activities[1].id = "A1".to_owned()),
        one("DUPLICATE_ACTIVITY_ID", "activities[1].id")
    );
}

#[test]
fn quantity_is_a_number_above_zero() {
    for bad in ["0", "-1", "", "one", "1e3"] {
        let quantity = Some(Decimal {
            value: bad.to_owned(),
        });
        assert_eq!(
            broken(|d| d.activities[1].quantity = quantity),
            one("QUANTITY_NOT_POSITIVE", "activities[1].quantity")
        );
    }
    assert_eq!(
        broken(|d| d.activities[1].quantity = Some(Decimal {
            value: "0.5".to_owned()
        })),
        []
    );
}

#[test]
fn activities_lie_within_the_encounter() {
    for outside in [999, 2_001] {
        assert_eq!(
            broken(|d| d.activities[0].start_time = at(outside)),
            one("ACTIVITY_OUTSIDE_ENCOUNTER", "activities[0].start_time")
        );
    }
    let open_ended = |d: &mut ClaimDetails| {
        encounter(d).end_time = None;
        d.activities[0].start_time = at(9_999);
    };
    assert_eq!(broken(open_ended), []);
}

#[test]
fn an_inpatient_has_an_end_and_its_type() {
    for kind in [3, 4] {
        let found = broken(|d| {
            encounter(d).r#type = kind;
            encounter(d).end_time = None;
            encounter(d).end_type = 0;
        });
        let fields = ["encounter.end_time", "encounter.end_type"];
        assert_eq!(
            found,
            fields.map(|field| ("INPATIENT_WITHOUT_END", field.to_owned()))
        );
    }
}

#[test]
fn a_transfer_says_from_where_and_to_where() {
    assert_eq!(
        broken(|d| encounter(d).start_type = 3),
        one("TRANSFER_WITHOUT_SOURCE", "encounter.transfer_source")
    );
    for kind in [4, 7] {
        assert_eq!(
            broken(|d| encounter(d).end_type = kind),
            one("TRANSFER_WITHOUT_DESTINATION", "encounter.transfer_destination")
        );
    }
}

#[test]
fn an_encounter_ends_after_it_starts() {
    let found = broken(|d| {
        encounter(d).end_time = at(999);
        d.activities
            .iter_mut()
            .for_each(|activity| activity.start_time = None);
    });
    assert_eq!(found, one("ENCOUNTER_ENDS_BEFORE_START", "encounter.end_time"));
}

#[test]
fn the_emirates_id_has_its_check_digit() {
    let with = |number: &'static str| move |d: &mut ClaimDetails| d.emirates_id_number = number.to_owned();
    assert_eq!(
        broken(with("784-1984-1234567-1")),
        one("EMIRATES_ID_CHECK_DIGIT", "emirates_id_number")
    );
    for dummy in [
        "000-0000-0000000-0",
        "111-1111-1111111-1",
        "222-2222-2222222-2",
        "999-9999-9999999-9",
    ] {
        assert_eq!(broken(with(dummy)), []);
    }
}

#[test]
fn all_violations_are_reported_together() {
    let found = broken(|d| {
        d.gross = aed(1);
        d.diagnoses.clear();
        d.activities[0].quantity = None;
        d.emirates_id_number = String::new();
    });
    let rules: Vec<_> = found.into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(
        rules,
        [
            "GROSS_BELOW_PARTS",
            "EMIRATES_ID_CHECK_DIGIT",
            "PRINCIPAL_DIAGNOSIS_NOT_ONE",
            "QUANTITY_NOT_POSITIVE"
        ]
    );
}

fn reason(kind: ResubmissionType) -> Resubmission {
    Resubmission {
        r#type: kind.into(),
        comment: "again".to_owned(),
        attachment: Vec::new(),
    }
}

/// The rules that resubmitting valid details breaks after `change`, as (rule, field).
fn broken_by_resubmission(change: impl FnOnce(&mut ClaimDetails)) -> Vec<(&'static str, String)> {
    let (details, mut corrected) = (valid(), valid());
    change(&mut corrected);
    let submitted = SubmittedClaim {
        details: &details,
        remitted: true,
    };
    check_resubmission(submitted, &reason(ResubmissionType::Correction), Some(&corrected))
        .into_iter()
        .map(|violation| (violation.rule, violation.field))
        .collect()
}

#[test]
fn correction_and_complaint_need_an_earlier_remittance() {
    let details = valid();
    let submitted = SubmittedClaim {
        details: &details,
        remitted: false,
    };
    for (kind, expected) in [
        (ResubmissionType::Correction, 1),
        (ResubmissionType::InternalComplaint, 1),
        (ResubmissionType::Legacy, 0),
        (ResubmissionType::Reconciliation, 0),
    ] {
        let found = check_resubmission(submitted, &reason(kind), None);
        assert_eq!(found.len(), expected, "{kind:?}");
        assert!(
            found
                .iter()
                .all(|violation| violation.rule == "NO_EARLIER_REMITTANCE")
        );
    }
    let remitted = SubmittedClaim {
        remitted: true,
        ..submitted
    };
    assert_eq!(
        check_resubmission(remitted, &reason(ResubmissionType::Correction), None),
        []
    );
}

#[test]
fn a_resubmission_keeps_its_activity_ids() {
    let rule = one("ACTIVITY_IDS_CHANGED", "details.activities");
    assert_eq!(broken_by_resubmission(|d| d.activities.truncate(1)), rule);
    assert_eq!(
        broken_by_resubmission(|d| d.activities.push(activity("A3", 0))),
        rule
    );
    assert_eq!(
        broken_by_resubmission(|d| d.activities[1].id = "A9".to_owned()),
        rule
    );
    assert_eq!(
        broken_by_resubmission(|d| d.activities[1].code = "OTHER".to_owned()),
        []
    );
    assert_eq!(broken_by_resubmission(|d| d.activities.reverse()), []);
}

#[test]
fn a_resubmission_keeps_its_number_and_its_amounts() {
    assert_eq!(
        broken_by_resubmission(|d| d.provider_id = "OTHER".to_owned()),
        one("CLAIM_NUMBER_CHANGED", "details.provider_id")
    );
    let found = broken_by_resubmission(|d| {
        d.net = aed(401);
        d.activities[1].net = aed(151);
    });
    assert_eq!(
        found,
        ["details.net", "details.activities[1].net"].map(|field| ("NET_CHANGED", field.to_owned()))
    );
}
