//! Runs `docs/runbooks/backup-restore.md`: the databases are dumped, lost and restored, everything is there again
//! and processing continues.

use std::{fs, process::Command, time::Duration};

use async_nats::jetstream;
use serde_json::Value;
use tests::{Durability, Options, Service, Stack, eventually, workspace_root};

use crate::cli_fixture::{Weft, balance, errors, example};

const RUNBOOK: &str = "docs/runbooks/backup-restore.md";
const LOST: &str =
    "dropdb --force \"$ORDER_DB\"; dropdb --force \"$PAYMENT_DB\"; dropdb --force \"$CLAIMS_DB\"";
const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn the_backup_runbook_restores_everything_and_processing_continues() {
    let stack = Stack::with(Options::default().own_postgres(Durability::Fast)).await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["admin"]);
    weft.json(&["order", "import", &example("01_submission.xml")])
        .await;
    weft.json(&["remittance", "import", &example("02_remittance_partial.xml")])
        .await;
    let place = "order place --line A:1:7.50 --payment-method tok_visa --capture immediate --reference R-1";
    let place: Vec<&str> = place.split(' ').collect();
    weft.json(&place).await;
    // The payer's 240.00 and both prices are booked by events.
    eventually(SOON, || async {
        let ledger = weft.json(&["ledger", "balance"]).await;
        let booked = [balance(&ledger, "PAYER_CASH"), balance(&ledger, "REVENUE")];
        (booked == [24_000, -50_750])
            .then_some(())
            .ok_or(format!("{ledger:#}"))
    })
    .await;
    caught_up(&weft).await;
    let before = everything(&weft).await;

    for service in Service::ALL {
        assert!(stack.stop(service).await.success());
    }
    let blocks = blocks();
    let [dump, restore] = blocks.as_slice() else {
        panic!("{RUNBOOK} has {} blocks to run", blocks.len())
    };
    run(&stack, dump);
    run(&stack, LOST);
    stack.nats().kill9();
    stack.nats().wipe();
    run(&stack, restore);
    stack.nats().restart().await;
    for service in Service::ALL {
        stack.restart(service).await;
    }

    caught_up(&weft).await;
    assert_eq!(everything(&weft).await, before, "something is lost or came twice");
    let logged = logged(&weft).await;
    let stream = jetstream::new(stack.nats().client().await)
        .get_stream("EVENTS")
        .await
        .unwrap();
    assert!(
        logged > 0 && stream.cached_info().state.messages >= logged,
        "{logged} are logged"
    );

    let report = weft
        .json(&["order", "import", &example("01_submission.xml")])
        .await;
    assert_eq!(report["unchanged"]["entries"], 1, "{report:#}");
    weft.json(&["order", "import", &example("03_resubmission.xml")])
        .await;
    weft.json(&["remittance", "import", &example("04_remittance_after_resub.xml")])
        .await;
    eventually(SOON, || async {
        let order = weft.json(&["order", "get", "TEST-FAC-1/CLM-0001"]).await;
        let ledger = weft.json(&["ledger", "balance"]).await;
        let is_paid = balance(&ledger, "PAYER_CASH") == 34_000 && ledger["balanced"] == true;
        let is_settled = order["order"]["state"] == "ORDER_STATE_SETTLED";
        (is_paid && is_settled)
            .then_some(())
            .ok_or(format!("{order:#} {ledger:#}"))
    })
    .await;
}

/// Everything that a user of the facility can read.
async fn everything(weft: &Weft<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for command in [
        "order list",
        "payment list",
        "claim list",
        "saga list",
        "ledger entries",
        "ledger balance",
        "dlq list",
    ] {
        let arguments: Vec<&str> = command.split(' ').collect();
        all.push(weft.json(&arguments).await);
    }
    all
}

/// Waits until the stream lacks no event and every consumer has consumed all of them.
async fn caught_up(weft: &Weft<'_>) {
    eventually(SOON, || async {
        let audit = weft.run(&["events", "audit"]).await;
        let lag = weft.json(&["events", "lag"]).await;
        let consumers = lag["consumers"].as_array().unwrap();
        let is_idle = |consumer: &Value| {
            let of = |field: &str| consumer["consumer"][field] == "0";
            of("pendingCount") && of("unacknowledgedCount")
        };
        if audit.status.success() && pending(weft).await == 0 && consumers.iter().all(is_idle) {
            Ok(())
        } else {
            Err(format!("{}{lag:#}", errors(&audit)))
        }
    })
    .await;
}

async fn logged(weft: &Weft<'_>) -> u64 {
    audited(weft, "loggedCount").await
}

async fn pending(weft: &Weft<'_>) -> u64 {
    audited(weft, "pendingCount").await
}

async fn audited(weft: &Weft<'_>, count: &str) -> u64 {
    let audit = weft.json(&["events", "audit"]).await;
    let of = |of: &Value| -> u64 { of["audit"][count].as_str().unwrap().parse().unwrap() };
    audit["audits"].as_array().unwrap().iter().map(of).sum()
}

fn blocks() -> Vec<String> {
    let runbook = fs::read_to_string(workspace_root().join(RUNBOOK)).unwrap();
    let blocks = runbook.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// Runs a script of the runbook in the stack's folder.
fn run(stack: &Stack, script: &str) {
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(stack.folder())
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", stack.postgres().port().to_string())
        .env("PGUSER", "postgres")
        .env("ORDER_DB", stack.database(Service::Order).name())
        .env("PAYMENT_DB", stack.database(Service::Payment).name())
        .env("CLAIMS_DB", stack.database(Service::Claims).name())
        .output()
        .expect("bash is on PATH");
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
