//! Messages about empty lists, unknown names and invalid options.

use serde_json::Value;
use tests::Stack;

use crate::cli_fixture::{Weft, errors, example};

/// The output of a successful command.
async fn shown(weft: &Weft<'_>, line: &str) -> String {
    let output = weft.run(&line.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(output.status.code(), Some(0), "{line}: {}", errors(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_is_described_by_its_filters() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    for (line, text) in [
        ("order list", "no orders"),
        ("payment list", "no payments"),
        ("claim list", "no claims"),
        ("saga list", "no sagas"),
        ("remittance parked", "no parked lines"),
        ("ledger balance", "the ledger is empty"),
        ("ledger entries", "no entries"),
        ("dlq list", "no dead letters are open"),
        ("dlq groups", "no dead letters are open"),
    ] {
        assert_eq!(shown(&weft, line).await, format!("{text}\n"), "{line}");
    }
    let place = "order place --line A:1:15.00 --payment-method tok_visa --capture immediate --reference";
    shown(&weft, &format!("{place} R-1")).await;
    weft.json(&["order", "place", "--line", "A:1:15.00", "--reference", "R-2"])
        .await;
    for (line, text) in [
        ("order list --state balance-due", "no orders match"),
        ("order list --patient P-9", "no orders match"),
        ("payment list --state DECLINED", "no payments match"),
        ("claim list --order R-1", "no claims match"),
        ("saga list --stuck", "no sagas match"),
        ("ledger entries --account BAD_DEBT", "no entries match"),
        (
            "ledger balance --currency USD",
            "the ledger has no entries in this currency",
        ),
        (
            "ledger balance --currency usd",
            "the ledger has no entries in this currency",
        ),
        (
            "ledger balance --order R-2",
            "the ledger has no entries of this order",
        ),
        (
            "ledger balance --order R-1 --currency USD",
            "the ledger has no entries of this order in this currency",
        ),
        ("dlq list --consumer payment-ledger", "no open dead letters match"),
        ("dlq list --state RESOLVED", "no dead letters match"),
    ] {
        assert_eq!(shown(&weft, line).await, format!("{text}\n"), "{line}");
    }
    let empty = weft.json(&["dlq", "list", "--consumer", "payment-ledger"]).await;
    assert_eq!(empty["deadLetters"], Value::Array(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_exist_is_refused_and_the_nearest_one_named() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    for (line, code, text) in [
        (
            "dlq list --consumer payment-ledgr",
            1,
            "did you mean `payment-ledger`?",
        ),
        (
            "events pause payment-ledgr --reason because",
            1,
            "did you mean `payment-ledger`?",
        ),
        ("events resume payment-ledgr", 1, "did you mean `payment-ledger`?"),
        (
            "events tail --type order.v1.OrderConfirmd",
            2,
            "did you mean `order.v1.OrderConfirmed`?",
        ),
        ("mesh policy PlaceOrdr", 2, "did you mean `PlaceOrder`?"),
        (
            "mesh policy --of order AuthorizePaymnt",
            2,
            "did you mean `AuthorizePayment`?",
        ),
        ("dlq replay --group zz", 1, "weft dlq groups lists them"),
        ("order list --state FULFILED", 2, "'FULFILLED'"),
        ("order lst", 2, "'list'"),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let output = weft.run(&arguments).await;
        assert_eq!(output.status.code(), Some(code), "{line}: {}", errors(&output));
        assert!(errors(&output).contains(text), "{line}: {}", errors(&output));
        let output = weft.run(&[&["-o", "json"], &arguments[..]].concat()).await;
        let error: Value = serde_json::from_slice(&output.stderr).expect("one JSON document");
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(text), "{line}: {error:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_limit_applies_only_to_the_main_call_of_a_command() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let placed = [
        "order",
        "place",
        "--line",
        "A:1:15.00",
        "--payment-method",
        "tok_visa",
        "--reference",
        "R-1",
    ];
    weft.json(&placed).await;
    // GetOrder, which finds the order, has 5 s; FulfilOrder has more.
    weft.json(&["--timeout", "10s", "order", "fulfil", "R-1"]).await;
    weft.json(&[
        "--timeout",
        "10s",
        "order",
        "import",
        &example("01_submission.xml"),
    ])
    .await;
    for (line, method) in [
        ("order get R-1", "order.v1.OrderService/GetOrder"),
        ("claim get TEST-FAC-1/CLM-0001", "claims.v1.ClaimService/GetClaim"),
        ("order import /dev/zero", "order.v1.OrderService/PlaceOrder"),
        (
            "remittance import /dev/zero",
            "claims.v1.ClaimService/ImportRemittance",
        ),
    ] {
        let arguments = [&["--timeout", "1h"], &line.split(' ').collect::<Vec<_>>()[..]].concat();
        let output = weft.run(&arguments).await;
        assert_eq!(output.status.code(), Some(2), "{line}: {}", errors(&output));
        assert!(errors(&output).contains(method), "{line}: {}", errors(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_saga_has_no_step_to_skip() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let placed = [
        "order",
        "place",
        "--line",
        "A:1:15.00",
        "--payment-method",
        "tok_visa",
        "--capture",
        "immediate",
    ];
    weft.json(&placed).await;
    let sagas = weft.json(&["saga", "list"]).await;
    let saga = sagas["sagas"][0]["id"].as_str().unwrap();
    for help in ["skip", "force-complete"] {
        for yes in [&[][..], &["--yes"]] {
            let output = weft
                .run(&[&["saga", help, saga, "--reason", "because"], yes].concat())
                .await;
            assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
            assert!(
                errors(&output).contains("is COMPLETED: there is no step"),
                "{}",
                errors(&output)
            );
        }
    }
    let ended = shown(&weft, &format!("saga show {saga}")).await;
    assert!(!ended.contains("stuck after"), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_commands_print_json_with_output_json() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let paused = weft
        .json(&[
            "events",
            "pause",
            "payment-ledger",
            "--reason",
            "two lines,\nof a reason",
        ])
        .await;
    assert_eq!(
        (&paused["consumer"], &paused["paused"]),
        (&"payment-ledger".into(), &true.into())
    );
    let resumed = weft.json(&["events", "resume", "payment-ledger"]).await;
    assert_eq!(resumed["paused"], false);
    let retried = weft.json(&["events", "retry"]).await;
    assert_eq!(
        retried["retried"].as_array().map(Vec::len),
        Some(3),
        "{retried:#}"
    );
    let down = weft
        .json(&[
            "down",
            "--dir",
            &stack.folder().join("none").display().to_string(),
        ])
        .await;
    assert_eq!(down["stopped"], false);
    let demo = weft.run(&["-o", "json", "demo"]).await;
    assert_eq!(demo.status.code(), Some(2), "{}", errors(&demo));
}

/// If the currency of an amount is wrong, no other violation of it is reported, since it would be unfounded.
#[tokio::test(flavor = "multi_thread")]
async fn one_violation_of_an_amount_is_reported_once() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let placed = [
        "order",
        "place",
        "--line",
        "A:1:15.00",
        "--payment-method",
        "tok_visa",
        "--capture",
        "immediate",
        "--reference",
        "R-1",
    ];
    weft.json(&placed).await;
    for (amount, text) in [
        ("5.00 GBP", "must be in the currency of the order"),
        (
            "-5.00",
            "must be from 0 to 1,000,000,000, with nanos from 0 to 999,999,999",
        ),
        ("0.00", "must be above zero"),
    ] {
        let output = weft
            .run(&["-o", "json", "order", "refund", "R-1", "--amount", amount])
            .await;
        let error: Value = serde_json::from_slice(&output.stderr).expect("one JSON document");
        let violations = error["error"]["violations"].as_array().unwrap();
        assert_eq!(violations.len(), 1, "{error:#}");
        assert_eq!(violations[0]["description"], text);
    }
}
