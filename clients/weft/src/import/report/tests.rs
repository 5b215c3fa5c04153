use super::*;

fn pounds(minor: i64) -> Money {
    Money::new(minor, Currency::GBP)
}

fn entry(outcome: Outcome, lines: u64, minor: i64) -> Entry {
    let reason = if outcome == Outcome::Refused {
        "NEGATIVE_QUANTITY: no".to_owned()
    } else {
        String::new()
    };
    Entry {
        document: "1".into(),
        line: 7,
        lines,
        amount: pounds(minor),
        outcome,
        reason,
    }
}

fn report() -> Report {
    let mut report = Report::new("day.csv".into(), "online-retail", Currency::GBP);
    report.count(3, pounds(1000));
    report.count(1, pounds(-250));
    report.count(1, pounds(-40));
    report.record(entry(Outcome::New, 2, 1000));
    report.record(entry(Outcome::Refused, 1, 0));
    report.record(entry(Outcome::Refunded, 1, -250));
    report.record(entry(Outcome::Unmatched, 1, -40));
    report.finish(Duration::from_secs(1));
    report
}

#[test]
fn file_total_is_accepted_less_refunded_plus_refused() {
    let report = report();
    assert!(report.balances() && report.is_clean());
    let json = report.to_json();
    assert_eq!(
        json["equation"],
        json!({
            "fileTotal": "7.10", "accepted": "10.00", "refunded": "2.50", "refused": "-0.40", "undecided": "0.00"
        })
    );
    assert_eq!(json["remarks"][0]["reason"], "NEGATIVE_QUANTITY: no");
    assert!(
        report
            .to_string()
            .contains("file total 7.10 = accepted 10.00 - refunded 2.50 + refused -0.40")
    );
}

#[test]
fn a_missing_penny_or_line_is_detected() {
    let mut penny = report();
    penny.record(entry(Outcome::New, 0, 1));
    assert!(!penny.balances());
    let mut line = report();
    line.count(1, pounds(0));
    assert!(!line.balances() && !line.is_clean());
}

#[test]
fn undecided_entries_balance_and_are_not_clean() {
    let mut report = report();
    report.count(1, pounds(5));
    report.record(entry(Outcome::Undecided, 1, 5));
    assert!(report.balances() && !report.is_clean());
    assert_eq!(report.to_json()["equation"]["undecided"], "0.05");
    assert!(
        report
            .to_string()
            .contains("file total 7.15 = accepted 10.00 - refunded 2.50 + refused -0.40 + undecided 0.05")
    );
}

#[test]
fn lines_without_a_readable_amount_are_reported_beside_the_total() {
    let mut report = report();
    report.lines_without_amount = 2;
    assert!(report.is_clean());
    assert_eq!(report.to_json()["read"]["linesWithoutAmount"], 2);
    assert!(report.to_string().contains("no sum holds the 2 refused lines"));
    report.unreadable_lines = 1;
    assert!(!report.is_clean());
    assert_eq!(report.to_json()["read"]["unreadableLines"], 1);
}
