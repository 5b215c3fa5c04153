//! Valid values of the variables, and messages about unsupported ones.

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment::new(pairs.iter().map(|(name, value)| (name.into(), value.into())))
}

fn faults(pairs: &[(&str, &str)]) -> Vec<String> {
    let mut violations = Violations::new();
    environment(pairs).check(&mut violations);
    let messages = violations
        .iter()
        .map(|found| format!("{}: {}", found.field, found.description));
    messages.collect()
}

#[test]
fn an_invalid_value_is_reported_once_with_its_variable_and_what_is_expected() {
    for (name, value, expected) in [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            "must be http:// or https://",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector",
            "must be http:// or https://",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "10.0.0.1:4317",
            "must be http:// or https://",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "grpc://collector:4317",
            "must be http:// or https://",
        ),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://", "with a host"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "collector:4317",
            "must be http:// or https://",
        ),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "must be grpc"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json", "must be grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "must be gzip or none"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes", "must be true or false"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "must be name=value"),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            "/key.pem",
            "needs OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        ),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
            "/cert.pem",
            "needs OTEL_EXPORTER_OTLP_CLIENT_KEY",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "both",
            "must be cumulative, delta or",
        ),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment", "must be key=value"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "must be otlp or none"),
        ("OTEL_TRACES_SAMPLER", "xray", "must be one of"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "whole number of milliseconds"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4000000000", "from 1 to 1000000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "from 1 to"),
    ] {
        let found = faults(&[(name, value)]);
        assert_eq!(found.len(), 1, "{name}={value}: {found:?}");
        assert!(
            found[0].starts_with(name) && found[0].contains(expected),
            "{found:?}"
        );
        assert_eq!(
            faults(&[(name, value), ("OTEL_SDK_DISABLED", "true")]),
            Vec::<String>::new()
        );
    }
    let ratio = [
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
    ];
    assert_eq!(faults(&ratio).len(), 1);
}

#[test]
fn a_refused_value_that_may_hold_a_secret_is_not_repeated() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://user:hidden@host"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:hidden@host"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization hidden"),
    ] {
        let found = faults(&[(name, value)]);
        assert_eq!(found.len(), 1, "{name}");
        assert!(!found[0].contains("hidden"), "{found:?}");
    }
}

#[test]
fn what_the_specification_allows_and_is_supported_is_not_refused() {
    let found = faults(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317/"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://[::1]:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20a=b,x-tenant=c",
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", ""),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        (
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=a, k8s.pod.name=b,",
        ),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
    ]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn an_endpoint_is_the_signals_own_or_the_one_for_all_and_none_turns_it_off() {
    let both = environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a:4317"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://b:4317"),
        ("OTEL_METRICS_EXPORTER", "none"),
    ]);
    assert_eq!(both.endpoint("TRACES").as_deref(), Some("https://a:4317"));
    assert_eq!(both.endpoint("LOGS").as_deref(), Some("http://b:4317"));
    assert_eq!(both.endpoint("METRICS"), None);
    for (insecure, expected) in [("true", "http://a:4317"), ("false", "https://a:4317")] {
        let bare = environment(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "a:4317"),
            ("OTEL_EXPORTER_OTLP_INSECURE", insecure),
        ]);
        assert_eq!(bare.endpoint("TRACES").as_deref(), Some(expected));
    }
    let chosen = environment(&[
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
    ]);
    assert_eq!(chosen.endpoint("TRACES").as_deref(), Some(DEFAULT_ENDPOINT));
    assert_eq!(chosen.endpoint("LOGS"), None);
}

#[test]
fn variables_without_effect_are_named() {
    let plaintext = environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "key=value"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_PROPAGATORS", "b3"),
        ("OTEL_LOG_LEVEL", "debug"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "1"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(
        plaintext.without_effect(),
        [
            "OTEL_BSP_EXPORT_TIMEOUT",
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "OTEL_LOG_LEVEL",
            "OTEL_PROPAGATORS",
            "OTEL_TRACES_SAMPLER_ARG"
        ]
    );
    let secure = environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://a:4317"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
    ]);
    assert_eq!(secure.without_effect(), Vec::<&str>::new());
}

#[test]
fn the_links_that_kubernetes_sets_for_a_service_named_otel_collector_are_ignored() {
    let linked = environment(&[
        ("OTEL_COLLECTOR_SERVICE_HOST", "10.0.0.7"),
        ("OTEL_COLLECTOR_SERVICE_PORT", "4317"),
        ("OTEL_COLLECTOR_SERVICE_PORT_OTLP", "4317"),
        ("OTEL_COLLECTOR_PORT", "tcp://10.0.0.7:4317"),
        ("OTEL_COLLECTOR_PORT_4317_TCP", "tcp://10.0.0.7:4317"),
        ("OTEL_COLLECTOR_PORT_4317_TCP_ADDR", "10.0.0.7"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"),
    ]);
    assert_eq!(linked.without_effect(), ["OTEL_EXPORTER_PROMETHEUS_PORT"]);
}

#[test]
fn the_service_is_called_what_its_variables_say() {
    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=front");
    assert_eq!(environment(&[]).service_name(), None);
    assert_eq!(environment(&[attributes]).service_name(), Some("front"));
    let both = environment(&[attributes, ("OTEL_SERVICE_NAME", "back")]);
    assert_eq!(both.service_name(), Some("back"));
}
