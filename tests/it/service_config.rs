//! The service configs that are generated from the contract.

use std::fs;

use mesh::{Channel, ChannelOptions, Policies, generate_service_config};

const SERVICES: [&str; 3] = ["order", "payment", "claims"];

fn policies() -> Policies {
    Policies::from_annotated_descriptors(proto::DESCRIPTORS).unwrap()
}

#[test]
fn the_checked_in_service_configs_are_fresh() {
    for service in SERVICES {
        let file = format!("clients/service-config/{service}.json");
        let kept = fs::read_to_string(tests::workspace_root().join(&file)).unwrap();
        let now = generate_service_config(&policies(), &format!("{service}.v1")).unwrap();
        // The texts are long: the file name is enough for the message.
        assert!(
            kept == format!("{now:#}\n"),
            "{file} is stale: run `make service-config`"
        );
    }
}

/// The strict parser of operators' overrides checks the generated names and formats.
#[tokio::test]
async fn the_mesh_reads_the_generated_configs_with_the_values_of_the_contract() {
    for service in SERVICES {
        let package = format!("{service}.v1");
        let config = generate_service_config(&policies(), &package).unwrap();
        let mut options = ChannelOptions::new("static:http://127.0.0.1:1", service, "test");
        options.tuning.service_config = Some(config.to_string());
        let channel = Channel::connect(options, &policies()).unwrap();
        let mut found = 0;
        for method in channel.snapshot().methods {
            if !method.name.starts_with(&format!("{package}.")) {
                continue;
            }
            let policies = policies();
            let policy = policies.method(&format!("/{}", method.name)).unwrap();
            let timeout = u64::try_from(policy.timeout.as_millis()).unwrap();
            assert_eq!(method.timeout_ms, timeout, "{}", method.name);
            assert!(method.timeout_source.starts_with("methodConfig["), "{method:?}");
            let attempts = policy.retry.as_ref().map_or(1, |retry| retry.max_attempts);
            assert_eq!(method.max_attempts, attempts, "{}", method.name);
            found += 1;
        }
        assert_eq!(
            found,
            config["methodConfig"].as_array().unwrap().len(),
            "{package}"
        );
    }
}
