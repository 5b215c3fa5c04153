//! Remittance files as payers write them, byte for byte: the outcome of each file, and of several files about one
//! claim.

use proto::claims::v1::{
    Activity, Claim, ClaimDetails, FinancialStatus, GetClaimRequest, ParkedReason, ParkedResolution,
    RemittanceReport, claim_service_client::ClaimServiceClient,
};
use tests::{Service, stack::Client, workspace_root};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::{
    claims_fixture::{
        Fixture, advice, example_claim, file, filed, fils, import_bytes, parked, resolve, violations,
    },
    samples,
};

/// Every remittance in `tests/inputs`, its claim, and its outcome when it is the first one.
const REMITTANCES: [(&str, &str, &str); 31] = [
    ("02_bom.xml", "CLM-0001", "booked 3 = 240.00"),
    ("02_crlf.xml", "CLM-0001", "booked 3 = 240.00"),
    ("02_newdate.xml", "CLM-0001", "booked 3 = 240.00"),
    ("02_silent.xml", "CLM-0001", "booked 3 = 130.00"),
    ("02_silent_crlf.xml", "CLM-0001", "booked 3 = 130.00"),
    ("02_sixty.xml", "CLM-0001", "booked 3 = 210.00"),
    ("02_sixty_crlf.xml", "CLM-0001", "booked 3 = 210.00"),
    ("05_crlf.xml", "CLM-0001", "booked 1 = 0.00 TAKEBACK_ABOVE_PAID"),
    ("11a_rem_time.xml", "CLM-0001", "booked 3 = 240.00"),
    ("11b_all_denied.xml", "CLM-0001", "booked 3 = 0.00"),
    ("11b_all_denied_absent.xml", "CLM-0001", "booked 3 = 0.00"),
    (
        "11b_empty_paymentreference.xml",
        "CLM-0001",
        "refused 3 FIELD_INVALID",
    ),
    ("20_rem_all_prefixed.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_cp1252_byte.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_doctype.xml", "", "MALFORMED"),
    ("20_rem_prefixed_root.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_says_ISO-8859-1.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_says_UTF8.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_says_us-ascii.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_says_utf-16.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_says_utf8.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_says_windows-1252.xml", "CLM-0001", "booked 3 = 240.00"),
    ("20_rem_utf16.xml", "CLM-0001", "booked 3 = 240.00"),
    ("REV-2.xml", "CLM-REV", "booked 1 = 150.00"),
    ("REV-3.xml", "CLM-REV", "booked 1 = 0.00 TAKEBACK_ABOVE_PAID"),
    ("REV-4.xml", "CLM-REV", "booked 1 = 150.00"),
    ("TWO-2.xml", "CLM-TWO", "booked 3 = 240.00"),
    ("TWO-3.xml", "CLM-TWO", "booked 1 = 0.00 TAKEBACK_ABOVE_PAID"),
    ("late-2.xml", "CLM-LATE", "booked 3 = 240.00"),
    ("late-3.xml", "CLM-LATE", "booked 2 = 160.00"),
    ("repay.xml", "CLM-0001", "booked 1 = 150.00"),
];

fn input(name: &str) -> Vec<u8> {
    std::fs::read(workspace_root().join("tests/inputs").join(name)).unwrap()
}

/// The claim of the examples with another number.
fn claim_of(number: &str) -> ClaimDetails {
    ClaimDetails {
        claim_id: number.to_owned(),
        ..example_claim()
    }
}

fn facility(fixture: &Fixture, name: &str) -> ClaimServiceClient<Client> {
    let token = fixture.stack.token(name, &["clerk", "biller", "viewer"]);
    ClaimServiceClient::new(fixture.stack.connect(Service::Claims, &token))
}

async fn import(
    claims: &ClaimServiceClient<Client>,
    name: &str,
    bytes: &[u8],
) -> Result<RemittanceReport, Status> {
    let answer = import_bytes(claims, &Uuid::new_v4().to_string(), name, bytes).await?;
    Ok(answer.report.unwrap())
}

pub(crate) async fn get(claims: &ClaimServiceClient<Client>, id: &str) -> Claim {
    let request = GetClaimRequest {
        id: id.to_owned(),
        ..GetClaimRequest::default()
    };
    let answer = claims.clone().get_claim(request).await.unwrap();
    answer.into_inner().claim.unwrap()
}

fn rules(report: &RemittanceReport) -> Vec<&str> {
    let rules = report.violations.iter();
    rules.map(|violation| violation.rule.as_str()).collect()
}

