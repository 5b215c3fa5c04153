//! Every rule of a submission through gRPC: INVALID_ARGUMENT, all violations named, no row written.

use proto::{
    claims::v1::{
        ClaimDetails, Diagnosis, DiagnosisType, Encounter, PrepareClaimRequest, Resubmission,
        ResubmissionType, ResubmitClaimRequest, WithdrawClaimRequest,
    },
    google::r#type::Decimal,
};
use tonic::Code;
use uuid::Uuid;

use crate::{
    claims_fixture::{Fixture, advice, file, prepare, reason, violations},
    samples,
};

type Change = fn(&mut ClaimDetails);

fn encounter(details: &mut ClaimDetails) -> &mut Encounter {
    details.encounter.as_mut().unwrap()
}

/// One violation of each rule of a single claim: (rule, field below the details, change).
const BROKEN: &[(&str, &str, Change)] = &[
    ("GROSS_BELOW_PARTS", "gross", |d| {
        d.gross = Some(samples::aed(119));
    }),
    ("NET_NOT_SUM_OF_ACTIVITIES", "net", |d| {
        d.net = Some(samples::aed(99));
    }),
    ("CURRENCY_NOT_AED", "gross", |d| {
        d.gross.as_mut().unwrap().currency_code = "USD".to_owned();
    }),
    ("AMOUNT_INVALID", "gross", |d| d.gross.as_mut().unwrap().nanos = 1),
    ("PRINCIPAL_DIAGNOSIS_NOT_ONE", "diagnoses", |d| {
        d.diagnoses[0].r#type = DiagnosisType::Secondary.into();
    }),
    ("DUPLICATE_DIAGNOSIS", "diagnoses[1].code", |d| {
        d.diagnoses.push(Diagnosis {
            r#type: DiagnosisType::Secondary.into(),
            code: "M54.5".to_owned(),
        });
    }),
    ("DUPLICATE_ACTIVITY_ID", "activities[1].id", |d| {
        let mut again = d.activities[0].clone();
        again.net = Some(samples::aed(0));
        d.activities.push(again);
    }),
    ("QUANTITY_NOT_POSITIVE", "activities[0].quantity", |d| {
        d.activities[0].quantity = Some(Decimal {
            value: "0".to_owned(),
        });
    }),
    ("ACTIVITY_OUTSIDE_ENCOUNTER", "activities[0].start_time", |d| {
        d.activities[0].start_time.as_mut().unwrap().seconds -= 86_400;
    }),
    ("INPATIENT_WITHOUT_END", "encounter.end_type", |d| {
        encounter(d).r#type = 3;
        encounter(d).end_type = 0;
    }),
    ("TRANSFER_WITHOUT_SOURCE", "encounter.transfer_source", |d| {
        encounter(d).start_type = 3;
    }),
    (
        "TRANSFER_WITHOUT_DESTINATION",
        "encounter.transfer_destination",
        |d| encounter(d).end_type = 4,
    ),
    ("ENCOUNTER_ENDS_BEFORE_START", "encounter.end_time", |d| {
        encounter(d).start_time = None;
        let end = encounter(d).end_time.unwrap();
        encounter(d).start_time = Some(prost_types::Timestamp {
            seconds: end.seconds + 60,
            nanos: 0,
        });
        d.activities[0].start_time = encounter(d).start_time;
    }),
    ("EMIRATES_ID_CHECK_DIGIT", "emirates_id_number", |d| {
        d.emirates_id_number = "784-1984-1234567-1".to_owned();
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_rule_of_a_claim_is_named_and_nothing_is_kept() {
    let fixture = Fixture::start().await;
    for (rule, field, change) in BROKEN {
        let mut details = samples::claim("CLM-BAD");
        change(&mut details);
        let status = fixture
            .claims
            .clone()
            .prepare_claim(prepare(details))
            .await
            .unwrap_err();
        let named = violations(&status);
        assert!(
            named.contains(&(format!("details.{field}"), (*rule).to_owned())),
            "{rule}: {named:?}"
        );
    }
    let mut details = samples::claim("CLM-BAD");
    details.gross = Some(samples::aed(1));
    details.emirates_id_number = "784-1984-1234567-1".to_owned();
    let together = fixture
        .claims
        .clone()
        .prepare_claim(prepare(details))
        .await
        .unwrap_err();
    assert_eq!(violations(&together).len(), 2);

    let kept = "select (select count(*) from claims.claim) + (select count(*) from chassis.idempotency) \
                + (select count(*) from events.event_log)";
    assert_eq!(fixture.count(kept).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_prepared_once_and_validating_keeps_nothing() {
    let fixture = Fixture::start().await;
    let request = PrepareClaimRequest {
        validate_only: true,
        ..prepare(samples::claim("CLM-1"))
    };
    let checked = fixture
        .claims
        .clone()
        .prepare_claim(request)
        .await
        .unwrap()
        .into_inner()
        .claim
        .unwrap();
    assert_eq!(checked.id, "");
    assert_eq!(fixture.count("select count(*) from claims.claim").await, 0);

    let filed = fixture.filed(samples::claim("CLM-1")).await;
    let again = fixture
        .claims
        .clone()
        .prepare_claim(prepare(samples::claim("CLM-1")))
        .await
        .unwrap_err();
    assert_eq!(
        (again.code(), reason(&again).as_str()),
        (Code::AlreadyExists, "CLAIM_KNOWN")
    );
    let other = PrepareClaimRequest {
        order_id: filed.order_id,
        ..prepare(samples::claim("CLM-2"))
    };
    let billed = fixture.claims.clone().prepare_claim(other).await.unwrap_err();
    assert_eq!(
        (billed.code(), reason(&billed).as_str()),
        (Code::AlreadyExists, "ORDER_BILLED")
    );
}

fn again(id: &str, kind: ResubmissionType, details: Option<ClaimDetails>) -> ResubmitClaimRequest {
    ResubmitClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        id: id.to_owned(),
        resubmission: Some(Resubmission {
            r#type: kind.into(),
            comment: "again".to_owned(),
            attachment: Vec::new(),
        }),
        details,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_broken_rule_of_a_resubmission_is_named_and_nothing_changes() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    let early = again(&claim.id, ResubmissionType::Correction, None);
    let early = fixture.claims.clone().resubmit_claim(early).await.unwrap_err();
    assert_eq!(
        violations(&early),
        [("resubmission.type".to_owned(), "NO_EARLIER_REMITTANCE".to_owned())]
    );

    fixture
        .import(&file(&[advice("CLM-1", &[("A1", "100", "0", "AUTH-001")])]))
        .await
        .unwrap();
    let version = fixture.get(&claim.id).await.version;
    let changes: [(&str, &str, Change); 4] = [
        ("ACTIVITY_IDS_CHANGED", "details.activities", |d| {
            d.activities[0].id = "A9".to_owned();
        }),
        ("NET_CHANGED", "details.net", |d| {
            d.net.as_mut().unwrap().nanos = 10_000_000;
        }),
        ("CLAIM_NUMBER_CHANGED", "details.claim_id", |d| {
            d.claim_id = "CLM-2".to_owned();
        }),
        ("QUANTITY_NOT_POSITIVE", "details.activities[0].quantity", |d| {
            d.activities[0].quantity.as_mut().unwrap().value = "0".to_owned();
        }),
    ];
    for (rule, field, change) in changes {
        let mut details = samples::claim("CLM-1");
        change(&mut details);
        let bad = again(&claim.id, ResubmissionType::Correction, Some(details));
        let named = violations(&fixture.claims.clone().resubmit_claim(bad).await.unwrap_err());
        assert!(
            named.contains(&(field.to_owned(), rule.to_owned())),
            "{rule}: {named:?}"
        );
    }
    let unchanged = fixture.get(&claim.id).await;
    assert_eq!((unchanged.version, unchanged.cycle), (version, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_refuses_a_draft_that_arrives_later_and_a_paid_claim_stays() {
    let fixture = Fixture::start().await;
    let late = prepare(samples::claim("CLM-1"));
    let withdraw = |order_id: &str| WithdrawClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        order_id: order_id.to_owned(),
        reason: "cancelled".to_owned(),
    };
    let nothing = fixture
        .claims
        .clone()
        .withdraw_claim(withdraw(&late.order_id))
        .await
        .unwrap()
        .into_inner();
    assert!(nothing.claim.is_none());
    let refused = fixture.claims.clone().prepare_claim(late).await.unwrap_err();
    assert_eq!(reason(&refused), "ORDER_WITHDRAWN");

    let claim = fixture.filed(samples::claim("CLM-2")).await;
    fixture
        .import(&file(&[advice("CLM-2", &[("A1", "100", "100", "")])]))
        .await
        .unwrap();
    let paid = fixture
        .claims
        .clone()
        .withdraw_claim(withdraw(&claim.order_id))
        .await
        .unwrap_err();
    assert_eq!(
        (paid.code(), reason(&paid).as_str()),
        (Code::FailedPrecondition, "CLAIM_PAID")
    );
}
