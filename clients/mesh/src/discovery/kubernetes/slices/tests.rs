use serde_json::{Value, json};

use super::*;

fn service(text: &str, zone: Option<&str>) -> Service {
    Service::parse(text, zone, || Ok("own".to_owned())).unwrap()
}

fn endpoint(address: &str, conditions: &Value) -> Value {
    json!({"addresses": [address], "conditions": conditions})
}

fn slice(name: &str, endpoints: &[Value]) -> Value {
    json!({
        "metadata": {"name": name, "resourceVersion": "1"},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"name": "grpc", "port": 7102}, {"name": "probe", "port": 7202}],
    })
}

fn called(service: &Service, slices: &[Value]) -> Vec<String> {
    let mut known = Slices::default();
    for slice in slices {
        known
            .insert(serde_json::from_value(slice.clone()).unwrap(), service)
            .unwrap();
    }
    let addresses = known.addresses();
    addresses
        .iter()
        .map(|address| {
            let zone = address.zone.as_deref().map(|zone| format!("@{zone}"));
            format!(
                "{}:{}{}",
                address.host,
                address.port.unwrap(),
                zone.unwrap_or_default()
            )
        })
        .collect()
}

#[test]
fn endpoints_have_the_labels_of_the_target_and_their_zone_from_the_api() {
    let labelled = service("http://payment:grpc;version=v2", None);
    let mut known = Slices::default();
    let slice = slice("a", &[endpoint("10.0.0.1", &json!({}))]);
    known
        .insert(serde_json::from_value(slice).unwrap(), &labelled)
        .unwrap();
    assert_eq!(known.addresses()[0].labels.to_string(), "version=v2");
    let error = Service::parse("http://payment:grpc;zone=a", None, || Ok("own".to_owned())).unwrap_err();
    assert!(error.contains("no zone"), "{error}");
}

#[test]
fn terminating_endpoints_that_serve_are_used_only_if_none_is_ready() {
    let service = service("http://payment:grpc", None);
    let ready = endpoint(
        "10.0.0.1",
        &json!({"ready": true, "serving": true, "terminating": false}),
    );
    let unsaid = endpoint("10.0.0.2", &json!({}));
    let starting = endpoint("10.0.0.3", &json!({"ready": false, "serving": false}));
    let stopping = endpoint(
        "10.0.0.4",
        &json!({"ready": false, "serving": true, "terminating": true}),
    );
    let stopped = endpoint(
        "10.0.0.5",
        &json!({"ready": false, "serving": false, "terminating": true}),
    );
    // A Service with publishNotReadyAddresses reports all endpoints as ready.
    let announced = endpoint(
        "10.0.0.6",
        &json!({"ready": true, "serving": true, "terminating": true}),
    );
    let rest = [starting, stopping, stopped, announced];
    let mut all = vec![ready, unsaid];
    all.extend(rest.clone());
    assert_eq!(
        called(&service, &[slice("a", &all)]),
        ["10.0.0.1:7102", "10.0.0.2:7102"]
    );
    assert_eq!(
        called(&service, &[slice("a", &rest)]),
        ["10.0.0.4:7102", "10.0.0.6:7102"]
    );
    assert!(called(&service, &[slice("a", &rest[..1])]).is_empty());
}

#[test]
fn a_port_is_found_by_name_or_by_number() {
    let one = [slice("a", &[endpoint("10.0.0.1", &json!({}))])];
    for (target, found) in [
        ("http://payment.weft:probe", Some("10.0.0.1:7202")),
        ("http://payment.weft:7102", Some("10.0.0.1:7102")),
        ("http://payment.weft:7109", None),
        ("http://payment.weft:metrics", None),
    ] {
        let calls = called(&service(target, None), &one);
        assert_eq!(calls.first().map(String::as_str), found, "{target}");
    }
    let mut portless = one[0].clone();
    portless["ports"] = Value::Null;
    assert_eq!(
        called(&service("http://payment:9", None), &[portless]),
        ["10.0.0.1:9"]
    );
}

#[test]
fn an_endpoint_counts_once_over_slices_and_families() {
    let one = endpoint("10.0.0.1", &json!({}));
    let mut six = slice("c", &[endpoint("fd00::1", &json!({}))]);
    six["addressType"] = json!("IPv6");
    let slices = [
        slice("a", std::slice::from_ref(&one)),
        slice("b", &[one]),
        six.clone(),
    ];
    let service = service("http://payment:grpc", None);
    assert_eq!(called(&service, &slices), ["10.0.0.1:7102"]);
    assert_eq!(called(&service, &[six]), ["fd00::1:7102"]);
}

#[test]
fn a_hint_for_the_own_zone_takes_precedence_over_the_zone_of_the_endpoint() {
    let mut near = endpoint("10.0.0.1", &json!({}));
    near["zone"] = json!("a");
    let mut lent = endpoint("10.0.0.2", &json!({}));
    lent["zone"] = json!("b");
    lent["hints"] = json!({"forZones": [{"name": "c"}, {"name": "a"}]});
    let mut given_away = endpoint("10.0.0.3", &json!({}));
    given_away["zone"] = json!("a");
    given_away["hints"] = json!({"forZones": [{"name": "b"}]});
    let slices = [slice("s", &[near, lent, given_away])];
    assert_eq!(
        called(&service("http://payment:grpc", Some("a")), &slices),
        ["10.0.0.1:7102@a", "10.0.0.2:7102@a", "10.0.0.3:7102@b"]
    );
}

#[test]
fn a_service_is_named_with_or_without_its_namespace() {
    let near = service("https://payment:grpc", None);
    assert_eq!(
        (near.to_string().as_str(), near.is_secured()),
        ("payment.own", true)
    );
    assert!(near.path("limit=1").contains(
        "/namespaces/own/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dpayment&limit=1"
    ));
    for wrong in [
        "payment:grpc",
        "http://payment",
        "http://Payment:grpc",
        "http://payment.weft.svc:grpc",
        "http://payment:0",
        "http://payment:grpc/",
        "ftp://payment:grpc",
    ] {
        let error = Service::parse(wrong, None, || Ok("own".to_owned())).unwrap_err();
        assert!(error.contains(wrong), "{error}");
    }
}
