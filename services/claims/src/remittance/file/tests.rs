use eclaimlink::Disposition;

use super::*;

const PARTIAL: &str = include_str!("../../../../../docs/examples/eclaimlink/02_remittance_partial.xml");
const TAKEBACK: &str = include_str!("../../../../../docs/examples/eclaimlink/05_remittance_takeback.xml");
const SUBMISSION: &str = include_str!("../../../../../docs/examples/eclaimlink/01_submission.xml");

fn claims(document: &str) -> Vec<Claim> {
    let mut file = File::open(document.as_bytes()).unwrap();
    std::iter::from_fn(|| file.next_claim().unwrap()).collect()
}

fn rules_of(faults: &[super::super::Fault]) -> Vec<&'static str> {
    faults.iter().map(|fault| fault.rule).collect()
}

/// The rules that the first line of the takeback file breaks after `from` is replaced by `to`.
fn line_rules(from: &str, to: &str) -> Vec<&'static str> {
    assert!(TAKEBACK.contains(from), "{from} must be in the file");
    rules_of(&claims(&TAKEBACK.replace(from, to))[0].lines[0].faults)
}

/// The rules that the claim of the takeback file breaks after `from` is replaced by `to`.
fn claim_rules(from: &str, to: &str) -> Vec<&'static str> {
    assert!(TAKEBACK.contains(from), "{from} must be in the file");
    rules_of(&claims(&TAKEBACK.replace(from, to))[0].faults)
}

/// The rules and fields of the faults of the partial remittance as a whole after `from` is replaced by `to`.
fn file_rules(from: &str, to: &str) -> Vec<(&'static str, String)> {
    let changed = PARTIAL.replacen(from, to, 1);
    let faults = scan(changed.as_bytes()).unwrap_err().faults;
    faults
        .into_iter()
        .map(|fault| (fault.rule, fault.field))
        .collect()
}

#[test]
fn a_remittance_is_read_field_by_field() {
    let header = scan(PARTIAL.as_bytes()).unwrap().header;
    assert_eq!(
        (header.sender_id.as_str(), header.receiver_id.as_str()),
        ("TEST-TPA-1", "TEST-FAC-1")
    );
    assert_eq!(
        (header.record_count, header.disposition),
        (1, Disposition::Production)
    );
    // 12:00 in Dubai.
    assert_eq!(
        header.transaction_at,
        time::macros::datetime!(2025-03-20 08:00 UTC)
    );

    let claims = claims(PARTIAL);
    let [claim] = &claims[..] else {
        panic!("one claim, not {claims:?}")
    };
    assert_eq!(
        (claim.id.as_str(), claim.id_payer.as_str()),
        ("CLM-0001", "PYR-9001")
    );
    assert_eq!(
        (claim.provider_id.as_str(), claim.payment_reference.as_str()),
        ("TEST-FAC-1", "CHQ-1001")
    );
    assert_eq!(claim.settled_at, time::macros::datetime!(2025-03-19 20:00 UTC));
    let lines: Vec<_> = claim
        .lines
        .iter()
        .map(|line| (line.activity_id.as_str(), line.payment, line.denial_code.as_str()))
        .collect();
    assert_eq!(
        lines,
        [
            ("A1", Some(15_000), ""),
            ("A2", Some(0), "AUTH-001"),
            ("A3", Some(9_000), "PRCE-001")
        ]
    );
    assert!(claim.faults.is_empty() && claim.lines.iter().all(|line| line.faults.is_empty()));
}

#[test]
fn a_takeback_is_a_negative_payment() {
    assert_eq!(claims(TAKEBACK)[0].lines[0].payment, Some(-15_000));
    assert_eq!(
        line_rules("<DenialCode>PRCE-003</DenialCode>", ""),
        ["DENIAL_CODE_MISSING"]
    );
}

#[test]
fn a_payment_is_at_most_the_net_and_a_short_one_has_a_denial_code() {
    assert_eq!(line_rules(">-150.00<", ">150.01<"), ["PAYMENT_ABOVE_NET"]);
    assert_eq!(
        line_rules(
            ">-150.00</PaymentAmount><DenialCode>PRCE-003</DenialCode>",
            ">150.00</PaymentAmount>"
        ),
        [""; 0]
    );
    assert_eq!(
        line_rules(
            ">-150.00</PaymentAmount><DenialCode>PRCE-003</DenialCode>",
            ">149.99</PaymentAmount>"
        ),
        ["DENIAL_CODE_MISSING"]
    );
}

#[test]
fn the_denial_code_of_a_claim_applies_to_its_activities() {
    let document = PARTIAL
        .replace(
            "<PaymentReference>",
            "<DenialCode>ELIG-001</DenialCode><PaymentReference>",
        )
        .replace("<DenialCode>AUTH-001</DenialCode>", "");
    let codes: Vec<_> = claims(&document)[0]
        .lines
        .iter()
        .map(|line| line.denial_code.clone())
        .collect();
    assert_eq!(codes, ["", "ELIG-001", "PRCE-001"]);
}

#[test]
fn a_settlement_follows_its_activities_and_precedes_its_file() {
    assert_eq!(
        line_rules("<Start>05/03/2025", "<Start>03/05/2025"),
        ["ACTIVITY_AFTER_SETTLEMENT"]
    );
    assert_eq!(
        claim_rules(">02/05/2025 00:00<", ">02/05/2025 12:01<"),
        ["SETTLED_AFTER_TRANSACTION"]
    );
    assert_eq!(
        claim_rules("<DateSettlement>02/05/2025 00:00</DateSettlement>", ""),
        [""; 0]
    );
}

