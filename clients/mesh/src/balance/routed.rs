//! Chooses the endpoint of an attempt whose call has a destination.
//!
//! An endpoint is usable if it is connected, not ejected, answers pings, is below its limit of calls in
//! flight, and was not tried by this call yet. The group that the call was assigned comes first, then the
//! other groups of the route in an order that follows their weights, then, unless the route has no fallback,
//! all endpoints. Only if none of these has a usable endpoint, the groups are tried again in the same order
//! with the endpoints that are left.

use super::choice::{Choice, Criteria, choose};
use crate::{
    route::{Destination, FallbackPolicy, Group},
    supervisor::Published,
};

pub(super) fn choose_routed(
    published: &Published,
    destination: &Destination,
    criteria: Criteria<'_>,
) -> Choice {
    let usable = Criteria {
        usable_only: true,
        ..criteria
    };
    let mut full = false;
    for criteria in [usable, criteria] {
        let groups = destination
            .groups()
            .map(|group| choose_in(published, group, criteria));
        let any = destination.route.fallback_policy == FallbackPolicy::AnyEndpoint;
        let others = any.then_some(&published.endpoints).into_iter();
        let others = others.map(|endpoints| choose(&endpoints.iter(), criteria));
        for choice in groups.chain(others) {
            match choice {
                Choice::Selected(..) => return choice,
                Choice::Full => full = true,
                Choice::NotConnected => {}
            }
        }
    }
    if full { Choice::Full } else { Choice::NotConnected }
}

fn choose_in(published: &Published, group: &Group, criteria: Criteria<'_>) -> Choice {
    let endpoints = &published.endpoints;
    let labels = endpoints.iter().map(|endpoint| &endpoint.address.labels);
    let members = group.members(published.generation, labels);
    let places = members.iter().map(|place| *place as usize);
    choose(&places.filter_map(|place| endpoints.get(place)), criteria)
}

/// Why a call with this destination cannot be sent, although there are connected endpoints; `None` if it can,
/// or while the first connections to its groups are being opened.
pub(super) fn unreachable(published: &Published, destination: &Destination) -> Option<String> {
    let split = &destination.route.split;
    if destination.route.fallback_policy == FallbackPolicy::AnyEndpoint || published.addresses.is_empty() {
        return None;
    }
    let mut reason = None;
    for known in &published.addresses {
        if !split.selects(&known.address.labels) {
            continue;
        }
        match &known.failure {
            Some(failure) if !known.connected => reason = Some(&**failure),
            _ => return None,
        }
    }
    let reason = reason.unwrap_or("there is none");
    Some(format!("with {} is reachable: {reason}", split.names()))
}
