//! One claim through the five example files: 240.00 paid, then 340.00, then 190.00 after the takeback.

use prost::Message as _;
use proto::claims::v1::{
    Claim, ClaimDenied, ClaimRemittance, ClaimRemitted, ClaimState, ClaimTakenBack, FinancialStatus,
    Resubmission, ResubmissionType, ResubmitClaimRequest,
};
use tests::Service;
use uuid::Uuid;

use crate::claims_fixture::{Fixture, example_claim, fils};

const PARTIAL: &str = include_str!("../../docs/examples/eclaimlink/02_remittance_partial.xml");
const AFTER_RESUBMISSION: &str = include_str!("../../docs/examples/eclaimlink/04_remittance_after_resub.xml");
const TAKEBACK: &str = include_str!("../../docs/examples/eclaimlink/05_remittance_takeback.xml");

#[tokio::test(flavor = "multi_thread")]
async fn the_five_example_files_pay_240_then_340_then_190() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(example_claim()).await;
    assert_eq!(
        (claim.state(), claim.financial_status()),
        (ClaimState::Accepted, FinancialStatus::Pending)
    );

    let report = fixture.import(PARTIAL).await.unwrap();
    assert_eq!(
        (report.booked_lines, report.parked_lines, report.refused_lines),
        (3, 0, 0)
    );
    assert_eq!(
        (fils(report.total.as_ref()), fils(report.booked.as_ref())),
        (24_000, 24_000)
    );
    let first = fixture.get(&claim.id).await;
    assert_stands(&first, 24_000, FinancialStatus::PartiallyPaid);
    assert_eq!(first.id_payer, "PYR-9001");

    let again = resubmit(&fixture, &claim).await;
    assert_eq!((again.state(), again.cycle), (ClaimState::Accepted, 2));
    assert_eq!(again.resubmissions[0].attachment, b"synthetic");

    fixture.import(AFTER_RESUBMISSION).await.unwrap();
    assert_stands(
        &fixture.get(&claim.id).await,
        34_000,
        FinancialStatus::PartiallyPaid,
    );

    fixture.import(TAKEBACK).await.unwrap();
    let last = fixture.get(&claim.id).await;
    assert_stands(&last, 19_000, FinancialStatus::PartiallyTakenBack);
    assert_eq!(
        (fils(last.paid.as_ref()), fils(last.taken_back.as_ref())),
        (34_000, 15_000)
    );
    assert_eq!(fils(last.outstanding.as_ref()), 21_000);
    assert_eq!(last.remittance_lines.len(), 6);
    let statuses: Vec<_> = last
        .activities
        .iter()
        .map(|activity| activity.financial_status())
        .collect();
    let expected = [
        FinancialStatus::TakenBack,
        FinancialStatus::Paid,
        FinancialStatus::PartiallyPaid,
    ];
    assert_eq!(statuses, expected);

    assert_events_add_up(&fixture, &last).await;
}

async fn resubmit(fixture: &Fixture, claim: &Claim) -> Claim {
    let request = ResubmitClaimRequest {
        request_id: Uuid::new_v4().to_string(),
        id: String::new(),
        resubmission: Some(Resubmission {
            r#type: ResubmissionType::Correction.into(),
            comment: "Prior authorization attached".to_owned(),
            attachment: b"synthetic".to_vec(),
        }),
        details: claim.details.clone(),
    };
    fixture
        .claims
        .clone()
        .resubmit_claim(request)
        .await
        .unwrap()
        .into_inner()
        .claim
        .unwrap()
}

fn assert_stands(claim: &Claim, net_paid: i64, status: FinancialStatus) {
    assert_eq!(
        (fils(claim.net_paid.as_ref()), claim.financial_status()),
        (net_paid, status)
    );
}

/// In an earlier system two records of what a claim was paid disagreed. Here the amounts of the events add up to
/// what the claim shows, and no version is missing or repeated.
async fn assert_events_add_up(fixture: &Fixture, claim: &Claim) {
    let pool = fixture.stack.database(Service::Claims).superuser().await;
    let events: Vec<(String, i64, Vec<u8>)> = sqlx::query_as(
        "select type, version, body from events.event_log where aggregate = 'claim' order by version",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let names: Vec<_> = events
        .iter()
        .map(|(name, ..)| name.trim_start_matches("claims.v1.Claim"))
        .collect();
    assert_eq!(
        names,
        [
            "Prepared",
            "Submitted",
            "Accepted",
            "Remitted",
            "Resubmitted",
            "Submitted",
            "Accepted",
            "Remitted",
            "TakenBack"
        ]
    );
    let versions: Vec<i64> = events.iter().map(|(_, version, _)| *version).collect();
    assert_eq!(versions, (1..=claim.version).collect::<Vec<_>>());

    let remittances: Vec<ClaimRemittance> = events
        .iter()
        .filter_map(|(name, _, body)| remittance(name, body))
        .collect();
    let booked = remittances
        .iter()
        .flat_map(|remittance| &remittance.lines)
        .map(|line| fils(line.amount.as_ref()));
    assert_eq!(booked.sum::<i64>(), fils(claim.net_paid.as_ref()));
    let stands: Vec<i64> = remittances
        .iter()
        .map(|remittance| fils(remittance.net_paid.as_ref()))
        .collect();
    assert_eq!(stands, [24_000, 34_000, 19_000]);
}

fn remittance(name: &str, body: &[u8]) -> Option<ClaimRemittance> {
    match name {
        "claims.v1.ClaimRemitted" => ClaimRemitted::decode(body).unwrap().remittance,
        "claims.v1.ClaimDenied" => ClaimDenied::decode(body).unwrap().remittance,
        "claims.v1.ClaimTakenBack" => ClaimTakenBack::decode(body).unwrap().remittance,
        _ => None,
    }
}
