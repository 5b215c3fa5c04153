//! Import of payers' files: lines are booked, parked, refused or recognized as repetitions, and never booked
//! twice.

use std::time::Duration;

use proto::claims::v1::{ClaimState, FinancialStatus};
use tests::{Service, eventually};

use crate::{
    claims_fixture::{Fixture, advice, file, filed, fils, import, violations},
    cli_fixture::{Weft, errors},
    samples,
};

/// Known fault 1 of an earlier system: an invalid claim made the valid ones of its file fail.
#[tokio::test(flavor = "multi_thread")]
async fn one_invalid_claim_never_stops_the_others_of_the_file() {
    let fixture = Fixture::start().await;
    let good = fixture.filed(samples::claim("GOOD")).await;
    let bad = fixture.filed(samples::claim("BAD")).await;
    let half = fixture.filed(samples::claim("HALF")).await;
    let last = fixture.filed(samples::claim("LAST")).await;
    let document = file(&[
        advice("GOOD", &[("A1", "100", "60", "PRCE-001")]),
        advice("BAD", &[("A1", "100", "100.01", "")]),
        advice("WORSE", &[("A1", "100", "ten", "")]).replace("PYR-WORSE", "PYR-GOOD"),
        advice("HALF", &[("A1", "100", "90", "PRCE-001"), ("A1", "100", "0", "")]),
        advice("LAST", &[("A1", "100", "100", "")]),
    ]);
    let report = fixture.import(&document).await.unwrap();

    assert_eq!(
        (report.claim_count, report.booked_lines, report.refused_lines),
        (5, 2, 4)
    );
    let sums = [&report.total, &report.booked, &report.parked, &report.refused].map(|sum| fils(sum.as_ref()));
    assert_eq!(sums, [35_001, 16_000, 0, 19_001]);
    let named: Vec<_> = report
        .violations
        .iter()
        .map(|v| (v.claim_id.as_str(), v.rule.as_str()))
        .collect();
    assert_eq!(
        named,
        [
            ("BAD", "PAYMENT_ABOVE_NET"),
            ("WORSE", "DUPLICATE_ID_PAYER"),
            ("WORSE", "FIELD_INVALID"),
            ("HALF", "DENIAL_CODE_MISSING"),
        ]
    );
    assert_eq!(fils(fixture.get(&good.id).await.net_paid.as_ref()), 6_000);
    assert_eq!(
        fixture.get(&bad.id).await.financial_status(),
        FinancialStatus::Pending
    );
    assert_eq!(
        fixture.get(&last.id).await.financial_status(),
        FinancialStatus::Paid
    );

    // A claim is booked as a whole or not at all; the corrected file adds what is missing, and nothing twice.
    assert_eq!(fixture.get(&half.id).await.remittance_lines, []);
    let corrected = file(&[
        advice("GOOD", &[("A1", "100", "60", "PRCE-001")]),
        advice("BAD", &[("A1", "100", "100", "")]),
        advice(
            "HALF",
            &[("A1", "100", "90", "PRCE-001"), ("A1", "100", "0", "PRCE-001")],
        ),
        advice("LAST", &[("A1", "100", "100", "")]),
    ]);
    let report = fixture.import(&corrected).await.unwrap();
    assert_eq!(
        (report.booked_lines, report.repeated_lines, report.refused_lines),
        (3, 2, 0)
    );
    assert_eq!(
        fixture.get(&bad.id).await.financial_status(),
        FinancialStatus::Paid
    );
    assert_eq!(fils(fixture.get(&half.id).await.net_paid.as_ref()), 9_000);
    assert_eq!(fils(fixture.get(&good.id).await.net_paid.as_ref()), 6_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_file_changes_nothing_and_returns_its_first_report() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    let document = file(&[advice("CLM-1", &[("A1", "100", "40", "PRCE-001")])]);
    let first = fixture.import(&document).await.unwrap();
    let second = fixture.import(&document).await.unwrap();
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(
        proto::claims::v1::RemittanceReport {
            duplicate: false,
            ..second
        },
        first
    );
    let stands = fixture.get(&claim.id).await;
    assert_eq!(
        (fils(stands.net_paid.as_ref()), stands.remittance_lines.len()),
        (4_000, 1)
    );
    let published = "select count(*) from events.event_log where type = 'claims.v1.FileDuplicate'";
    assert_eq!(fixture.count(published).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_lines_are_parked_and_booked_when_their_claim_is_filed() {
    let fixture = Fixture::start().await;
    let lines = [("A1", "100", "70", "PRCE-001"), ("A9", "5", "5", "")];
    let report = fixture.import(&file(&[advice("CLM-1", &lines)])).await.unwrap();
    assert_eq!((report.booked_lines, report.parked_lines), (0, 2));
    assert_eq!(fils(report.parked.as_ref()), 7_500);

    // A draft is not submitted yet: the payer cannot refer to it.
    let mut claims = fixture.claims.clone();
    let draft = crate::claims_fixture::prepare(samples::claim("CLM-1"));
    let draft = claims
        .prepare_claim(draft)
        .await
        .unwrap()
        .into_inner()
        .claim
        .unwrap();
    assert_eq!(
        fixture.get(&draft.id).await.financial_status(),
        FinancialStatus::Pending
    );

    let filed = claims
        .submit_claim(crate::claims_fixture::submit(&draft))
        .await
        .unwrap()
        .into_inner()
        .claim
        .unwrap();
    assert_eq!(
        (filed.state(), fils(filed.net_paid.as_ref())),
        (ClaimState::Accepted, 7_000)
    );
    assert_eq!(
        (filed.id_payer.as_str(), filed.remittance_lines.len()),
        ("PYR-CLM-1", 1)
    );
    let published = "select count(*) from events.event_log where type = 'claims.v1.ClaimRemitted'";
    assert_eq!(fixture.count(published).await, 1);
    // The line of an activity that the claim does not have stays parked and visible.
    assert_eq!(fixture.count("select count(*) from claims.parked_line").await, 1);
}

/// Known fault 7: such a takeback broke a constraint and lost the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeback_above_the_amount_paid_is_booked_reported_and_counted_up_to_that_amount() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    let other = fixture.filed(samples::claim("CLM-2")).await;
    fixture
        .import(&file(&[advice("CLM-1", &[("A1", "100", "60", "PRCE-001")])]))
        .await
        .unwrap();
    let report = fixture
        .import(&file(&[
            advice("CLM-1", &[("A1", "100", "-80", "PRCE-003")]),
            advice("CLM-2", &[("A1", "100", "100", "")]),
        ]))
        .await
        .unwrap();
    assert_eq!((report.booked_lines, report.refused_lines), (2, 0));
    assert_eq!(report.violations[0].rule, "TAKEBACK_ABOVE_PAID");
    let stands = fixture.get(&claim.id).await;
    assert_eq!(stands.financial_status(), FinancialStatus::TakenBack);
    assert_eq!(
        (fils(stands.taken_back.as_ref()), fils(stands.net_paid.as_ref())),
        (6_000, 0)
    );
    assert_eq!(
        fixture.get(&other.id).await.financial_status(),
        FinancialStatus::Paid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_above_the_net_is_booked_reported_and_counted_up_to_the_net() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    let first = file(&[advice("CLM-1", &[("A1", "100", "60", "PRCE-001")])]);
    assert_eq!(fixture.import(&first).await.unwrap().violations, []);
    let path = fixture.stack.folder().join("surplus.xml");
    std::fs::write(
        &path,
        file(&[advice("CLM-1", &[("A1", "100", "70", "PRCE-001")])]),
    )
    .unwrap();
    let weft = Weft::new(&fixture.stack, "al-noor", &["biller"]);
    let shown = weft
        .run(&["remittance", "import", &path.display().to_string()])
        .await;
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let remark =
        "CLM-1 A1 PAID_ABOVE_NET: 130.00 is paid on a net of 100.00; booked, and 30.00 beyond the net";
    assert!(text.contains(remark), "{text}{}", errors(&shown));
    let stands = fixture.get(&claim.id).await;
    assert_eq!(stands.financial_status(), FinancialStatus::Paid);
    assert_eq!(
        (fils(stands.net_paid.as_ref()), stands.remittance_lines.len()),
        (10_000, 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn excess_of_a_parked_line_is_shown_with_the_claim() {
    let fixture = Fixture::start().await;
    for early in [
        file(&[
            advice("CLM-1", &[("A1", "100", "60", "PRCE-001")]),
            advice("CLM-2", &[("A1", "100", "-40", "PRCE-003")]),
        ]),
        file(&[advice("CLM-1", &[("A1", "100", "70", "PRCE-001")])]),
    ] {
        let report = fixture.import(&early).await.unwrap();
        assert_eq!((report.booked_lines, report.violations), (0, Vec::new()));
    }
    let surplus = fixture.filed(samples::claim("CLM-1")).await;
    assert_eq!(fils(surplus.net_paid.as_ref()), 10_000);
    assert_eq!(fils(surplus.paid_above_net.as_ref()), 3_000);
    assert_eq!(fils(surplus.activities[0].paid_above_net.as_ref()), 3_000);
    let excess = fixture.filed(samples::claim("CLM-2")).await;
    assert_eq!(fils(excess.taken_back_above_paid.as_ref()), 4_000);

    let weft = Weft::new(&fixture.stack, "al-noor", &["viewer"]);
    for (claim, shown) in [
        ("CLM-1", "paid above net   30.00 AED"),
        ("CLM-2", "taken above paid 40.00 AED"),
    ] {
        let got = weft.run(&["claim", "get", &format!("TEST-FAC-1/{claim}")]).await;
        let text = String::from_utf8_lossy(&got.stdout).into_owned();
        assert!(text.contains(shown), "{text}{}", errors(&got));
    }
    for rule in ["PAID_ABOVE_NET", "TAKEBACK_ABOVE_PAID"] {
        eventually(Duration::from_secs(20), || async {
            fixture.stack.log(Service::Claims).contains(rule)
        })
        .await;
    }

    // The missing payments use up the excess; the overpayment stays visible.
    fixture
        .import(&file(&[advice("CLM-2", &[("A1", "100", "100", "")])]))
        .await
        .unwrap();
    let corrected = fixture.get(&excess.id).await;
    assert_eq!(fils(corrected.taken_back_above_paid.as_ref()), 0);
    assert_eq!(fils(corrected.net_paid.as_ref()), 6_000);
}

/// Known fault 6: RecordCount was not checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_as_a_whole_is_refused_with_every_field_named() {
    let fixture = Fixture::start().await;
    fixture.filed(samples::claim("CLM-1")).await;
    let document = file(&[advice("CLM-1", &[("A1", "100", "100", "")])]);
    for (from, to, field, rule) in [
        (
            "<RecordCount>1<",
            "<RecordCount>2<",
            "file.Header.RecordCount",
            "RECORD_COUNT_MISMATCH",
        ),
        ("Remittance.Advice", "Claim.Submission", "file", "WRONG_ROOT"),
        ("</Remittance.Advice>", "", "file", "MALFORMED"),
        (
            "20/03/2025 12:00",
            "2025-03-20",
            "file.Header.TransactionDate",
            "FIELD_INVALID",
        ),
    ] {
        let refused = fixture.import(&document.replace(from, to)).await.unwrap_err();
        assert_eq!(violations(&refused), [(field.to_owned(), rule.to_owned())]);
    }
    assert_eq!(
        fixture.count("select count(*) from claims.remittance_line").await,
        0
    );
    let published = "select count(*) from events.event_log where type = 'claims.v1.FileFailed'";
    assert_eq!(fixture.count(published).await, 4);
    // Importing the same invalid file again leaves nothing more behind.
    let again = document.replace("</Remittance.Advice>", "");
    fixture.import(&again).await.unwrap_err();
    assert_eq!(fixture.count(published).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_file_is_checked_and_not_kept() {
    let fixture = Fixture::start().await;
    let claim = fixture.filed(samples::claim("CLM-1")).await;
    fixture.filed(samples::claim("CLM-2")).await;
    let document = file(&[
        advice("CLM-1", &[("A1", "100", "100", ""), ("A1", "100", "1", "")]),
        advice("CLM-2", &[("A1", "100", "100", "")]),
        advice("UNKNOWN", &[("A1", "5", "5", "")]),
    ]);
    let report = fixture
        .import(&document.replace("PRODUCTION", "TEST"))
        .await
        .unwrap();
    assert!(report.test && !report.duplicate);
    assert_eq!(
        (report.booked_lines, report.parked_lines, report.refused_lines),
        (1, 1, 2)
    );
    assert_eq!(fixture.get(&claim.id).await.version, claim.version);
    let kept =
        "select (select count(*) from claims.remittance_file) + (select count(*) from claims.parked_line)";
    assert_eq!(fixture.count(kept).await, 0);
}

/// Known fault 4: claim numbers were unique across all facilities. Known fault 5 is covered by
/// `claims_walkthrough`.
#[tokio::test(flavor = "multi_thread")]
async fn two_facilities_have_a_claim_of_the_same_number_and_a_file_pays_its_own() {
    let fixture = Fixture::start().await;
    let ours = fixture.filed(samples::claim("CLM-1")).await;
    let elsewhere = fixture.elsewhere();
    let theirs = filed(&elsewhere, samples::claim("CLM-1")).await;
    let document = file(&[advice("CLM-1", &[("A1", "100", "100", "")])]);
    let first = fixture.import(&document).await.unwrap();
    assert_eq!(
        fixture.get(&ours.id).await.financial_status(),
        FinancialStatus::Paid
    );

    // The same bytes are another file for another facility.
    let request_id = uuid::Uuid::new_v4().to_string();
    let second = import(&elsewhere, &request_id, &document)
        .await
        .unwrap()
        .report
        .unwrap();
    assert_eq!(second, first);
    let paid = proto::claims::v1::GetClaimRequest {
        id: theirs.id,
        ..Default::default()
    };
    let theirs = elsewhere
        .clone()
        .get_claim(paid)
        .await
        .unwrap()
        .into_inner()
        .claim
        .unwrap();
    assert_eq!(theirs.financial_status(), FinancialStatus::Paid);
    assert_eq!(
        fixture.count("select count(*) from claims.remittance_line").await,
        2
    );
}
