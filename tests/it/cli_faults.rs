//! Behaviour of the command line on failures: malformed files, missing answers, full disks.

use std::{fs, process::Stdio, time::Duration};

use serde_json::Value;
use tests::{Options, Service, Stack, eventually};

use crate::cli_fixture::{Weft, errors, finished};

const HEADING: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country";

fn written(stack: &Stack, lines: &[&str]) -> String {
    let path = stack.folder().join("invoices.csv");
    fs::write(&path, format!("{HEADING}\n{}\n", lines.join("\n"))).unwrap();
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclosed_quotation_mark_loses_no_invoice_and_changes_no_price() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let file = written(
        &stack,
        &[
            "920011,A,\"x,1,12/1/2010 8:26,1.00,1,UK",
            "920012,A,x,1,12/1/2010 8:26,7.00,1,UK",
            "920013,A,\"y,1,12/1/2010 8:26,9.00,1,UK",
            "920014,A,y,1,12/1/2010 8:26,9.00,1,UK",
        ],
    );
    for outcome in ["new", "unchanged"] {
        let output = weft.run(&["-o", "json", "order", "import", &file]).await;
        assert_eq!(output.status.code(), Some(1), "{}", errors(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["read"]["lines"], 4, "{report:#}");
        assert_eq!(report["read"]["linesWithoutAmount"], 2, "{report:#}");
        assert_eq!(report["read"]["unreadableLines"], 2, "{report:#}");
        assert_eq!(report[outcome]["money"], "16.00", "{report:#}");
        assert_eq!(report["refused"]["lines"], 2, "{report:#}");
        assert_eq!(
            [&report["remarks"][0]["line"], &report["remarks"][1]["line"]],
            [2, 4]
        );
    }
    let orders = weft.json(&["order", "list"]).await;
    let mut references: Vec<&str> = orders["orders"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|order| order["reference"].as_str())
        .collect();
    references.sort_unstable();
    assert_eq!(references, ["920012", "920014"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_unpaid_order_is_imported_again_with_a_card() {
    let options = Options::default().set(Service::Order, "orders.payment_window_s", "1");
    let stack = Stack::with(options).await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let file = written(&stack, &["1,A,a,1,2011-01-04 10:00:00,1.00,7.0,UK"]);
    let line = "order place --line A:1:1.00:a --currency GBP --patient 7 --reference 1";
    weft.json(&line.split(' ').collect::<Vec<_>>()).await;
    eventually(Duration::from_secs(30), async || {
        let order = weft.json(&["order", "get", "1"]).await;
        match order["order"]["state"].as_str() {
            Some("ORDER_STATE_EXPIRED") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let report = weft.json(&["order", "import", &file]).await;
    assert_eq!(
        report["unchanged"]["money"]
            .as_str()
            .max(report["new"]["money"].as_str()),
        Some("1.00"),
        "{report:#}"
    );
    let order = weft.json(&["order", "get", "1"]).await;
    assert_ne!(order["order"]["state"], "ORDER_STATE_EXPIRED", "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_import_reports_what_a_killed_one_had_placed_as_unchanged() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let line = |number: i64| format!("{number},A,a,1,2011-01-04 10:00:00,1.00,{number}.0,UK");
    let lines: Vec<String> = (1..=10).map(line).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let file = written(&stack, &lines[..3]);
    let import = ["order", "import", &file, "--concurrency", "2"];
    weft.json(&import).await;
    written(&stack, &lines);
    // The import cannot finish.
    stack.kill9(Service::Payment);
    let mut killed = stack.weft(&stack.token("shop", &["admin"])).await;
    killed.args(import).stdout(Stdio::null()).stderr(Stdio::null());
    let mut killed = killed.spawn().unwrap();
    let orders = stack.database(Service::Order);
    let taken = || orders.count("select count(*) from orders.placed_order");
    eventually(Duration::from_secs(60), async || taken().await > 3).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let before = taken().await;
    stack.restart(Service::Payment).await;

    let report = weft.json(&import).await;
    let of = |key: &str| report[key]["entries"].as_i64().unwrap();
    assert!(of("unchanged") >= before, "{before} were taken: {report:#}");
    assert_eq!(of("unchanged") + of("new"), 10, "{report:#}");
    assert_eq!(report["equation"]["accepted"], "10.00", "{report:#}");
    assert_eq!(taken().await, 10);
    let again = weft.json(&import).await;
    assert_eq!(again["unchanged"]["entries"], 10, "{again:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_an_answer_prints_the_request_id_for_a_safe_retry() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let place = [
        "-o",
        "json",
        "order",
        "place",
        "--line",
        "A:1:1.00",
        "--payment-method",
        "tok_visa",
    ];
    stack.kill9(Service::Order);
    let failed = weft.run(&place).await;
    assert_eq!(failed.status.code(), Some(1));
    let error: Value = serde_json::from_slice(&failed.stderr).expect("one JSON document");
    let id = error["error"]["requestId"]
        .as_str()
        .expect("it names the request");
    let next = error["error"]["next"].as_str().unwrap_or_default();
    assert!(next.contains(&format!("--request-id {id}")), "{error}");
    stack.restart(Service::Order).await;
    let again: Vec<&str> = place.iter().copied().chain(["--request-id", id]).collect();
    for _ in 0..2 {
        let placed = weft.run(&again).await;
        assert_eq!(placed.status.code(), Some(0), "{}", errors(&placed));
    }
    let orders = weft.json(&["order", "list"]).await;
    assert_eq!(orders["orders"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_error_fails_the_command_and_a_closed_pipe_does_not() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let token = stack.token("shop", &["admin"]);
    for arguments in [
        &["order", "list"][..],
        &["ledger", "balance"],
        &["--version"],
        &["--help"],
    ] {
        let mut command = stack.weft(&token).await;
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        command.args(arguments).stdout(full).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let output = tokio::task::spawn_blocking(|| child.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(
            errors(&output).contains("No space left on device"),
            "{}",
            errors(&output)
        );
    }
    let mut command = stack.weft(&token).await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    command
        .args(["order", "list"])
        .stdout(writer.try_clone().unwrap())
        .stderr(writer);
    let mut child = command.spawn().unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    drop(weft);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_in_the_folder_of_a_stopped_system_send_no_call() {
    let stack = Stack::start().await;
    let mut command = stack.weft(&stack.token("shop", &["admin"])).await;
    for service in Service::ALL {
        command.env_remove(format!("WEFT_{}_URL", service.name().to_uppercase()));
    }
    command.args(["order", "list"]);
    let refused = finished(command).await;
    assert_eq!(refused.status.code(), Some(1));
    let error = errors(&refused);
    let folder = stack.folder().display().to_string();
    assert!(
        error.contains(&format!("nothing runs in {folder}: `weft up` starts it")),
        "{error}"
    );
}