/// Summarizes a report; it must account for every line and every fils.
pub(crate) fn outcome(report: &RemittanceReport) -> String {
    let parts = [
        &report.booked,
        &report.above_net,
        &report.parked,
        &report.held,
        &report.repeated,
        &report.refused,
    ];
    let sum: i64 = parts.iter().map(|part| fils(part.as_ref())).sum();
    assert_eq!(sum, fils(report.total.as_ref()), "{report:?}");
    let mut text = Vec::new();
    if report.booked_lines > 0 {
        let booked = money::Money::try_from(report.booked.as_ref().unwrap()).unwrap();
        text.push(format!("booked {} = {booked}", report.booked_lines));
    }
    for (name, lines) in [
        ("parked", report.parked_lines),
        ("held", report.held_lines),
        ("repeated", report.repeated_lines),
        ("refused", report.refused_lines),
    ] {
        if lines > 0 {
            text.push(format!("{name} {lines}"));
        }
    }
    let mut named = rules(report);
    named.dedup();
    text.extend(named.into_iter().map(str::to_owned));
    text.join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_remittance_file_of_the_test_inputs_has_its_expected_outcome() {
    let fixture = Fixture::start().await;
    let mut wrong = Vec::new();
    for (number, (name, claim, expected)) in REMITTANCES.into_iter().enumerate() {
        let claims = facility(&fixture, &format!("files-{number}"));
        if !claim.is_empty() {
            filed(&claims, claim_of(claim)).await;
        }
        let found = match import(&claims, name, &input(name)).await {
            Ok(report) => outcome(&report),
            Err(refused) => violations(&refused)
                .into_iter()
                .map(|(_, rule)| rule)
                .collect::<Vec<_>>()
                .join(" "),
        };
        if found != expected {
            wrong.push(format!("{name}: {found}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_payment_in_another_file_is_reported_and_booked_only_on_request() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(example_claim()).await;
    for (name, expected) in [
        ("02_silent.xml", "booked 3 = 130.00"),
        ("02_silent_crlf.xml", "repeated 3 REPEATED"),
        // A line with another amount is another payment.
        (
            "02_sixty.xml",
            "booked 1 = 80.00 repeated 2 REPEATED PAID_ABOVE_NET",
        ),
        ("02_sixty_crlf.xml", "repeated 3 REPEATED"),
        // The same settlement in a file of another day.
        ("02_newdate.xml", "booked 1 = 90.00 repeated 2 REPEATED"),
    ] {
        let report = import(&fixture.claims, name, &input(name)).await.unwrap();
        assert_eq!(outcome(&report), expected, "{name}");
    }
    assert_eq!(
        fils(get(&fixture.claims, &claim.id).await.net_paid.as_ref()),
        30_000
    );

    let repeated = parked(&fixture.claims, ParkedReason::Repeated).await;
    assert_eq!(repeated.len(), 10);
    let second = repeated
        .iter()
        .find(|parked| fils(parked.line.as_ref().unwrap().payment.as_ref()) == 6_000)
        .unwrap();
    let resolved = resolve(&fixture.claims, second.id, ParkedResolution::Discard)
        .await
        .unwrap();
    assert!(resolved.is_none());
    assert_eq!(parked(&fixture.claims, ParkedReason::Repeated).await.len(), 9);
    let gone = resolve(&fixture.claims, second.id, ParkedResolution::Book)
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reversed_and_corrected_claim_is_paid_in_any_order_of_the_files() {
    let fixture = Fixture::start().await;
    for (number, order) in [["REV-2", "REV-3", "REV-4"], ["REV-3", "REV-4", "REV-2"]]
        .iter()
        .enumerate()
    {
        let claims = facility(&fixture, &format!("reverse-{number}"));
        let claim = filed(&claims, claim_of("CLM-REV")).await;
        let mut booked = 0;
        for name in order {
            let report = import(&claims, name, &input(&format!("{name}.xml")))
                .await
                .unwrap();
            booked += fils(report.booked.as_ref());
        }
        let stands = get(&claims, &claim.id).await;
        assert_eq!(fils(stands.net_paid.as_ref()), 15_000, "{order:?}");
        assert_eq!(booked, 15_000, "the reports agree with the claim");
        assert_eq!(stands.activities[0].financial_status(), FinancialStatus::Paid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_payers_remittance_is_reported_and_held_and_does_not_use_the_payers_number() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    let first = file(&[advice("CLM-1", &[("A1", "100", "40", "PRCE-001")])]);
    fixture.import(&first).await.unwrap();
    let foreign = file(&[advice("CLM-1", &[("A1", "100", "60", "PRCE-001")])])
        .replace("TEST-TPA-1", "OTHER-TPA")
        .replace("PYR-CLM-1", "PYR-FOREIGN")
        .replace("CHQ-1", "CHQ-2");
    let report = fixture.import(&foreign).await.unwrap();
    assert_eq!(outcome(&report), "held 1 FOREIGN_SENDER");
    let stands = fixture.get(&claim.id).await;
    assert_eq!(fils(stands.net_paid.as_ref()), 4_000);
    assert_eq!(
        (stands.id_payer.as_str(), stands.remitter_id.as_str()),
        ("PYR-CLM-1", "TEST-TPA-1")
    );

    // The previous version books everything that it finds here.
    assert_eq!(fixture.count("select count(*) from claims.parked_line").await, 0);
    let held = parked(&fixture.claims, ParkedReason::ForeignSender).await;
    assert_eq!((held.len(), held[0].sender_id.as_str()), (1, "OTHER-TPA"));
    let booked = resolve(&fixture.claims, held[0].id, ParkedResolution::Book)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(fils(booked.net_paid.as_ref()), 10_000);
    assert_eq!(
        (booked.id_payer.as_str(), booked.remitter_id.as_str()),
        ("PYR-CLM-1", "TEST-TPA-1")
    );
    assert!(
        parked(&fixture.claims, ParkedReason::Unspecified)
            .await
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_of_the_submission_is_the_one_whose_remittances_are_booked() {
    let fixture = Fixture::start().await;
    let details = ClaimDetails {
        receiver_id: "TPA-OF-THE-FILE".to_owned(),
        ..samples::claim("CLM-1")
    };
    fixture.filed(details.clone()).await;
    let document = file(&[advice("CLM-1", &[("A1", "100", "40", "PRCE-001")])]);
    let foreign = fixture.import(&document).await.unwrap();
    assert_eq!(outcome(&foreign), "held 1 FOREIGN_SENDER");
    let own = fixture
        .import(&document.replace("TEST-TPA-1", "TPA-OF-THE-FILE"))
        .await
        .unwrap();
    assert_eq!(outcome(&own), "booked 1 = 40.00");
    let insurer = document
        .replace("TEST-TPA-1", &details.payer_id)
        .replace("CHQ-1", "CHQ-2");
    let insurer = fixture.import(&insurer).await.unwrap();
    assert_eq!(outcome(&insurer), "booked 1 = 40.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_net_differs_from_the_claim_is_reported() {
    let fixture = Fixture::start().await;
    fixture.filed(samples::claim("CLM-1")).await;
    let document = file(&[advice("CLM-1", &[("A1", "1000", "1000", "")])]);
    let report = fixture.import(&document).await.unwrap();
    assert_eq!(outcome(&report), "booked 1 = 100.00 NET_DIFFERS PAID_ABOVE_NET");
    assert_eq!(fils(report.above_net.as_ref()), 90_000);
}

/// The event of the claim would be too large to publish: the claim is refused with a reason, and the import of the
/// file ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_can_never_be_booked_is_refused_and_the_others_are_imported() {
    let fixture = Fixture::start().await;
    let good = fixture.filed(samples::claim("GOOD")).await;
    let wide = |number: usize| format!("{}{number:04}", "\u{1F600}".repeat(26));
    let mut large = samples::claim("LARGE");
    let model: Activity = large.activities.remove(0);
    large.activities = (0..1_000)
        .map(|number| Activity {
            id: wide(number),
            net: Some(samples::aed(1)),
            ..model.clone()
        })
        .collect();
    large.net = Some(samples::aed(1_000));
    large.gross = Some(samples::aed(1_020));
    fixture.filed(large).await;
    let code = "\u{1F600}".repeat(50);
    let ids: Vec<String> = (0..1_000).map(wide).collect();
    let lines: Vec<(&str, &str, &str, &str)> = ids
        .iter()
        .map(|id| (id.as_str(), "1", "0", code.as_str()))
        .collect();
    let document = file(&[
        advice("LARGE", &lines),
        advice("GOOD", &[("A1", "100", "100", "")]),
    ]);
    let report = fixture.import(&document).await.unwrap();
    assert_eq!(outcome(&report), "booked 1 = 100.00 refused 1000 CLAIM_TOO_LARGE");
    assert_eq!(
        fixture.get(&good.id).await.financial_status(),
        FinancialStatus::Paid
    );
}
