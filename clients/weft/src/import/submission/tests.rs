use std::path::PathBuf;

use proto::claims::v1::{DiagnosisType, ResubmissionType};

use super::*;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/examples/eclaimlink")
        .join(name)
}

fn read(path: &Path) -> Vec<Claim> {
    claims(path).unwrap().map(|claim| claim.unwrap().1).collect()
}

/// The first example with a part of it replaced.
fn changed(from: &str, to: &str) -> PathBuf {
    let text = fs::read_to_string(example("01_submission.xml")).unwrap();
    assert!(text.contains(from), "{from}");
    write(&text.replacen(from, to, 1))
}

fn write(text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("weft-submission-{}.xml", uuid::Uuid::new_v4()));
    fs::write(&path, text).unwrap();
    path
}

fn rules(path: &Path) -> Vec<&'static str> {
    scan(path)
        .unwrap()
        .err()
        .unwrap_or_default()
        .iter()
        .map(|violation| violation.rule)
        .collect()
}

#[test]
fn the_first_example_is_read_whole() {
    let path = example("01_submission.xml");
    let header = scan(&path).unwrap().unwrap();
    assert!(!header.test && header.remarks.is_empty());
    let claims = read(&path);
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].gross.unwrap().to_string(), "500.00");
    let parsed = claims[0].parsed.as_ref().unwrap();
    let details = &parsed.details;
    assert!(parsed.resubmission.is_none());
    assert_eq!(
        (details.claim_id.as_str(), details.package_name.as_str()),
        ("CLM-0001", "TEST-PACKAGE")
    );
    assert_eq!(details.receiver_id, "TEST-TPA-1");
    // 09:30 in Dubai is 05:30 UTC.
    assert_eq!(
        details.encounter.as_ref().unwrap().start_time.unwrap().seconds,
        1_741_152_600
    );
    let diagnoses: Vec<_> = details
        .diagnoses
        .iter()
        .map(|diagnosis| diagnosis.r#type())
        .collect();
    assert_eq!(diagnoses, [DiagnosisType::Principal, DiagnosisType::Secondary]);
    let activities: Vec<_> = details
        .activities
        .iter()
        .map(|activity| activity.id.as_str())
        .collect();
    assert_eq!(activities, ["A1", "A2", "A3"]);
    assert_eq!(details.activities[0].observations[0].value, "synthetic");
    assert_eq!(details.activities[1].prior_authorization_id, "PA-77");
}

