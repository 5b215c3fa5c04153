//! `weft order place` with validation only, and references to orders in all commands.

use serde_json::Value;
use tests::{Service, Stack};
use uuid::Uuid;

use crate::cli_fixture::{Weft, errors};

#[tokio::test(flavor = "multi_thread")]
async fn validating_a_request_file_places_and_charges_nothing() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let file = stack.folder().join("order.json");
    let money = r#"{"currencyCode": "AED", "units": "15"}"#;
    let line = format!(r#"{{"code": "A", "quantity": {{"value": "1"}}, "amount": {money}}}"#);
    let request = format!(r#"{{"lines": [{line}], "paymentMethod": "tok_visa", "reference": "R-1"}}"#);
    std::fs::write(&file, request).unwrap();
    let file = file.display().to_string();

    for only_check in [
        &["order", "place", "--request", &file, "--validate-only"][..],
        &[
            "order",
            "place",
            "--line",
            "A:1:15.00",
            "--payment-method",
            "tok_visa",
            "--validate-only",
        ],
    ] {
        let output = weft.run(only_check).await;
        assert_eq!(output.status.code(), Some(0), "{}", errors(&output));
        assert!(
            errors(&output).contains("nothing was kept"),
            "{}",
            errors(&output)
        );
    }
    // Every option that the file already sets is refused beside it, before anything is sent.
    for beside in [
        &["--capture", "immediate"][..],
        &["--payment-method", "tok_visa"],
        &["--patient", "7"],
        &["--patient-share", "1.00"],
        &["--reference", "R-2"],
        &["--currency", "AED"],
        &["--line", "A:1:15.00"],
        &["--claim", "claim.json"],
    ] {
        let arguments = [&["order", "place", "--request", &file][..], beside].concat();
        let output = weft.run(&arguments).await;
        assert_eq!(output.status.code(), Some(2), "{beside:?}: {}", errors(&output));
        assert!(errors(&output).contains(beside[0]), "{}", errors(&output));
    }
    assert_eq!(rows(&stack).await, [0, 0]);

    // Without the option the same file places an order: the counts above can change.
    weft.json(&["order", "place", "--request", &file]).await;
    assert_eq!(rows(&stack).await, [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_can_be_named_by_its_reference_in_every_command_even_if_it_looks_like_an_id() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    let looks_like_an_id = Uuid::new_v4().to_string();
    for reference in ["R-1", &looks_like_an_id] {
        let place = [
            "order",
            "place",
            "--line",
            "A:1:15.00",
            "--capture",
            "immediate",
            "--reference",
        ];
        let placed = weft.json(&[&place[..], &[reference]].concat()).await;
        let id = placed["order"]["id"].as_str().expect("an order").to_owned();

        let pay = ["payment", "pay", reference, "--payment-method", "tok_visa"];
        assert_eq!(weft.json(&pay).await["payment"]["orderId"], id);
        let paid = weft.json(&["payment", "get", "--order", reference]).await;
        assert_eq!(paid["payment"]["orderId"], id);
        for (list, rows) in [("payment", "payments"), ("saga", "sagas")] {
            let listed = weft.json(&[list, "list", "--order", reference]).await;
            assert_eq!(listed[rows].as_array().map(Vec::len), Some(1), "{listed:#}");
            assert_eq!(listed[rows][0]["orderId"], id);
        }
        for named in [&id, reference] {
            assert_eq!(weft.json(&["order", "get", named]).await["order"]["id"], id);
        }
        let entries = async |order: &str| -> [Value; 2] {
            [
                weft.json(&["ledger", "balance", "--order", order]).await,
                weft.json(&["ledger", "entries", "--order", order]).await,
            ]
        };
        assert_eq!(entries(reference).await, entries(&id).await);
        let claims = weft.json(&["claim", "list", "--order", reference]).await;
        assert_eq!(claims["claims"].as_array().map(Vec::len), Some(0), "{claims:#}");
        let withdrawn = weft.json(&["claim", "withdraw", "--order", reference]).await;
        assert_eq!(withdrawn["claim"], Value::Null);
    }

    let unknown = weft
        .run(&["-o", "json", "payment", "get", "--order", "R-9"])
        .await;
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(error_json(&errors(&unknown))["code"], "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_reported_in_json_with_output_json() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "shop", &["admin"]);
    for wrong in [
        &["-o", "json", "order", "place"][..],
        &["order", "list", "--output=json", "--state", "NEW"],
        &["--output", "json", "order", "list", "--timeout", ""],
        &["-o", "json", "order", "list", "--timeout", "20s"],
        &["-o", "json", "order"],
        &["-o", "json", "nothing"],
    ] {
        let output = weft.run(wrong).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", errors(&output));
        let error = error_json(&errors(&output));
        assert_eq!(error["kind"], "usage", "{wrong:?}");
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()));
    }
    let output = weft.run(&["order", "list", "--timeout", "20s"]).await;
    assert!(
        errors(&output).contains("5s") && errors(&output).contains("order.v1.OrderService/ListOrders"),
        "{}",
        errors(&output)
    );
}

/// Parses the error in JSON.
fn error_json(errors: &str) -> Value {
    let whole: Value = serde_json::from_str(errors).expect("one JSON document");
    whole["error"].clone()
}

/// Number of orders and payments.
async fn rows(stack: &Stack) -> [i64; 2] {
    [
        stack
            .database(Service::Order)
            .count("select count(*) from orders.placed_order")
            .await,
        stack
            .database(Service::Payment)
            .count("select count(*) from payment.payment")
            .await,
    ]
}
