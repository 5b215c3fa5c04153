use http::HeaderValue;

use super::*;

fn labels(version: &str) -> Labels {
    Labels::new([("version", version)]).unwrap()
}

fn split(weights: &[(&str, u32)]) -> Split {
    let groups = weights
        .iter()
        .map(|(version, weight)| Group::new(labels(version), *weight));
    Split::new(groups.collect()).unwrap()
}

fn route(service: &str, method: &str, headers: Vec<HeaderMatch>) -> Route {
    Route {
        service: service.to_owned(),
        method: method.to_owned(),
        headers,
        split: split(&[("v1", 1)]),
        fallback_policy: FallbackPolicy::AnyEndpoint,
        sticky: None,
    }
}

fn header(name: &'static str, expected: Expected) -> HeaderMatch {
    let name = HeaderName::from_static(name);
    HeaderMatch { name, expected }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pairs = pairs.iter().copied();
    pairs
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// The number of points for which each group is first, of `count` points that are spread evenly over the
/// range.
fn shares(split: &Split, count: u64) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = split.0.iter().map(|group| (group.name.to_string(), 0)).collect();
    for number in 0..count {
        let first = split.order(number * (u64::MAX / count)).next().unwrap();
        counts
            .iter_mut()
            .find(|(name, _)| *name == first.name.as_str())
            .unwrap()
            .1 += 1;
    }
    counts
}

fn count(shares: &[(String, u64)], name: &str) -> u64 {
    shares.iter().find(|(found, _)| found == name).unwrap().1
}

#[test]
fn a_header_matches_exactly_by_its_prefix_or_by_its_presence() {
    let exact = |value: &str| header("x-canary", Expected::Exact(value.to_owned()));
    let prefix = |value: &str| header("x-canary", Expected::Prefix(value.to_owned()));
    let present = |expected| header("x-canary", Expected::Present(expected));
    let (absent, set) = (headers(&[("x-other", "true")]), headers(&[("x-canary", "true")]));
    for (matcher, of_absent, of_set) in [
        (exact("true"), false, true),
        (exact("tru"), false, false),
        (exact("truer"), false, false),
        (exact(""), false, false),
        (prefix("tru"), false, true),
        (prefix("true"), false, true),
        (prefix("truer"), false, false),
        (prefix(""), false, true),
        (present(true), false, true),
        (present(false), true, false),
    ] {
        assert_eq!(matcher.matches(&absent), of_absent, "{matcher:?}");
        assert_eq!(matcher.matches(&set), of_set, "{matcher:?}");
    }
    let twice = headers(&[("x-canary", "a"), ("x-canary", "b")]);
    assert!(exact("a,b").matches(&twice) && prefix("a,").matches(&twice) && !exact("a").matches(&twice));
}

#[test]
fn the_first_matching_route_applies_and_without_one_every_endpoint_is_allowed() {
    let canary = || header("x-canary", Expected::Exact("true".to_owned()));
    let all = Routes {
        path: String::new(),
        routes: [
            route("a.B", "Read", vec![canary()]),
            route("a.B", "", Vec::new()),
            route("", "", vec![canary()]),
        ]
        .map(Arc::new)
        .to_vec(),
    };
    let unlisted = MethodRoutes::for_any_method(Some(&all)).unwrap();
    let set = headers(&[("x-canary", "true")]);
    for (service, method, headers, expected) in [
        ("a.B", "Read", &set, Some(0)),
        ("a.B", "Read", &HeaderMap::new(), Some(1)),
        ("a.B", "Write", &set, Some(1)),
        ("x.Y", "Read", &set, Some(2)),
        ("x.Y", "Read", &HeaderMap::new(), None),
    ] {
        let path = format!("/{service}/{method}");
        let listed = MethodRoutes::for_method(Some(&all), service, method).unwrap();
        for routes in [&listed, &unlisted] {
            let found = routes.destination(&path, headers);
            let place = found.map(|found| {
                all.routes
                    .iter()
                    .position(|route| Arc::ptr_eq(route, &found.route))
                    .unwrap()
            });
            assert_eq!(place, expected, "{path}");
        }
    }
    let only_b = Routes {
        routes: all.routes[..2].to_vec(),
        ..all
    };
    assert!(MethodRoutes::for_method(Some(&only_b), "x.Y", "Read").is_none());
    assert!(
        MethodRoutes::for_method(None, "a.B", "Read").is_none()
            && MethodRoutes::for_any_method(None).is_none()
    );
}

