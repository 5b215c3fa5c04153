//! EndpointSlices (`discovery.k8s.io/v1`), and which of their endpoints are used.
//!
//! The ready endpoints are used. If there is none, the terminating ones that still serve are used, as kube-proxy
//! does (KEP-1669): a failed rollout must not make the Service unavailable.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use http::uri::{Authority, Scheme};
use serde::Deserialize;

use super::{
    super::{
        Address,
        labels::{LabelledUri, Labels},
    },
    api::ApiError,
};

/// Maximum number of slices of one Service; more are an error.
const MAX_SLICES: usize = 1_000;

/// The Service and port of a target.
#[derive(Debug)]
pub(super) struct Service {
    scheme: Scheme,
    name: String,
    namespace: String,
    port: Port,
    /// The caller's own zone.
    zone: Option<Arc<str>>,
    /// The labels of all its endpoints.
    labels: Labels,
}

/// A port of the Service by its name, or of the pods by its number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Port {
    Name(String),
    Number(u16),
}

impl Service {
    pub(super) fn parse(
        text: &str,
        zone: Option<&str>,
        own_namespace: impl FnOnce() -> Result<String, String>,
    ) -> Result<Service, String> {
        let wrong = || format!("`{text}` must be http://SERVICE.NAMESPACE:PORT, or with https");
        let LabelledUri {
            uri,
            zone: own,
            labels,
        } = LabelledUri::parse(text)?;
        if own.is_some() {
            return Err(format!(
                "`{text}` must name no zone, which the Kubernetes API does"
            ));
        }
        let (scheme, place) = uri.split_once("://").ok_or_else(wrong)?;
        let scheme = match scheme {
            "http" => Scheme::HTTP,
            "https" => Scheme::HTTPS,
            _ => return Err(wrong()),
        };
        let (host, port) = place.split_once(':').ok_or_else(wrong)?;
        let (name, namespace) = match host.split_once('.') {
            Some((name, namespace)) => (name, namespace.to_owned()),
            None => (host, own_namespace()?),
        };
        let port = match port.parse() {
            Ok(0) => return Err(wrong()),
            Ok(number) => Port::Number(number),
            Err(_) => Port::Name(port.to_owned()),
        };
        let named = match &port {
            Port::Name(name) => is_label(name),
            Port::Number(_) => true,
        };
        if !is_label(name) || !is_label(&namespace) || !named {
            return Err(wrong());
        }
        Ok(Service {
            scheme,
            name: name.to_owned(),
            namespace,
            port,
            zone: zone.map(Arc::from),
            labels,
        })
    }

    pub(super) fn is_secured(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The path of a request for its slices.
    pub(super) fn path(&self, query: &str) -> String {
        let Service { name, namespace, .. } = self;
        format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{name}&{query}"
        )
    }

    fn port(&self, slice: &EndpointSlice) -> Option<u16> {
        match &self.port {
            Port::Number(number) => {
                let listed = slice.ports.iter().any(|port| port.port == Some(*number));
                // A slice without ports stands for all ports.
                (slice.ports.is_empty() || listed).then_some(*number)
            }
            Port::Name(name) => {
                let port = slice.ports.iter().find(|port| port.name.as_deref() == Some(name));
                port.and_then(|port| port.port)
            }
        }
    }

    /// The zone of an endpoint for balancing: the caller's own zone if the endpoint's hints contain it, otherwise
    /// the first zone of its hints, otherwise the zone that it runs in.
    fn zone(&self, endpoint: &Endpoint) -> Option<Arc<str>> {
        let hints = endpoint.hints.iter().flat_map(|hints| &hints.for_zones);
        let mut hinted = hints.map(|hint| hint.name.as_str()).peekable();
        let first = hinted.peek().copied();
        if self
            .zone
            .as_deref()
            .is_some_and(|own| hinted.any(|zone| zone == own))
        {
            return self.zone.clone();
        }
        first.or(endpoint.zone.as_deref()).map(Arc::from)
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// Whether `text` is a DNS label (RFC 1123), as names of Services, namespaces and ports are.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The endpoints of a Service's slices, by the slices' names.
#[derive(Debug, Default)]
pub(super) struct Slices(BTreeMap<String, Vec<ListedEndpoint>>);

/// An endpoint of a slice that is ready, or terminating and still serving.
#[derive(Debug)]
struct ListedEndpoint {
    address: Address,
    ready: bool,
}

impl Slices {
    pub(super) fn insert(&mut self, slice: EndpointSlice, service: &Service) -> Result<(), ApiError> {
        let found = slice.endpoints(service);
        self.0.insert(slice.metadata.name, found);
        if self.0.len() > MAX_SLICES {
            return Err(ApiError::TooMany(MAX_SLICES));
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The endpoints to use now, without duplicates, in a stable order.
    pub(super) fn addresses(&self) -> Vec<Address> {
        let all = || self.0.values().flatten();
        let ready = all().any(|found| found.ready);
        let mut chosen: BTreeMap<(bool, &str, Option<u16>), &Address> = BTreeMap::new();
        for ListedEndpoint { address, .. } in all().filter(|found| found.ready == ready) {
            // An endpoint may be in two slices while it moves from one to the other.
            chosen.insert((address.host.contains(':'), &address.host, address.port), address);
        }
        // A dual-stack pod is one endpoint: only one address family is used.
        let families: BTreeSet<bool> = chosen.keys().map(|(v6, ..)| *v6).collect();
        let family = families.first().copied();
        let of_family = chosen.into_iter().filter(|((v6, ..), _)| Some(*v6) == family);
        of_family.map(|(_, address)| address.clone()).collect()
    }
}

/// The fields of an EndpointSlice that are needed. A bookmark has only a version.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointSlice {
    pub(super) metadata: Metadata,
    address_type: String,
    #[serde(deserialize_with = "null_is_empty")]
    endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_is_empty")]
    ports: Vec<EndpointPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) resource_version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EndpointPort {
    name: Option<String>,
    port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Conditions,
    zone: Option<String>,
    hints: Option<Hints>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    #[serde(deserialize_with = "null_is_empty")]
    for_zones: Vec<ForZone>,
}

#[derive(Debug, Deserialize)]
struct ForZone {
    name: String,
}

/// Deserializes `null`, which Go writes for an empty list, as an empty list.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl EndpointSlice {
    fn endpoints(&self, service: &Service) -> Vec<ListedEndpoint> {
        let Some(port) = service.port(self).filter(|_| self.address_type != "FQDN") else {
            return Vec::new();
        };
        let authority = format!("{}.{}:{port}", service.name, service.namespace);
        let Ok(authority) = Authority::try_from(authority) else {
            return Vec::new();
        };
        let found = |endpoint: &Endpoint| {
            let Conditions {
                ready,
                serving,
                terminating,
            } = &endpoint.conditions;
            // Absent conditions count as favourable, as the API documents.
            let ready = ready.unwrap_or(true);
            let serving = serving.unwrap_or(ready);
            let terminating = terminating.unwrap_or(false);
            (ready || (serving && terminating)).then_some(ListedEndpoint {
                address: Address {
                    scheme: service.scheme.clone(),
                    authority: authority.clone(),
                    // All addresses belong to the same endpoint; the API says to use the first.
                    host: Arc::from(endpoint.addresses.first()?.as_str()),
                    port: Some(port),
                    zone: service.zone(endpoint),
                    labels: service.labels.clone(),
                },
                ready: ready && !terminating,
            })
        };
        self.endpoints.iter().filter_map(found).collect()
    }
}

#[cfg(test)]
mod tests;