#[test]
fn the_payers_number_is_unique_in_the_file() {
    let start = PARTIAL.find("<Claim>").unwrap();
    let end = PARTIAL.find("</Claim>").unwrap() + "</Claim>".len();
    let twice = format!("{}{}{}", &PARTIAL[..end], &PARTIAL[start..end], &PARTIAL[end..]);
    let claims = claims(&twice);
    assert!(claims[0].faults.is_empty());
    assert_eq!(rules_of(&claims[1].faults), ["DUPLICATE_ID_PAYER"]);
    // The file has two claims but the header says one, a known fault of an earlier system.
    let fault = scan(twice.as_bytes()).unwrap_err().faults;
    assert_eq!(
        (fault[0].rule, fault[0].field.as_str()),
        ("RECORD_COUNT_MISMATCH", "file.Header.RecordCount")
    );
}

#[test]
fn fields_are_typed_and_required() {
    assert_eq!(line_rules(">-150.00<", ">-150.001<"), ["FIELD_INVALID"]);
    assert_eq!(line_rules(">-150.00<", ">ten<"), ["FIELD_INVALID"]);
    assert_eq!(line_rules("<Type>8<", "<Type>7<"), ["FIELD_INVALID"]);
    assert_eq!(
        line_rules("<Start>05/03/2025 09:40<", "<Start>2025-03-05 09:40<"),
        ["FIELD_INVALID"]
    );
    assert_eq!(
        line_rules("<Clinician>TEST-CLN-1</Clinician>", "<Clinician/>"),
        ["FIELD_MISSING"]
    );
    assert_eq!(line_rules("<ID>A1</ID>", ""), ["FIELD_MISSING"]);
    assert_eq!(claim_rules("<IDPayer>PYR-9001</IDPayer>", ""), ["FIELD_MISSING"]);
    assert_eq!(
        claim_rules("CHQ-1003", "CHQ-10030000000000000000000"),
        ["FIELD_INVALID"]
    );
    assert_eq!(claim_rules("<ID>CLM-0001<", "<ID>CLM\n0001<"), ["FIELD_INVALID"]);
    assert_eq!(
        claim_rules("<ProviderID>TEST-FAC-1", "<ProviderID>TEST FAC 1"),
        ["FIELD_INVALID"]
    );
}

#[test]
fn a_claim_without_a_provider_belongs_to_the_receiver() {
    let document = TAKEBACK.replace("<ProviderID>TEST-FAC-1</ProviderID>", "");
    assert_eq!(claims(&document)[0].provider_id, "TEST-FAC-1");
}

#[test]
fn an_invalid_file_is_refused_as_a_whole() {
    assert_eq!(
        file_rules("<RecordCount>1<", "<RecordCount>2<")[0].0,
        "RECORD_COUNT_MISMATCH"
    );
    assert_eq!(
        file_rules("<RecordCount>1<", "<RecordCount>-1<")[0].0,
        "FIELD_INVALID"
    );
    assert_eq!(file_rules("PRODUCTION", "MAYBE")[0].0, "FIELD_INVALID");
    assert_eq!(file_rules("</Claim>", "")[0].0, "MALFORMED");
    assert_eq!(file_rules("<Header>", "<Head>")[0].0, "MALFORMED");
    let header = file_rules(
        "<SenderID>TEST-TPA-1</SenderID>",
        "<SenderID>A B</SenderID><SenderID/>",
    );
    assert_eq!(
        header,
        [
            ("ELEMENT_REPEATED", "file.Header.SenderID".to_owned()),
            ("FIELD_INVALID", "file.Header.SenderID".to_owned())
        ]
    );
    assert_eq!(
        scan(SUBMISSION.as_bytes()).unwrap_err().faults[0].rule,
        "WRONG_ROOT"
    );
    assert_eq!(
        scan("not XML".as_bytes()).unwrap_err().faults[0].rule,
        "MALFORMED"
    );
}

#[test]
fn a_denial_needs_no_payment_reference_and_a_payment_does() {
    let without = |document: &str| {
        let with = "<PaymentReference>CHQ-1001</PaymentReference>";
        assert!(document.contains(with));
        [
            document.replace(with, "<PaymentReference/>"),
            document.replace(with, ""),
        ]
    };
    for document in without(PARTIAL) {
        assert_eq!(rules_of(&claims(&document)[0].faults), ["FIELD_INVALID"]);
    }
    let denied = PARTIAL
        .replace(
            ">150.00</PaymentAmount>",
            ">0.00</PaymentAmount><DenialCode>AUTH-001</DenialCode>",
        )
        .replace(">90.00</PaymentAmount>", ">0.00</PaymentAmount>");
    for document in without(&denied) {
        let claim = &claims(&document)[0];
        assert_eq!(rules_of(&claim.faults), [""; 0]);
        assert_eq!(claim.payment_reference, "");
    }
}

#[test]
fn amounts_are_read_in_the_formats_of_the_schema_and_never_rounded() {
    for (amount, payment) in [
        ("1.5E2", Some(15_000)),
        ("150.0000", Some(15_000)),
        ("150,00", None),
        ("150.004", None),
    ] {
        let document = TAKEBACK.replace(">-150.00<", &format!(">{amount}<"));
        let line = &claims(&document)[0].lines[0];
        assert_eq!(line.payment, payment, "{amount}");
        assert_eq!(
            line.faults.is_empty(),
            payment.is_some(),
            "{amount}: {:?}",
            line.faults
        );
    }
}