#[test]
fn calls_are_split_in_proportion_to_the_weights() {
    let found = shares(&split(&[("v2", 5), ("v1", 95), ("v0", 0)]), 10_000);
    assert!((499..=501).contains(&count(&found, "version=v2")), "{found:?}");
    assert_eq!(count(&found, "version=v0"), 0);
    let found = shares(
        &split(&[("v1", 1_000_000), ("v2", 1_000_000), ("v3", 2_000_000)]),
        10_000,
    );
    assert!(
        (4_999..=5_001).contains(&count(&found, "version=v3")),
        "{found:?}"
    );
    assert!(Split::new(Vec::new()).is_err() && Split::new(vec![Group::new(labels("v1"), 0)]).is_err());
}

#[test]
fn the_next_groups_are_chosen_by_their_weights_too() {
    let split = split(&[("v3", 10), ("v2", 30), ("v1", 60), ("v0", 0)]);
    let (mut seconds, mut orders) = (0, 0);
    // Points of the first group, spread evenly.
    for number in 0..10_000 {
        let names: Vec<_> = split
            .order(number * (u64::MAX / 100_000))
            .map(|group| group.name.as_str())
            .collect();
        assert_eq!((names.len(), names[0]), (3, "version=v3"));
        seconds += u32::from(names[1] == "version=v1");
        orders += 1;
    }
    // Two thirds: 60 of the remaining 90. The points are fixed, so that the count is too.
    assert!((6_400..6_950).contains(&seconds), "{seconds} of {orders}");
}

#[test]
fn a_session_stays_in_its_group_and_moves_only_into_the_one_that_grows() {
    let sessions: Vec<String> = (0..10_000).map(|number| format!("session-{number}")).collect();
    let name = HeaderName::from_static("x-session");
    let point = |session: &String| {
        let value = HeaderValue::try_from(session).unwrap();
        header_match::hash(&[(name.clone(), value)].into_iter().collect(), &name).unwrap()
    };
    let (few, many) = (split(&[("v2", 5), ("v1", 95)]), split(&[("v2", 50), ("v1", 50)]));
    let canaries = |split: &Split| -> Vec<bool> {
        let canary = |session| split.order(point(session)).next().unwrap().name.as_str() == "version=v2";
        sessions.iter().map(canary).collect()
    };
    let (before, after) = (canaries(&few), canaries(&many));
    let share = |canaries: &[bool]| canaries.iter().filter(|canary| **canary).count();
    assert!((400..600).contains(&share(&before)) && (4_700..5_300).contains(&share(&after)));
    assert!(before.iter().zip(&after).all(|(before, after)| *after || !before));
    assert_eq!(header_match::hash(&HeaderMap::new(), &name), None);
    // Clients of other versions must agree, so that the hash never changes.
    assert_eq!(header_match::mix(1), 0xb456_bcfc_34c2_cb2c);
}

#[test]
fn calls_with_the_same_sticky_header_have_the_same_destination() {
    let sticky = Route {
        sticky: Some(HeaderName::from_static("x-session")),
        ..route("", "", Vec::new())
    };
    let routes = Routes {
        path: String::new(),
        routes: vec![Arc::new(sticky)],
    };
    let routes = MethodRoutes::for_method(Some(&routes), "a.B", "C").unwrap();
    let point = |headers: &HeaderMap| routes.destination("/a.B/C", headers).unwrap().point;
    let (first, second) = (headers(&[("x-session", "1")]), headers(&[("x-session", "2")]));
    assert!(point(&first) == point(&first) && point(&first) != point(&second));
    // Without the header the group is random.
    assert_ne!(point(&HeaderMap::new()), point(&HeaderMap::new()));
}

#[test]
fn the_members_of_a_group_are_determined_once_for_each_list_of_endpoints() {
    let group = Group::new(labels("v2"), 1);
    let (first, second) = (
        [labels("v1"), labels("v2")],
        [labels("v2"), labels("v2"), labels("v1")],
    );
    assert_eq!(*group.members(1, first.iter()), [1]);
    assert_eq!(*group.members(1, std::iter::empty()), [1], "not determined again");
    assert_eq!(*group.members(3, second.iter()), [0, 1]);
    assert_eq!(*group.members(2, first.iter()), [1], "an older list");
    assert_eq!(
        *group.members(3, std::iter::empty()),
        [0, 1],
        "does not replace the newer one"
    );
}
