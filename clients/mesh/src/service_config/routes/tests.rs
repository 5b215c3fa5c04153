use super::{super::ServiceConfig, *};

fn config(policies: &str) -> String {
    format!(r#"{{"loadBalancingConfig": {policies}}}"#)
}

fn parsed(policies: &str) -> Option<Routes> {
    ServiceConfig::parse(&config(policies)).unwrap().routes
}

/// The path, below the routes' own, and the reason of the error.
fn refused(routes: &str) -> (String, String) {
    let policies = format!(r#"[{{"weft_routes": {routes}}}]"#);
    match ServiceConfig::parse(&config(&policies)) {
        Err(Error::ServiceConfig { path, reason }) => {
            let path = path
                .strip_prefix("loadBalancingConfig[0].weft_routes")
                .unwrap_or(&path);
            (path.to_owned(), reason)
        }
        other => panic!("{routes} gave {other:?}"),
    }
}

const V1: &str = r#"{"labels": {"version": "v1"}, "weight": 1}"#;

/// One route with these fields, which sends all of its calls to one group.
fn with_match(fields: &str) -> String {
    format!(r#"{{"routes": [{{"match": {{{fields}}}, "split": [{V1}]}}]}}"#)
}

fn with_split(groups: &str) -> String {
    format!(r#"{{"routes": [{{"split": [{groups}]}}]}}"#)
}

#[test]
fn routes_are_read_beside_policies_for_other_clients() {
    let routes = parsed(
        r#"[
            {"xds_cluster_manager_experimental": {}},
            {"weft_routes": {"childPolicy": [{"peak_ewma": {}}], "routes": [
                {"match": {"service": "a.B", "method": "C", "headers": [
                    {"name": "X-Canary", "exact": "true"}, {"name": "x-b", "prefix": "p"},
                    {"name": "x-c", "present": false}]},
                 "split": [{"labels": {"version": "v2", "region": "eu"}, "weight": 1}], "fallbackPolicy": "NO_FALLBACK"},
                {"split": [{"labels": {"version": "v2"}, "weight": 5}, {"labels": {"version": "v1"}, "weight": "95"}],
                 "sticky": {"header": "x-session"}}]}},
            {"round_robin": {}}]"#,
    );
    let routes = routes.unwrap();
    assert_eq!(routes.path, "loadBalancingConfig[1].weft_routes.routes");
    let [first, second] = &routes.routes[..] else {
        panic!("two routes: {routes:?}")
    };
    assert_eq!((first.service.as_str(), first.method.as_str()), ("a.B", "C"));
    let names: Vec<_> = first.headers.iter().map(|header| header.name.as_str()).collect();
    assert_eq!(names, ["x-canary", "x-b", "x-c"]);
    assert_eq!(first.fallback_policy, FallbackPolicy::NoFallback);
    assert_eq!(first.split.names(), "region=eu,version=v2");
    assert_eq!(second.fallback_policy, FallbackPolicy::AnyEndpoint);
    assert_eq!(second.split.names(), "version=v2 or version=v1");
    assert_eq!(second.sticky.as_ref().unwrap(), "x-session");
}

#[test]
fn a_config_without_routes_has_none() {
    assert!(parsed(r#"[{"round_robin": {}}]"#).is_none() && parsed("[]").is_none());
}

#[test]
fn every_error_is_reported_with_its_path() {
    let route = |fields: &str| format!(r#"{{"routes": [{fields}]}}"#);
    for (routes, path, reason) in [
        ("{}".to_owned(), "", "`routes`"),
        ("[]".to_owned(), "", "invalid length"),
        (r#"{"routes": []}"#.to_owned(), ".routes", "empty"),
        (
            r#"{"routes": [], "route": 1}"#.to_owned(),
            ".route",
            "unknown field",
        ),
        (route("{}"), ".routes[0]", "`split`"),
        (route(r#"{"split": []}"#), ".routes[0].split", "empty"),
        (
            route(&format!(r#"{{"split": [{V1}], "weight": 1}}"#)),
            ".routes[0].weight",
            "unknown field",
        ),
        (
            route(&format!(r#"{{"split": [{V1}], "fallbackPolicy": "NONE"}}"#)),
            ".routes[0].fallbackPolicy",
            "NO_FALLBACK",
        ),
        (
            route(&format!(
                r#"{{"split": [{V1}], "sticky": {{"header": "x-bin"}}}}"#
            )),
            ".routes[0].sticky.header",
            "binary",
        ),
        (
            route(&format!(r#"{{"split": [{V1}], "sticky": {{}}}}"#)),
            ".routes[0].sticky",
            "`header`",
        ),
        (
            with_match(r#""method": "C""#),
            ".routes[0].match",
            "without its service",
        ),
        (
            with_match(r#""path": "C""#),
            ".routes[0].match.path",
            "unknown field",
        ),
        (
            with_match(r#""headers": [{"name": "a b", "exact": ""}]"#),
            ".routes[0].match.headers[0].name",
            "not a header name",
        ),
        (
            with_match(r#""headers": [{"name": ":path", "exact": ""}]"#),
            ".routes[0].match.headers[0].name",
            "not a header name",
        ),
        (
            with_match(r#""headers": [{"name": "x"}]"#),
            ".routes[0].match.headers[0]",
            "exactly one",
        ),
        (
            with_match(r#""headers": [{"name": "x", "exact": "a", "prefix": "a"}]"#),
            ".routes[0].match.headers[0]",
            "exactly one",
        ),
        (
            with_match(r#""headers": [{"name": "x", "regex": "a"}]"#),
            ".routes[0].match.headers[0].regex",
            "unknown field",
        ),
        (
            with_match(r#""headers": [{"name": "X-Key-Bin", "present": true}]"#),
            ".routes[0].match.headers[0].name",
            "binary",
        ),
        (
            with_match(r#""headers": [{"name": "authorization", "present": true}]"#),
            ".routes[0].match.headers[0].name",
            "not set by the application",
        ),
        (
            with_match(r#""headers": [{"name": "grpc-timeout", "present": true}]"#),
            ".routes[0].match.headers[0].name",
            "not set by the application",
        ),
        (
            with_split(r#"{"labels": {"version": "v1"}}"#),
            ".routes[0].split[0]",
            "`weight`",
        ),
        (
            with_split(r#"{"labels": {}, "weight": 1}"#),
            ".routes[0].split[0].labels",
            "empty",
        ),
        (
            with_split(r#"{"labels": {"zone": "a"}, "weight": 1}"#),
            ".routes[0].split[0].labels",
            "not a label",
        ),
        (
            with_split(r#"{"labels": {"version": "v 1"}, "weight": 1}"#),
            ".routes[0].split[0].labels",
            "version=v 1",
        ),
        (
            with_split(r#"{"labels": {"version": "v1"}, "weight": 1000001}"#),
            ".routes[0].split[0].weight",
            "0 to 1000000",
        ),
        (
            with_split(r#"{"labels": {"version": "v1"}, "weight": -1}"#),
            ".routes[0].split[0].weight",
            "not a number",
        ),
        (
            with_split(&format!("{V1}, {V1}")),
            ".routes[0].split[1].labels",
            "before",
        ),
        (
            with_split(r#"{"labels": {"version": "v1"}, "weight": 0}"#),
            ".routes[0].split",
            "above 0",
        ),
        (
            format!(
                r#"{{"routes": [{{"split": [{V1}]}}], "childPolicy": [{{"ring_hash_experimental": {{}}}}]}}"#
            ),
            ".childPolicy",
            "none of these",
        ),
        (
            format!(r#"{{"routes": [{{"split": [{V1}]}}], "childPolicy": [{{"weft_routes": {{}}}}]}}"#),
            ".childPolicy[0].weft_routes",
            "routes again",
        ),
    ] {
        let (found, text) = refused(&routes);
        assert_eq!(found, path, "{routes}: {text}");
        assert!(text.contains(reason), "{routes}: {text}");
    }
}

#[test]
fn more_routes_groups_headers_and_labels_than_are_allowed_are_errors() {
    let repeated =
        |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(",");
    let route = |number| format!(r#"{{"match": {{"service": "s{number}"}}, "split": [{V1}]}}"#);
    let group = |number| format!(r#"{{"labels": {{"version": "{number}"}}, "weight": 1}}"#);
    let header = |number| format!(r#"{{"name": "x-{number}", "present": true}}"#);
    let label = |number| format!(r#""l{number}": "a""#);
    let headers = |count| with_match(&format!(r#""headers": [{}]"#, repeated(count, &header)));
    let labels = |count| {
        with_split(&format!(
            r#"{{"labels": {{{}}}, "weight": 1}}"#,
            repeated(count, &label)
        ))
    };
    let routes = |count| format!(r#"{{"routes": [{}]}}"#, repeated(count, &route));
    let groups = |count| with_split(&repeated(count, &group));
    for (most, config, path) in [
        (128, &routes as &dyn Fn(usize) -> String, ".routes"),
        (32, &groups, ".routes[0].split"),
        (16, &headers, ".routes[0].match.headers"),
        (16, &labels, ".routes[0].split[0].labels"),
    ] {
        assert!(
            parsed(&format!(r#"[{{"weft_routes": {}}}]"#, config(most))).is_some(),
            "{path}"
        );
        assert_eq!(refused(&config(most + 1)).0, path);
    }
}

#[test]
fn a_route_that_no_call_reaches_is_an_error() {
    let routes = |first: &str, second: &str| {
        let route = |fields| format!(r#"{{"match": {{{fields}}}, "split": [{V1}]}}"#);
        format!(r#"{{"routes": [{}, {}]}}"#, route(first), route(second))
    };
    let (service, method) = (r#""service": "a.B""#, r#""service": "a.B", "method": "C""#);
    let header = r#""service": "a.B", "headers": [{"name": "x", "present": true}]"#;
    for (first, second) in [
        ("", service),
        (service, method),
        (service, header),
        (method, method),
    ] {
        let (path, reason) = refused(&routes(first, second));
        assert_eq!(path, ".routes[1]");
        assert!(reason.contains("routes[0] matches all of its calls"), "{reason}");
    }
    for (first, second) in [(method, service), (header, service), (service, "")] {
        assert!(parsed(&format!(r#"[{{"weft_routes": {}}}]"#, routes(first, second))).is_some());
    }
}

#[test]
fn routes_behind_a_policy_that_is_used_instead_are_an_error() {
    let policies = format!(
        r#"[{{"round_robin": {{}}}}, {{"weft_routes": {}}}]"#,
        with_match("")
    );
    match ServiceConfig::parse(&config(&policies)) {
        Err(Error::ServiceConfig { path, reason }) => {
            assert_eq!(path, "loadBalancingConfig[1].weft_routes");
            assert!(reason.contains("is not used"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_of_the_documentation_is_valid() {
    let documentation = include_str!("../../../../../docs/mesh.md");
    let (_, section) = documentation.split_once("## Routes and canaries").unwrap();
    let (_, example) = section.split_once("```json").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let routes = ServiceConfig::parse(example).unwrap().routes.unwrap();
    assert_eq!(routes.routes.len(), 2);
}