#[test]
fn the_third_example_is_a_resubmission_with_its_attachment() {
    let claims = read(&example("03_resubmission.xml"));
    let again = claims[0].parsed.as_ref().unwrap().resubmission.clone().unwrap();
    assert_eq!(again.r#type(), ResubmissionType::Correction);
    assert_eq!(
        (again.comment.as_str(), again.attachment.as_slice()),
        ("Prior authorization attached", &b"synthetic"[..])
    );
}

#[test]
fn a_remittance_is_no_submission_and_says_which_command_takes_it() {
    for name in [
        "02_remittance_partial.xml",
        "04_remittance_after_resub.xml",
        "05_remittance_takeback.xml",
    ] {
        let violations = scan(&example(name)).unwrap().unwrap_err();
        assert_eq!(violations[0].rule, "WRONG_ROOT");
        assert!(violations[0].message.contains("weft remittance import"));
    }
}

#[test]
fn every_rule_of_the_file_has_a_name() {
    assert_eq!(
        rules(&changed("<RecordCount>1<", "<RecordCount>2<")),
        ["RECORD_COUNT_MISMATCH"]
    );
    assert_eq!(
        rules(&changed("<RecordCount>1<", "<RecordCount>one<")),
        ["FIELD_INVALID"]
    );
    assert_eq!(rules(&changed("PRODUCTION", "LIVE")), ["FIELD_INVALID"]);
    assert_eq!(
        rules(&changed("TEST-TPA-1</ReceiverID>", "TEST TPA</ReceiverID>")),
        ["FIELD_INVALID"]
    );
    assert_eq!(
        rules(&changed("06/03/2025 08:00", "2025-03-06")),
        ["FIELD_INVALID"]
    );
    assert_eq!(rules(&changed("</Claim.Submission>", "")), ["MALFORMED"]);
    assert_eq!(
        rules(&write("<Claim.Submission><Header/></Claim.Submission>")).len(),
        5
    );
    let claim = "<Claim><ID>1</ID></Claim>".repeat(501);
    let many = changed("<RecordCount>1<", "<RecordCount>502<");
    let text = fs::read_to_string(many)
        .unwrap()
        .replace("</Claim.Submission>", &format!("{claim}</Claim.Submission>"));
    assert_eq!(rules(&write(&text)), ["TOO_MANY_CLAIMS"]);
}

#[test]
fn a_test_file_says_so() {
    assert!(scan(&changed("PRODUCTION", "TEST")).unwrap().unwrap().test);
}

#[test]
fn one_bad_claim_does_not_stop_the_others_and_names_every_field() {
    let good = fs::read_to_string(example("01_submission.xml")).unwrap();
    let start = good.find("  <Claim>").unwrap();
    let claim = good[start..].replace("</Claim.Submission>", "");
    let bad = claim
        .replace("CLM-0001", "CLM-0002")
        .replace("<Gross>500.00", "<Gross>5OO")
        .replace("Principal", "Main");
    let text = good.replace("</Claim.Submission>", &format!("{bad}{claim}</Claim.Submission>"));
    let claims = read(&write(&text));
    assert!(claims[0].parsed.is_ok());
    let places: Vec<_> = claims[1]
        .parsed
        .as_ref()
        .unwrap_err()
        .iter()
        .map(|v| v.place.as_str())
        .collect();
    assert_eq!(places, ["Claim.Gross", "Claim.Diagnosis[0].Type"]);
    assert!(claims[1].gross.is_none());
    // A repetition of the first claim.
    assert_eq!(
        claims[2].parsed.as_ref().unwrap_err()[0].rule,
        "DUPLICATE_CLAIM_ID"
    );
}

#[test]
fn a_resubmission_without_a_comment_is_read() {
    let text = fs::read_to_string(example("03_resubmission.xml")).unwrap();
    let comment = "<Comment>Prior authorization attached</Comment>";
    assert!(text.contains(comment));
    for empty in ["<Comment/>", ""] {
        let claims = read(&write(&text.replace(comment, empty)));
        let again = claims[0].parsed.as_ref().unwrap().resubmission.clone().unwrap();
        assert_eq!(again.comment, "");
    }
}

#[test]
fn a_claim_above_the_size_limit_is_refused_with_one_fault() {
    let good = fs::read_to_string(example("01_submission.xml")).unwrap();
    let start = good.find("  <Claim>").unwrap();
    let claim = good[start..]
        .replace("</Claim.Submission>", "")
        .replace("CLM-0001", "CLM-0002");
    let large = claim.replace("synthetic", &"x".repeat(4_800_000));
    let text = good.replace("</Claim.Submission>", &format!("{large}</Claim.Submission>"));
    let path = write(&text.replace("<RecordCount>1<", "<RecordCount>2<"));
    assert!(scan(&path).unwrap().is_ok());
    let claims = read(&path);
    assert!(claims[0].parsed.is_ok());
    let refused: Vec<_> = claims[1]
        .parsed
        .as_ref()
        .unwrap_err()
        .iter()
        .map(|fault| fault.rule)
        .collect();
    assert_eq!(
        (claims[1].id.as_str(), refused),
        ("CLM-0002", vec!["CLAIM_TOO_LARGE"])
    );
}

#[test]
fn entities_and_character_data_are_text() {
    let path = changed("TEST-PACKAGE", "A &amp; B <![CDATA[<C>]]> &#x44;");
    assert_eq!(
        read(&path)[0].parsed.as_ref().unwrap().details.package_name,
        "A & B <C> D"
    );
}

#[test]
fn a_file_that_ends_early_after_the_scan_is_an_error() {
    let text = fs::read_to_string(example("01_submission.xml")).unwrap();
    let (whole, _) = text.split_once("</Claim.Submission>").unwrap();
    let path = write(whole);
    let read: Vec<_> = claims(&path).unwrap().take(5).collect();
    assert_eq!(read.len(), 2);
    assert!(read[0].is_ok());
    let message = read[1].as_ref().unwrap_err().to_string();
    assert!(message.contains("cannot be read to its end"), "{message}");
}

#[test]
fn an_id_is_shown_without_control_characters_and_cut() {
    let claims = read(&changed("<ID>CLM-0001</ID>", "<ID>C\u{1b}[31m</ID>"));
    assert!(claims[0].parsed.is_err());
    assert_eq!(claims[0].id, "C\u{fffd}[31m");
}
