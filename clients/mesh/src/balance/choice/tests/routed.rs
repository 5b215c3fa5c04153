//! Groups of endpoints that a route selects.

use super::*;
use crate::{
    balance::routed::choose_routed,
    discovery::labels::Labels,
    route::{Destination, FallbackPolicy, Group, Route, Split},
    supervisor::Published,
};

fn labels(version: &str) -> Labels {
    Labels::new([("version", version)]).unwrap()
}

/// A channel with an endpoint of each version, and a route to the groups.
struct Routed {
    channel: Channel,
    published: Published,
    route: Arc<Route>,
}

impl Routed {
    async fn new(versions: &[&str], weights: &[(&str, u32)], fallback_policy: FallbackPolicy) -> Routed {
        let mut channel = Channel::new(&vec![None; versions.len()], 2).await;
        for (endpoint, version) in channel.endpoints.iter_mut().zip(versions) {
            Arc::get_mut(endpoint).unwrap().address.labels = labels(version);
        }
        let groups = weights
            .iter()
            .map(|(version, weight)| Group::new(labels(version), *weight));
        let route = Route {
            service: String::new(),
            method: String::new(),
            headers: Vec::new(),
            split: Split::new(groups.collect()).unwrap(),
            fallback_policy,
            sticky: None,
        };
        let published = Published {
            generation: 1,
            endpoints: channel.endpoints.clone(),
            ..Published::default()
        };
        Routed {
            channel,
            published,
            route: Arc::new(route),
        }
    }

    /// The choice of a call; `point` determines its group.
    fn choose(&self, point: u64, tried: &Tried) -> Choice {
        let criteria = Criteria {
            method: &self.channel.method,
            tried,
            blame: Blame::default(),
            first: true,
            usable_only: false,
            zone: None,
            probe_schedule: &self.channel.probe_schedule,
        };
        let destination = Destination {
            route: Arc::clone(&self.route),
            point,
        };
        choose_routed(&self.published, &destination, criteria)
    }

    /// The number of the chosen endpoint, and its call.
    fn selected(&self, point: u64, tried: &Tried) -> (u64, InFlight) {
        match self.choose(point, tried) {
            Choice::Selected(endpoint, in_flight) => (endpoint.stats.id(), in_flight),
            other => panic!("{other:?}"),
        }
    }

    fn eject(&self, endpoint: usize) {
        for _ in 0..7 {
            let stats = &self.channel.endpoints[endpoint].stats;
            let mut in_flight = stats.begin(Blame::default(), None).unwrap();
            in_flight.finish(Verdict::Bad);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_split_by_weight_whatever_the_number_of_endpoints() {
    let weights = [("v2", 5), ("v1", 95)];
    let routed = Routed::new(&["v2", "v2", "v2", "v1"], &weights, FallbackPolicy::NoFallback).await;
    let (calls, mut canaries) = (10_000, 0);
    for number in 0..calls {
        let (endpoint, in_flight) = routed.selected(number * (u64::MAX / calls), &Tried::default());
        canaries += u32::from(endpoint < 3);
        drop(in_flight);
    }
    assert!((499..=501).contains(&canaries), "{canaries} of {calls}");
}

#[tokio::test(start_paused = true)]
async fn a_full_group_passes_calls_on_unless_the_route_has_no_fallback() {
    let only = [("v2", 1)];
    for (policy, expected) in [
        (FallbackPolicy::AnyEndpoint, true),
        (FallbackPolicy::NoFallback, false),
    ] {
        let routed = Routed::new(&["v1", "v2"], &only, policy).await;
        let tried = Tried::default();
        let (first, second) = (routed.selected(0, &tried), routed.selected(0, &tried));
        assert_eq!((first.0, second.0), (1, 1));
        let third = routed.choose(0, &tried);
        assert_eq!(matches!(third, Choice::Selected(..)), expected, "{third:?}");
        assert!(expected || matches!(third, Choice::Full), "{third:?}");
        drop((first, third));
        assert_eq!(routed.selected(0, &tried).0, 1, "back in the group");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_gets_calls_only_if_the_route_permits_no_other() {
    let only = [("v2", 1)];
    for (policy, expected) in [(FallbackPolicy::AnyEndpoint, 0), (FallbackPolicy::NoFallback, 1)] {
        let routed = Routed::new(&["v1", "v2"], &only, policy).await;
        routed.eject(1);
        assert_eq!(routed.selected(0, &Tried::default()).0, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_use_the_whole_group_then_the_other_groups_then_any_endpoint() {
    let weights = [("v2", 1), ("v1", 1)];
    let versions = ["v0", "v1", "v2", "v2"];
    let routed = Routed::new(&versions, &weights, FallbackPolicy::AnyEndpoint).await;
    let tried = Tried::default();
    let mut chosen = Vec::new();
    for _ in 0..5 {
        let (endpoint, in_flight) = routed.selected(0, &tried);
        tried.add(endpoint);
        chosen.push(versions[endpoint as usize]);
        drop(in_flight);
    }
    assert_eq!(
        chosen,
        ["v2", "v2", "v1", "v0", "v2"],
        "the last one again in the group"
    );
    // Without the fallback the calls stay in the groups of the route.
    let routed = Routed::new(&versions, &weights, FallbackPolicy::NoFallback).await;
    let (endpoint, _in_flight) = routed.selected(0, &tried);
    assert_eq!(versions[endpoint as usize], "v2");
}

#[tokio::test(start_paused = true)]
async fn a_group_with_weight_zero_gets_no_calls() {
    let weights = [("v2", 0), ("v1", 1)];
    let routed = Routed::new(&["v2"], &weights, FallbackPolicy::NoFallback).await;
    let choice = routed.choose(0, &Tried::default());
    assert!(matches!(choice, Choice::NotConnected), "{choice:?}");
}
