use super::*;

const SUBMISSION: &str = include_str!("../../../../docs/examples/eclaimlink/01_submission.xml");
const REMITTANCE: &str = include_str!("../../../../docs/examples/eclaimlink/02_remittance_partial.xml");

/// Both kinds of files, for which the reader must report the same faults.
const BOTH: [(Kind, &str); 2] = [(Kind::Submission, SUBMISSION), (Kind::Remittance, REMITTANCE)];

fn changed(document: &str, from: &str, to: &str) -> String {
    assert!(document.contains(from), "{from} must be in the file");
    document.replacen(from, to, 1)
}

fn refused(kind: Kind, document: &str) -> Vec<(&'static str, String)> {
    let faults = scan(document.as_bytes(), kind, 500).unwrap_err().faults;
    faults
        .into_iter()
        .map(|fault| (fault.rule, fault.place))
        .collect()
}

fn claims(kind: Kind, document: &str) -> Vec<Claim> {
    let mut file = File::open(document.as_bytes(), kind).unwrap();
    std::iter::from_fn(|| file.next_claim().unwrap()).collect()
}

fn rules(faults: &[Fault]) -> Vec<(&'static str, &str)> {
    faults
        .iter()
        .map(|fault| (fault.rule, fault.place.as_str()))
        .collect()
}

#[test]
fn a_file_is_read_with_its_header_and_claims() {
    for (kind, document) in BOTH {
        let scanned = scan(document.as_bytes(), kind, 500).unwrap();
        assert_eq!(scanned.header.record_count, 1);
        assert_eq!(scanned.header.disposition, Disposition::Production);
        assert!(scanned.remarks.is_empty());
        let claims = claims(kind, document);
        assert_eq!((claims.len(), claims[0].ordinal), (1, 0));
        assert_eq!(claims[0].element.child("ID").unwrap().text, "CLM-0001");
        assert!(claims[0].faults.is_empty() && claims[0].remarks.is_empty());
    }
}

#[test]
fn an_invalid_file_is_refused_by_the_same_rule_in_both_kinds() {
    for (kind, document) in BOTH {
        for (from, to, rule, place) in [
            (
                "<RecordCount>1<",
                "<RecordCount>2<",
                "RECORD_COUNT_MISMATCH",
                "Header.RecordCount",
            ),
            (
                "<RecordCount>1<",
                "<RecordCount>one<",
                "FIELD_INVALID",
                "Header.RecordCount",
            ),
            (
                "<RecordCount>1<",
                "<RecordCount>-1<",
                "FIELD_INVALID",
                "Header.RecordCount",
            ),
            (
                "<RecordCount>1<",
                "<RecordCount>1.5<",
                "FIELD_INVALID",
                "Header.RecordCount",
            ),
            ("PRODUCTION", "LIVE", "FIELD_INVALID", "Header.DispositionFlag"),
            ("<SenderID>", "<SenderID>A B", "FIELD_INVALID", "Header.SenderID"),
            (
                "</Header>",
                "<SenderID>B</SenderID></Header>",
                "ELEMENT_REPEATED",
                "Header.SenderID",
            ),
            ("</Header>", "</Header><Header/>", "ELEMENT_REPEATED", "Header"),
            ("<Header>", "<Claim/><Header>", "FIELD_MISSING", "Header"),
            ("</Claim>", "", "MALFORMED", "the file"),
            (
                "<SenderID>",
                "<SenderID>\u{1}",
                "CONTROL_CHARACTER",
                "Header.SenderID",
            ),
        ] {
            let found = refused(kind, &changed(document, from, to));
            assert_eq!(found, [(rule, place.to_owned())], "{kind:?}: {to}");
        }
        let missing = refused(kind, &format!("<{0}><Header/></{0}>", kind.root()));
        assert_eq!(missing.len(), 5);
        assert!(missing.iter().all(|(rule, _)| *rule == "FIELD_MISSING"));
    }
}

#[test]
fn the_wrong_kind_of_file_is_refused_with_the_command_that_imports_it() {
    for (kind, document, command) in [
        (Kind::Submission, REMITTANCE, "weft remittance import"),
        (Kind::Remittance, SUBMISSION, "weft order import"),
    ] {
        let faults = scan(document.as_bytes(), kind, 500).unwrap_err().faults;
        assert_eq!(faults[0].rule, "WRONG_ROOT");
        assert!(faults[0].message.contains(command), "{}", faults[0]);
    }
}

#[test]
fn a_file_with_too_many_claims_is_refused() {
    let claim = "<Claim><ID>1</ID></Claim>".repeat(500);
    let many = changed(SUBMISSION, "<RecordCount>1<", "<RecordCount>501<");
    let many = changed(
        &many,
        "</Claim.Submission>",
        &format!("{claim}</Claim.Submission>"),
    );
    assert_eq!(
        refused(Kind::Submission, &many),
        [("TOO_MANY_CLAIMS", "the file".to_owned())]
    );
}

