//! Routes: the policy `weft_routes` of `loadBalancingConfig`.
//!
//! Service configs have no standard field for routes; gRPC's own clients get theirs by xDS (gRFC A28). A
//! balancing policy that other clients do not know is skipped by them, so that one file serves all.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderName;
use serde::Deserialize;

use super::{
    invalid,
    policies::{Kind, Policy, Selected, select},
    scalars::number,
};
use crate::{
    Error,
    discovery::labels::Labels,
    route::{Expected, FallbackPolicy, Group, HeaderMatch, Route, Routes, Split},
};

/// Maximum number of routes of a channel.
const MAX_ROUTES: usize = 128;
/// Maximum number of headers that a route matches.
const MAX_HEADERS: usize = 16;
/// Maximum weight of a group.
const MAX_WEIGHT: u32 = 1_000_000;
/// Headers that are set after the route was determined, or that are secret. So are those beginning with
/// `grpc-`.
const OWN_HEADERS: [&str; 6] = [
    "authorization",
    "content-type",
    "te",
    "traceparent",
    "tracestate",
    "user-agent",
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RoutesConfig {
    routes: Vec<RouteConfig>,
    /// How calls are balanced within a group.
    #[serde(default)]
    child_policy: Vec<Policy>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RouteConfig {
    #[serde(default, rename = "match")]
    matching: MatchConfig,
    split: Vec<GroupConfig>,
    #[serde(default)]
    fallback_policy: FallbackPolicy,
    sticky: Option<StickyConfig>,
}

/// Without fields it matches every call.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct MatchConfig {
    service: String,
    method: String,
    headers: Vec<HeaderConfig>,
}

/// Exactly one of the last three is set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HeaderConfig {
    name: String,
    exact: Option<String>,
    prefix: Option<String>,
    present: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupConfig {
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "number::required")]
    weight: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StickyConfig {
    header: String,
}

pub(super) fn read(selected: &Selected<'_>) -> Result<Routes, Error> {
    let path = selected.path.as_str();
    let config: RoutesConfig = serde_path_to_error::deserialize(selected.settings).map_err(|error| {
        let inner = error.path().to_string();
        let path = if inner == "." {
            path.to_owned()
        } else {
            format!("{path}.{inner}")
        };
        invalid(&path, &error.inner().to_string())
    })?;
    check_child_policy(&config.child_policy, &format!("{path}.childPolicy"))?;
    let path = format!("{path}.routes");
    match config.routes.len() {
        0 => return Err(invalid(&path, "must not be empty")),
        1..=MAX_ROUTES => {}
        count => {
            return Err(invalid(
                &path,
                &format!("{count} routes are more than {MAX_ROUTES}"),
            ));
        }
    }
    let mut routes: Vec<Arc<Route>> = Vec::with_capacity(config.routes.len());
    for (place, route) in config.routes.into_iter().enumerate() {
        let own = format!("{path}[{place}]");
        let route = route.into_route(&own)?;
        if let Some(earlier) = routes.iter().position(|earlier| earlier.hides(&route)) {
            return Err(invalid(
                &own,
                &format!("is never used: routes[{earlier}] matches all of its calls"),
            ));
        }
        routes.push(Arc::new(route));
    }
    Ok(Routes { path, routes })
}

/// Within a group, calls are balanced as without routes.
fn check_child_policy(listed: &[Policy], path: &str) -> Result<(), Error> {
    match select(path, listed)? {
        Some(selected) if selected.kind == Kind::Routes => {
            Err(invalid(&selected.path, "must not be routes again"))
        }
        Some(selected) if selected.kind == Kind::OutlierDetection => Err(invalid(
            &selected.path,
            "must contain the routes, and not be contained in them",
        )),
        _ => Ok(()),
    }
}

impl RouteConfig {
    fn into_route(self, path: &str) -> Result<Route, Error> {
        let MatchConfig {
            service,
            method,
            headers,
        } = self.matching;
        if service.is_empty() && !method.is_empty() {
            return Err(invalid(
                &format!("{path}.match"),
                "names a method without its service",
            ));
        }
        if headers.len() > MAX_HEADERS {
            let reason = format!("{} headers are more than {MAX_HEADERS}", headers.len());
            return Err(invalid(&format!("{path}.match.headers"), &reason));
        }
        let headers = headers.into_iter().enumerate().map(|(place, header)| {
            let path = format!("{path}.match.headers[{place}]");
            header.into_match(&path)
        });
        let headers = headers.collect::<Result<_, _>>()?;
        let sticky = self
            .sticky
            .map(|sticky| header_name(&sticky.header, &format!("{path}.sticky.header")));
        Ok(Route {
            service,
            method,
            headers,
            split: split(self.split, &format!("{path}.split"))?,
            fallback_policy: self.fallback_policy,
            sticky: sticky.transpose()?,
        })
    }
}

impl HeaderConfig {
    fn into_match(self, path: &str) -> Result<HeaderMatch, Error> {
        let name = header_name(&self.name, &format!("{path}.name"))?;
        let expected = match (self.exact, self.prefix, self.present) {
            (Some(value), None, None) => Expected::Exact(value),
            (None, Some(prefix), None) => Expected::Prefix(prefix),
            (None, None, Some(present)) => Expected::Present(present),
            _ => {
                return Err(invalid(
                    path,
                    "must have exactly one of exact, prefix and present",
                ));
            }
        };
        Ok(HeaderMatch { name, expected })
    }
}

fn split(groups: Vec<GroupConfig>, path: &str) -> Result<Split, Error> {
    let mut found: Vec<Group> = Vec::with_capacity(groups.len());
    for (place, GroupConfig { labels, weight }) in groups.into_iter().enumerate() {
        let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let path = |field| format!("{path}[{place}].{field}");
        let labels = Labels::new(labels).map_err(|reason| invalid(&path("labels"), &reason))?;
        if labels.is_empty() {
            return Err(invalid(&path("labels"), "must not be empty"));
        }
        if found.iter().any(|group| group.labels == labels) {
            return Err(invalid(&path("labels"), "were named before"));
        }
        if weight > MAX_WEIGHT {
            let reason = format!("must be 0 to {MAX_WEIGHT}, is {weight}");
            return Err(invalid(&path("weight"), &reason));
        }
        found.push(Group::new(labels, weight));
    }
    Split::new(found).map_err(|reason| invalid(path, reason))
}

/// The name of a header by which calls are distinguished: one that the application sets, with a text as its
/// value.
fn header_name(name: &str, path: &str) -> Result<HeaderName, Error> {
    let refused = |reason: &str| invalid(path, &format!("`{name}` {reason}"));
    let parsed = HeaderName::try_from(name).map_err(|_| refused("is not a header name"))?;
    if parsed.as_str().ends_with("-bin") {
        return Err(refused("is a binary header"));
    }
    if parsed.as_str().starts_with("grpc-") || OWN_HEADERS.contains(&parsed.as_str()) {
        return Err(refused("is not set by the application"));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests;
