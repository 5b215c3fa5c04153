//! The checked-in service configs for clients in other languages match the current contract.

use std::fs;

use mesh::Policies;

#[test]
fn the_checked_in_service_configs_are_fresh() {
    let policies = Policies::from_descriptors(proto::DESCRIPTORS).unwrap();
    for service in ["order", "payment", "claims"] {
        let file = format!("clients/service-config/{service}.json");
        let kept = fs::read_to_string(tests::workspace_root().join(&file)).unwrap();
        let now = policies.service_config(&format!("{service}.v1")).unwrap();
        // The texts are long: the file name is enough for the message.
        assert!(
            kept == format!(
                "{now:#}
"
            ),
            "{file} is stale: run `make service-config`"
        );
    }
}