#[test]
fn a_refused_file_reports_whether_it_was_a_test() {
    for (kind, document) in BOTH {
        let test = changed(document, "PRODUCTION", "TEST");
        for broken in [
            changed(&test, "<RecordCount>1<", "<RecordCount>2<"),
            changed(&test, "<SenderID>", "<SenderID>A B"),
        ] {
            assert!(scan(broken.as_bytes(), kind, 500).unwrap_err().test);
        }
    }
}

#[test]
fn a_repeated_element_refuses_its_claim_and_an_unknown_one_is_reported() {
    for (kind, document) in BOTH {
        let twice = changed(document, "<ID>A1</ID>", "<ID>A1</ID><ID>A9</ID>");
        let claims_read = claims(kind, &twice);
        assert_eq!(
            rules(&claims_read[0].faults),
            [("ELEMENT_REPEATED", "Claim.Activity[0].ID")]
        );
        let unknown = changed(document, "<ID>A1</ID>", "<Id>A0</Id><ID scheme='x'>A1</ID>text");
        let unknown = changed(&unknown, "</Header>", "</Header><Footer/>");
        let claims_read = claims(kind, &unknown);
        assert!(claims_read[0].faults.is_empty());
        assert_eq!(
            rules(&claims_read[0].remarks),
            [
                ("UNEXPECTED_TEXT", "Claim.Activity[0]"),
                ("UNKNOWN_ELEMENT", "Claim.Activity[0].Id"),
                ("UNKNOWN_ATTRIBUTE", "Claim.Activity[0].ID@scheme"),
            ]
        );
        let scanned = scan(unknown.as_bytes(), kind, 500).unwrap();
        assert_eq!(rules(&scanned.remarks), [("UNKNOWN_ELEMENT", "Footer")]);
    }
}

#[test]
fn namespaces_and_schema_hints_are_ignored() {
    for (kind, document) in BOTH {
        let root = kind.root();
        let hinted = document
            .replace(
                &format!("<{root}>"),
                &format!("<ns2:{root} xmlns:ns2='urn:x' xsi:noNamespaceSchemaLocation='a.xsd'>"),
            )
            .replace(&format!("</{root}>"), &format!("</ns2:{root}>"))
            .replace("<ID>", "<ns2:ID>")
            .replace("</ID>", "</ns2:ID>");
        let claims = claims(kind, &hinted);
        assert!(claims[0].faults.is_empty() && claims[0].remarks.is_empty());
        assert_eq!(claims[0].element.child("ID").unwrap().text, "CLM-0001");
    }
}

#[test]
fn a_control_character_refuses_its_claim() {
    for (kind, document) in BOTH {
        for (character, shown) in [("\0", "U+0000"), ("\u{1b}", "U+001B"), ("\u{85}", "U+0085")] {
            let broken = changed(document, "<Code>", &format!("<Code>{character}"));
            let claims = claims(kind, &broken);
            let fault = &claims[0].faults[0];
            assert_eq!(fault.rule, "CONTROL_CHARACTER");
            assert!(
                fault.place.ends_with(".Code") && fault.message.contains(shown),
                "{fault}"
            );
        }
    }
}

#[test]
fn messages_quote_a_file_truncated_and_without_control_characters() {
    let long = "A".repeat(1 << 20);
    let inside = |claim: &str| changed(REMITTANCE, "<Claim>", &format!("{claim}<Claim>"));
    for broken in [
        inside(&format!("<{long}></B>")),
        inside(&format!("<A></{long}>")),
        inside("<A></B\u{1b}[31m>"),
        inside("<Claim>&a\u{1b}[31m;</Claim>"),
        inside(&format!("<Claim>&#{long};</Claim>")),
        inside(&format!("<Claim>&{long};</Claim>")),
        format!("<{long}/>"),
        "<A\u{1b}[31m/>".to_owned(),
    ] {
        let refused = scan(broken.as_bytes(), Kind::Remittance, 10).unwrap_err();
        let text: String = refused.faults.iter().map(Fault::text).collect();
        assert!(text.len() < 1_000, "{} bytes", text.len());
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    let odd = inside("<Claim a\u{1b}b='1'><ID>C\u{1b}[31m</ID><X\u{1b}Y/></Claim>");
    let mut file = File::open(odd.as_bytes(), Kind::Remittance).unwrap();
    let claim = file.next_claim().unwrap().unwrap();
    let text: String = claim
        .faults
        .iter()
        .chain(&claim.remarks)
        .map(Fault::text)
        .collect();
    assert!(
        text.contains("Claim.X") && !text.contains(char::is_control),
        "{text:?}"
    );
    let id = crate::Fields::new(&claim.element, "Claim").text("ID", 100);
    assert!(id.starts_with('C') && !id.contains(char::is_control), "{id:?}");
}
