//! Every submission and every CSV file of `tests/inputs` through `weft order import`: the outcome, reason and
//! totals of each, the second time too, and the effect of a corrected file.

use std::fs;

use serde_json::Value;
use tests::{Service, Stack, workspace_root};

use crate::cli_fixture::{Weft, errors};

/// The outcome of a file that is imported first.
enum Verdict {
    /// The order of its claim is placed.
    Taken,
    /// Its one document is refused; the reason starts with the first text and contains the second.
    Refused(&'static str, &'static str),
    /// The whole file is refused with this message.
    Whole(&'static str),
}

use Verdict::{Refused, Taken, Whole};

const FILES: [(&str, Verdict); 28] = [
    (
        "02nul.csv",
        Refused(
            "INVALID_REQUEST",
            "lines[0].description: must not hold control characters; it holds U+0000",
        ),
    ),
    (
        "02nul_sub.xml",
        Refused(
            "CONTROL_CHARACTER",
            "Claim.Activity[0].Observation[0].Value has the control character U+0000",
        ),
    ),
    ("11a_inner_only.xml", Taken),
    ("11a_time_9_05.xml", Taken),
    (
        "11c_empty_comment.xml",
        Refused("CLAIM_NOT_FOUND", "TEST-FAC-1/CLM-0001"),
    ),
    (
        "11d_comma.xml",
        Refused(
            "FIELD_INVALID",
            "Claim.Net `400,00` is no number: a point separates decimals",
        ),
    ),
    ("11d_float.xml", Taken),
    (
        "11d_four_decimals.xml",
        Refused(
            "FIELD_INVALID",
            "Claim.Activity[0].Net is 150.0004: AED has 2 decimal digits",
        ),
    ),
    (
        "11e_quantity_0.xml",
        Refused(
            "INVALID_REQUEST",
            "lines[1].quantity: must be a decimal number above zero",
        ),
    ),
    ("20_sub_all_prefixed.xml", Taken),
    ("20_sub_cp1252_byte.xml", Taken),
    (
        "20_sub_doctype.xml",
        Whole("MALFORMED: the file has a document type"),
    ),
    ("20_sub_prefixed_root.xml", Taken),
    ("20_sub_says_ISO-8859-1.xml", Taken),
    ("20_sub_says_UTF8.xml", Taken),
    ("20_sub_says_us-ascii.xml", Taken),
    ("20_sub_says_utf-16.xml", Taken),
    ("20_sub_says_utf8.xml", Taken),
    ("20_sub_says_windows-1252.xml", Taken),
    ("20_sub_utf16.xml", Taken),
    (
        "22_index_column.csv",
        Whole("the heading must be InvoiceNo,StockCode,"),
    ),
    (
        "22_online_retail_ii.csv",
        Whole("it is Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country"),
    ),
    ("22_semicolons.csv", Whole("it is InvoiceNo;StockCode;")),
    ("REV-1.xml", Taken),
    ("TWO-1.xml", Taken),
    ("late-1.xml", Taken),
    ("sub100.xml", Taken),
    (
        "02_bom.xml",
        Whole("the file is a Remittance.Advice, not a Claim.Submission: `weft remittance import` takes it"),
    ),
];

fn input(name: &str) -> String {
    workspace_root()
        .join("tests/inputs")
        .join(name)
        .display()
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_submission_and_csv_of_the_test_inputs_has_its_expected_outcome_twice() {
    let stack = Stack::start().await;
    for (number, (name, verdict)) in FILES.iter().enumerate() {
        let weft = Weft::new(&stack, &format!("files-{number}"), &["admin"]);
        let money = if name.ends_with("csv") { "15.30" } else { "500.00" };
        match verdict {
            Taken => {
                assert_eq!(
                    outcome(&weft, name).await,
                    ("new".to_owned(), money.to_owned(), String::new())
                );
                let placed = weft.json(&["order", "list"]).await;
                assert_eq!(placed["orders"].as_array().map(Vec::len), Some(1), "{name}");
                let again = outcome(&weft, name).await;
                assert_eq!(
                    again,
                    ("unchanged".to_owned(), money.to_owned(), String::new()),
                    "{name}"
                );
                assert_eq!(
                    weft.json(&["order", "list"]).await,
                    placed,
                    "{name}: the second import changed something"
                );
            }
            Refused(rule, words) => {
                for _ in 0..2 {
                    let (outcome, refused, reason) = outcome(&weft, name).await;
                    assert_eq!(
                        (outcome.as_str(), refused.as_str()),
                        ("refused", money),
                        "{name}: {reason}"
                    );
                    assert!(
                        reason.starts_with(rule) && reason.contains(words),
                        "{name}: {reason}"
                    );
                }
                assert_eq!(orders(&weft).await, 0, "{name}");
            }
            Whole(words) => {
                for _ in 0..2 {
                    let refused = weft.run(&["order", "import", &input(name)]).await;
                    assert_eq!(refused.status.code(), Some(1), "{name}: {}", errors(&refused));
                    assert!(errors(&refused).contains(words), "{name}: {}", errors(&refused));
                }
                assert_eq!(orders(&weft).await, 0, "{name}");
            }
        }
    }
    let all = fs::read_dir(workspace_root().join("tests/inputs"))
        .unwrap()
        .flatten();
    let all = all.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let named = |name: &String| FILES.iter().any(|(known, _)| known == name);
    let forgotten: Vec<String> = all.filter(|name| is_of_orders(name) && !named(name)).collect();
    assert!(forgotten.is_empty(), "no verdict for {forgotten:?}");
}

/// A CSV file, or an XML submission in any encoding.
fn is_of_orders(name: &str) -> bool {
    let bytes = fs::read(input(name)).unwrap();
    let text: String = bytes
        .iter()
        .filter(|byte| **byte != 0)
        .map(|byte| char::from(*byte))
        .collect();
    name.ends_with(".csv") || (name.ends_with(".xml") && text.contains("Claim.Submission"))
}

/// Outcome, money and reason of a file with one document. The report must balance and account for all of it.
async fn outcome(weft: &Weft<'_>, name: &str) -> (String, String, String) {
    outcome_of(weft, &input(name)).await
}

async fn outcome_of(weft: &Weft<'_>, path: &str) -> (String, String, String) {
    let report = weft.json(&["order", "import", path]).await;
    assert_eq!(report["balanced"], true, "{report:#}");
    assert_eq!(
        report["equation"]["fileTotal"], report["read"]["money"],
        "{report:#}"
    );
    let outcomes = ["new", "unchanged", "refused", "unmatched", "undecided"];
    let found: Vec<&str> = outcomes
        .into_iter()
        .filter(|key| report[*key]["entries"] != 0)
        .collect();
    assert_eq!(found.len(), 1, "{report:#}");
    let reason = report["remarks"][0]["reason"].as_str().unwrap_or_default();
    let money = report[found[0]]["money"].as_str().unwrap();
    assert_eq!(report["read"]["money"], money, "{report:#}");
    (found[0].to_owned(), money.to_owned(), reason.to_owned())
}

async fn orders(weft: &Weft<'_>) -> usize {
    let listed = weft.json(&["order", "list"]).await;
    listed["orders"].as_array().map_or(0, Vec::len)
}

/// A wrong text of a file and its correction; the file's other claims or invoices were imported with the wrong one
/// already.
const CORRECTIONS: [(&str, &str, &str); 4] = [
    ("02nul.csv", "\0", ""),
    ("02nul_sub.xml", "\0", ""),
    ("11d_comma.xml", "400,00", "400.00"),
    ("11e_quantity_0.xml", "<Quantity>0<", "<Quantity>1<"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_file_imports_what_the_wrong_one_left_out_and_nothing_twice() {
    let stack = Stack::start().await;
    for (number, (name, wrong, meant)) in CORRECTIONS.into_iter().enumerate() {
        let weft = Weft::new(&stack, &format!("corrected-{number}"), &["admin"]);
        assert_eq!(outcome(&weft, name).await.0, "refused", "{name}");
        let text = fs::read_to_string(input(name)).unwrap();
        assert!(text.contains(wrong), "{name}");
        let corrected = stack.folder().join(format!("{number}-{name}"));
        fs::write(&corrected, text.replace(wrong, meant)).unwrap();
        let corrected = corrected.display().to_string();
        for expected in ["new", "unchanged"] {
            let (found, _, reason) = outcome_of(&weft, &corrected).await;
            assert_eq!(found, expected, "{name}: {reason}");
        }
        assert_eq!(orders(&weft).await, 1, "{name}");
    }
    let charged = stack.database(Service::Payment);
    let charged = charged.count("select count(*) from payment.payment").await;
    assert_eq!(charged, 4, "each was charged once");
}

/// An invoice is imported as a whole or not at all and does not affect the others of its file.
#[tokio::test(flavor = "multi_thread")]
async fn the_good_invoices_of_a_file_are_kept_when_the_wrong_one_is_corrected() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let heading = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country";
    let when = "2011-01-04 10:00:00";
    let wrong = format!(
        "{heading}\n1,A,a,1,{when},1.00,7.0,UK\n2,B,b,1,{when},2.00,7.0,UK\n2,C,c,x,{when},3.00,7.0,UK\n"
    );
    let file = stack.folder().join("invoices.csv");
    let path = file.display().to_string();
    fs::write(&file, &wrong).unwrap();
    let first = weft.json(&["order", "import", &path]).await;
    assert_eq!(entries(&first), [1, 0], "{first:#}");
    assert!(
        first["refused"]["lines"].as_u64() >= Some(2),
        "the whole invoice is refused: {first:#}"
    );
    fs::write(&file, wrong.replace(",x,", ",2,")).unwrap();
    for expected in [[1, 1], [0, 2]] {
        let report = weft.json(&["order", "import", &path]).await;
        assert_eq!(entries(&report), expected, "{report:#}");
    }
    assert_eq!(orders(&weft).await, 2);
}

/// New and unchanged orders.
fn entries(report: &Value) -> [u64; 2] {
    ["new", "unchanged"].map(|key| report[key]["entries"].as_u64().unwrap())
}
