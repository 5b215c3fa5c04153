use super::*;

fn refused(json: &str) -> (String, String) {
    match ServiceConfig::parse(json) {
        Err(Error::ServiceConfig { path, reason }) => (path, reason),
        other => panic!("{json} gave {other:?}"),
    }
}

#[test]
fn a_standard_config_is_read() {
    let config = ServiceConfig::parse(
        r#"{
            "loadBalancingConfig": [{"peak_ewma": {}}, {"round_robin": {}}],
            "methodConfig": [
                {"name": [{}], "timeout": "10s"},
                {"name": [{"service": "a.B"}], "waitForReady": true},
                {"name": [{"service": "a.B", "method": "C"}], "timeout": "0.25s", "retryPolicy": {
                    "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s",
                    "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE", 10]
                }}
            ],
            "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
            "healthCheckConfig": {"serviceName": "a.B"}
        }"#,
    )
    .unwrap();
    assert_eq!(config.find("a.B", "C").unwrap().0, 2);
    assert_eq!(config.find("a.B", "D").unwrap().0, 1);
    assert_eq!(config.find("x.Y", "Z").unwrap().0, 0);
    let (_, exact) = config.find("a.B", "C").unwrap();
    assert_eq!(exact.timeout, Some(Duration::from_millis(250)));
    assert_eq!(
        exact.retry_policy.as_ref().unwrap().retryable_status_codes,
        [Code::Unavailable, Code::Aborted]
    );
}

#[test]
fn the_standard_balancing_policies_are_accepted_and_unknown_ones_before_them_skipped() {
    for policies in [
        r#"[{"round_robin": {}}]"#,
        r#"[{"pick_first": {"shuffleAddressList": true}}]"#,
        r#"[{"xds_cluster_resolver": {}}, {"round_robin": {}}]"#,
        "[]",
    ] {
        let config = format!(r#"{{"loadBalancingConfig": {policies}}}"#);
        assert!(ServiceConfig::parse(&config).is_ok(), "{policies}");
    }
}

#[test]
fn every_error_is_reported_with_its_path() {
    let method = |rest: &str| format!(r#"{{"methodConfig": [{{"name": [{{"service": "a.B"}}], {rest}}}]}}"#);
    let retry = |field: &str, value: &str| {
        let mut policy = serde_json::json!({
            "maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1,
            "retryableStatusCodes": []
        });
        policy[field] = serde_json::from_str(value).unwrap();
        method(&format!(r#""retryPolicy": {policy}"#))
    };
    for (json, path) in [
        (r#"{"methodConfigs": []}"#.to_owned(), "methodConfigs"),
        (method(r#""timeOut": "1s""#), "methodConfig[0].timeOut"),
        (method(r#""timeout": "1m""#), "methodConfig[0].timeout"),
        (
            method(r#""maxRequestMessageBytes": -1"#),
            "methodConfig[0].maxRequestMessageBytes",
        ),
        (
            retry("perAttemptRecvTimeout", "\"1m\""),
            "methodConfig[0].retryPolicy.perAttemptRecvTimeout",
        ),
        (
            retry("maxAttempts", "\"many\""),
            "methodConfig[0].retryPolicy.maxAttempts",
        ),
        (
            method(r#""timeout": "18446744073709551615s""#),
            "methodConfig[0].timeout",
        ),
        (
            retry("initialBackoff", "\"soon\""),
            "methodConfig[0].retryPolicy.initialBackoff",
        ),
        (
            retry("retryableStatusCodes", "[\"BUSY\"]"),
            "methodConfig[0].retryPolicy.retryableStatusCodes",
        ),
        (retry("attempts", "3"), "methodConfig[0].retryPolicy.attempts"),
        (
            r#"{"methodConfig": [{"timeout": "1s"}]}"#.to_owned(),
            "methodConfig[0].name",
        ),
        (
            r#"{"methodConfig": [{"name": [{"method": "C"}]}]}"#.to_owned(),
            "methodConfig[0].name[0]",
        ),
        (
            r#"{"methodConfig": [{"name": [{}]}, {"name": [{}]}]}"#.to_owned(),
            "methodConfig[1].name[0]",
        ),
        (
            r#"{"loadBalancingConfig": [{"ring_hash_experimental": {}}]}"#.to_owned(),
            "loadBalancingConfig",
        ),
        (
            r#"{"loadBalancingConfig": [{"round_robin": {}, "pick_first": {}}]}"#.to_owned(),
            "loadBalancingConfig[0]",
        ),
        (
            r#"{"retryThrottling": {"maxTokens": 0, "tokenRatio": 1}}"#.to_owned(),
            "retryThrottling.maxTokens",
        ),
        (
            r#"{"retryThrottling": {"maxTokens": 1, "tokenRatio": 0}}"#.to_owned(),
            "retryThrottling.tokenRatio",
        ),
        (r#"{"healthCheckConfig": {}}"#.to_owned(), "healthCheckConfig"),
        (r#"{} {}"#.to_owned(), "."),
    ] {
        let (found, reason) = refused(&json);
        assert_eq!(found, path, "{reason}");
    }
}

#[test]
fn retries_and_hedging_in_one_config_are_an_error() {
    let json = r#"{"methodConfig": [{"name": [{}],
        "retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1,
            "retryableStatusCodes": ["UNAVAILABLE"]},
        "hedgingPolicy": {"maxAttempts": 2, "hedgingDelay": "1s"}}]}"#;
    assert_eq!(refused(json).0, "methodConfig[0].hedgingPolicy");
}

#[test]
fn standard_fields_and_formats_are_accepted() {
    let config = ServiceConfig::parse(
        r#"{"methodConfig": [{"name": [{}], "maxRequestMessageBytes": "1024", "maxResponseMessageBytes": 2048,
            "retryPolicy": {"maxAttempts": "9", "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"], "perAttemptRecvTimeout": "0.5s"}}]}"#,
    )
    .unwrap();
    let (_, method) = config.find("a.B", "C").unwrap();
    assert_eq!(method.max_request_message_bytes, Some(1_024));
    assert_eq!(method.max_response_message_bytes, Some(2_048));
    let retry = method.retry_policy.as_ref().unwrap();
    assert_eq!(retry.max_attempts, 5, "gRFC A6: more than five count as five");
    assert_eq!(retry.per_attempt_recv_timeout, Some(Duration::from_millis(500)));
}
