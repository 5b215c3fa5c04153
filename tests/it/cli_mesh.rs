//! `weft mesh` against running services.

use std::time::Duration;

use tests::{Stack, eventually};

use crate::cli_fixture::Weft;

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_between_the_services_are_shown_with_the_policies_in_force() {
    let stack = Stack::start().await;
    let weft = Weft::new(&stack, "TEST-FAC-1", &["operator"]);
    // A service that started before its peers connects to them a moment later.
    let shown = eventually(Duration::from_secs(20), || async {
        let shown = weft.json(&["mesh", "top"]).await;
        let edges = shown["services"][0]["edges"].as_array().unwrap();
        let waiting = edges
            .iter()
            .find(|edge| edge["endpoints"][0]["connected"] != true);
        match waiting {
            Some(edge) => Err(format!("{edge:#}")),
            None => Ok(shown),
        }
    })
    .await;
    let services = shown["services"].as_array().unwrap();
    let callers: Vec<_> = services.iter().map(|service| &service["caller"]).collect();
    assert_eq!(callers, ["order", "payment", "claims"]);
    let edges = services[0]["edges"].as_array().unwrap();
    let called: Vec<_> = edges.iter().map(|edge| &edge["service"]).collect();
    assert_eq!(called, ["claims", "payment"]);
    for edge in edges {
        assert_eq!(
            edge["endpoints"][0]["breaker"], "MESH_BREAKER_STATE_CLOSED",
            "{edge:#}"
        );
    }

    let table = weft.run(&["mesh", "top"]).await;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("order > payment"), "{table}");

    let policies = weft.json(&["mesh", "policy", "Authorize", "--of", "order"]).await;
    let edges = policies["edges"].as_array().unwrap();
    let methods: Vec<_> = edges
        .iter()
        .flat_map(|edge| edge["methods"].as_array().unwrap())
        .collect();
    assert!(!methods.is_empty(), "{policies:#}");
    for method in methods {
        assert_eq!(method["timeoutSource"], "contract", "{method:#}");
    }
}
