use serde_json::json;

use super::*;
use crate::service_config::ServiceConfig;

fn read(policies: &Value) -> Result<Option<OutlierDetection>, Error> {
    let config = ServiceConfig::parse(&json!({ "loadBalancingConfig": policies }).to_string())?;
    Ok(config.outlier_detection.map(std::sync::Arc::unwrap_or_clone))
}

/// An outlier detection with a child policy and these settings.
fn with(settings: &Value) -> Value {
    let mut policy = json!({ "childPolicy": [{ "round_robin": {} }] });
    for (name, value) in settings.as_object().unwrap() {
        policy[name] = value.clone();
    }
    json!([{ "outlier_detection_experimental": policy }])
}

fn refused(policies: &Value) -> (String, String) {
    match read(policies) {
        Err(Error::ServiceConfig { path, reason }) => (path, reason),
        other => panic!("{policies} gave {other:?}"),
    }
}

#[test]
fn an_outlier_detection_is_read_by_both_of_its_names() {
    let settings = json!({
        "interval": "2.5s",
        "baseEjectionTime": "1s",
        "maxEjectionTime": "60s",
        "maxEjectionPercent": 40,
        "successRateEjection": {
            "stdevFactor": 1500, "enforcementPercentage": 50, "minimumHosts": 3, "requestVolume": "20"
        },
        "failurePercentageEjection": {
            "threshold": 30, "enforcementPercentage": 0, "minimumHosts": 2, "requestVolume": 10
        },
        "childPolicy": [{ "least_request_experimental": {} }, { "round_robin": {} }],
    });
    for name in ["outlier_detection_experimental", "outlier_detection"] {
        let read = read(&json!([{ "xds_cluster_impl": {} }, { name: settings }, { "round_robin": {} }]));
        let expected = OutlierDetection {
            source: format!("loadBalancingConfig[1].{name}"),
            interval: Duration::from_millis(2_500),
            base_ejection_time: Duration::from_secs(1),
            max_ejection_time: Duration::from_secs(60),
            max_ejection_percent: Some(40),
            success_rate: Some(SuccessRateEjection {
                stdev_factor: 1_500,
                enforcement_percentage: 50,
                minimum_hosts: 3,
                request_volume: 20,
            }),
            failure_percentage: Some(FailurePercentageEjection {
                threshold: 30,
                enforcement_percentage: 0,
                minimum_hosts: 2,
                request_volume: 10,
            }),
        };
        assert_eq!(read.unwrap(), Some(expected));
    }
}

#[test]
fn the_defaults_are_those_of_the_standard() {
    let policy = read(&with(&json!({ "successRateEjection": {} })))
        .unwrap()
        .unwrap();
    assert_eq!(policy.interval, Duration::from_secs(10));
    assert_eq!(policy.base_ejection_time, Duration::from_secs(30));
    assert_eq!(policy.max_ejection_time, Duration::from_secs(300));
    assert_eq!(policy.max_ejection_percent(), 10);
    let success_rate = SuccessRateEjection {
        stdev_factor: 1_900,
        enforcement_percentage: 100,
        minimum_hosts: 5,
        request_volume: 100,
    };
    assert_eq!(
        (policy.success_rate, policy.failure_percentage),
        (Some(success_rate), None)
    );
    let policy = read(&with(
        &json!({ "failurePercentageEjection": {}, "baseEjectionTime": "400s" }),
    ));
    let policy = policy.unwrap().unwrap();
    assert_eq!(
        policy.max_ejection_time,
        Duration::from_secs(400),
        "never less than the base"
    );
    let failure_percentage = FailurePercentageEjection {
        threshold: 85,
        enforcement_percentage: 100,
        minimum_hosts: 5,
        request_volume: 50,
    };
    assert_eq!(
        (policy.success_rate, policy.failure_percentage),
        (None, Some(failure_percentage))
    );
    let policy = read(&with(&json!({}))).unwrap().unwrap();
    assert!(!policy.has_algorithm());
    let policy = read(&with(&json!({ "successRateEjection": null })))
        .unwrap()
        .unwrap();
    assert!(!policy.has_algorithm(), "null stands for a field that is not set");
}

#[test]
fn another_policy_before_it_is_selected_instead() {
    let policies = json!([{ "round_robin": {} }, { "outlier_detection_experimental": { "interval": "?" } }]);
    assert_eq!(read(&policies).unwrap(), None);
}

#[test]
fn every_error_is_reported_with_its_path() {
    let path = "loadBalancingConfig[0].outlier_detection_experimental";
    let algorithm = |name: &str, field: &str, value: Value| {
        (json!({ name: { field: value } }), format!("{name}.{field}"))
    };
    let field = |name: &str, value: Value| (json!({ name: value }), name.to_owned());
    let (success, failure) = ("successRateEjection", "failurePercentageEjection");
    for (settings, at) in [
        field("maxEjectionPercentage", json!(10)),
        field("interval", json!("0s")),
        field("interval", json!("-1s")),
        field("interval", json!("0.009s")),
        field("interval", json!(10)),
        field("interval", json!("10")),
        field("baseEjectionTime", json!("0s")),
        field("baseEjectionTime", json!("315576000001s")),
        field("maxEjectionTime", json!("0s")),
        field("maxEjectionTime", json!("29s")),
        field("maxEjectionPercent", json!(101)),
        field("maxEjectionPercent", json!(-1)),
        field("maxEjectionPercent", json!("ten")),
        field(success, json!([])),
        field(success, json!(true)),
        field(failure, json!([85])),
        algorithm(success, "threshold", json!(85)),
        algorithm(success, "stdevFactor", json!(1.9)),
        algorithm(success, "enforcementPercentage", json!(101)),
        algorithm(success, "minimumHosts", json!(-1)),
        algorithm(success, "requestVolume", json!("many")),
        algorithm(failure, "stdevFactor", json!(1900)),
        algorithm(failure, "threshold", json!(101)),
        algorithm(failure, "enforcementPercentage", json!(200)),
        algorithm(failure, "minimumHosts", json!([])),
        algorithm(failure, "requestVolume", json!(4_294_967_296_u64)),
        field("childPolicy", Value::Null),
        field("childPolicy", json!([])),
        field("childPolicy", json!([{ "ring_hash_experimental": {} }])),
        (json!({ "childPolicy": [{}] }), "childPolicy[0]".to_owned()),
        (
            json!({ "childPolicy": ["round_robin"] }),
            "childPolicy[0]".to_owned(),
        ),
        (
            json!({ "childPolicy": [{ "outlier_detection": {} }] }),
            "childPolicy[0].outlier_detection".to_owned(),
        ),
    ] {
        let (found, reason) = refused(&with(&settings));
        assert_eq!(found, format!("{path}.{at}"), "{reason}");
    }
    let times = json!({ "baseEjectionTime": "20s", "maxEjectionTime": "10s" });
    let (found, reason) = refused(&with(&times));
    assert_eq!(found, format!("{path}.maxEjectionTime"));
    assert_eq!(reason, "must be at least the baseEjectionTime of 20s");
    for (policies, at) in [
        (json!([{ "outlier_detection_experimental": {} }]), ".childPolicy"),
        (json!([{ "outlier_detection_experimental": [] }]), ""),
        (json!([{ "outlier_detection_experimental": null }]), ""),
    ] {
        assert_eq!(refused(&policies).0, format!("{path}{at}"));
    }
}

#[test]
fn an_outlier_detection_may_contain_routes_and_not_the_other_way_round() {
    let routes = json!({ "routes": [{ "split": [{ "labels": { "version": "v2" }, "weight": 1 }] }] });
    let policies = json!([{ "outlier_detection": { "childPolicy": [{ "weft_routes": routes }] } }]);
    let config = ServiceConfig::parse(&json!({ "loadBalancingConfig": policies }).to_string()).unwrap();
    assert!(config.outlier_detection.is_some());
    let path = "loadBalancingConfig[0].outlier_detection.childPolicy[0].weft_routes.routes";
    assert_eq!(config.routes.unwrap().path, path);

    let mut inside = routes;
    inside["childPolicy"] = json!([{ "outlier_detection": { "childPolicy": [{ "round_robin": {} }] } }]);
    let (path, reason) = refused(&json!([{ "weft_routes": inside }]));
    assert_eq!(
        path,
        "loadBalancingConfig[0].weft_routes.childPolicy[0].outlier_detection"
    );
    assert!(reason.contains("must contain the routes"), "{reason}");
}
