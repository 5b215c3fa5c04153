//! Discovers endpoints: from a fixed list, DNS names that are resolved periodically, Kubernetes Services, or a Unix
//! socket.

mod dns;
mod kubernetes;
pub(crate) mod labels;
mod merge;
pub(crate) mod subset;
mod unix_socket;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{
    Uri,
    uri::{Authority, Scheme},
};

use tokio::sync::{Notify, mpsc};

use crate::Error;
use dns::Dns;
use kubernetes::Kubernetes;
pub use kubernetes::KubernetesApi;
use labels::{LabelledUri, Labels};
use merge::Watch;

/// Maximum number of names of a `dns:` or `k8s:` target.
const MAX_NAMES: usize = 16;

/// The address of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Address {
    pub(crate) scheme: Scheme,
    /// The authority of requests.
    pub(crate) authority: Authority,
    /// The host name or IP address to connect to, or the path of a Unix socket.
    pub(crate) host: Arc<str>,
    /// `None`: `host` is the path of a Unix socket.
    pub(crate) port: Option<u16>,
    /// The endpoint's zone, if the target names it.
    pub(crate) zone: Option<Arc<str>>,
    /// The labels that the target gives it.
    pub(crate) labels: Labels,
}

/// All current endpoints, or why they could not be determined.
pub(crate) type Update = Result<Vec<Address>, Arc<str>>;

/// The parsed form of `static:<uri>,<uri>…`, `dns:<uri>,<uri>…`, `k8s:<uri>,<uri>…` or `unix:<path>`.
#[derive(Debug)]
pub(crate) enum Target {
    Static(Vec<Address>),
    Dns(Vec<Dns>),
    Kubernetes(Vec<Kubernetes>),
    Unix(Address),
}

impl Target {
    /// `dns_refresh` and `kubernetes` are for the targets that need them; `zone` is the zone of this process.
    pub(crate) fn parse(
        target: &str,
        kubernetes: &KubernetesApi,
        dns_refresh: Duration,
        zone: Option<&str>,
    ) -> Result<Target, Error> {
        let fault = |reason: String| Error::Target {
            // The part before an `@` may contain a password.
            target: target
                .rsplit_once('@')
                .map_or_else(|| target.to_owned(), |(_, host)| format!("…@{host}")),
            reason,
        };
        match target.split_once(':') {
            Some(("static", list)) => {
                let addresses: Result<Vec<_>, _> =
                    list.split(',').map(|uri| Address::parse(uri.trim())).collect();
                let mut addresses = addresses.map_err(fault)?;
                let mut seen = std::collections::HashSet::new();
                addresses.retain(|address| seen.insert(address.clone()));
                Ok(Target::Static(addresses))
            }
            Some(("dns", list)) => {
                let dns = names(list, |uri| Ok(Dns::new(Address::parse(uri)?, dns_refresh)));
                dns.map(Target::Dns).map_err(fault)
            }
            Some(("k8s", list)) => {
                let services = names(list, |uri| Kubernetes::parse(uri, kubernetes, zone));
                services.map(Target::Kubernetes).map_err(fault)
            }
            Some(("unix", path)) => unix_socket::parse(path).map(Target::Unix).map_err(fault),
            _ => Err(fault(
                "must begin with `static:`, `dns:`, `k8s:` or `unix:`".to_owned(),
            )),
        }
    }

    /// Sends the endpoints, and every change of them, until the receiver is dropped. `connection_lost` signals
    /// that a connection has ended.
    pub(crate) async fn watch(self, updates: mpsc::Sender<Update>, connection_lost: Arc<Notify>) {
        match self {
            Target::Static(addresses) => {
                let _ = updates.send(Ok(addresses)).await;
            }
            Target::Dns(names) => {
                let watch = |dns: Dns| -> Watch {
                    Box::new(|updates, lost| Box::pin(async move { dns.watch(&updates, &lost).await }))
                };
                merge::watch(names.into_iter().map(watch).collect(), &updates, connection_lost).await;
            }
            Target::Kubernetes(services) => {
                let watch = |service: Kubernetes| -> Watch {
                    Box::new(|updates, _| Box::pin(async move { service.watch(&updates).await }))
                };
                merge::watch(
                    services.into_iter().map(watch).collect(),
                    &updates,
                    connection_lost,
                )
                .await;
            }
            Target::Unix(address) => {
                let _ = updates.send(Ok(vec![address])).await;
            }
        }
    }

    /// Whether connections use TLS. `tls`: whether there are `tls` settings, which only `https://` targets may have.
    pub(crate) fn is_secured(&self, target: &str, tls: bool) -> Result<bool, Error> {
        let error = |reason: &str| Error::Target {
            target: target.to_owned(),
            reason: reason.to_owned(),
        };
        let is_https = |address: &Address| address.scheme == Scheme::HTTPS;
        let secured: Vec<bool> = match self {
            Target::Static(addresses) => addresses.iter().map(is_https).collect(),
            Target::Dns(names) => names.iter().map(|dns| is_https(dns.name())).collect(),
            Target::Kubernetes(services) => services.iter().map(Kubernetes::is_secured).collect(),
            Target::Unix(_) if tls => return Err(error("must have no `tls` settings")),
            Target::Unix(_) => vec![false],
        };
        let any_secured = secured.contains(&true);
        if any_secured && secured.contains(&false) {
            return Err(error("must be all http:// or all https://"));
        }
        let secured = any_secured;
        if tls && !secured {
            return Err(error("must be https:// with the `tls` settings"));
        }
        Ok(secured)
    }
}

/// Whether traffic to `target` crosses the network in plaintext: it leaves this machine, and without TLS. Through a
/// proxy (`proxied`) all traffic leaves it. `false` for an invalid target, to which nothing is sent.
pub fn is_exposed(target: &str, proxied: bool) -> bool {
    let exposed = |uri: &str| {
        let address = Address::parse(uri.trim());
        address.is_ok_and(|address| address.scheme != Scheme::HTTPS && (proxied || !address.is_loopback()))
    };
    match target.split_once(':') {
        Some(("static" | "dns", list)) => list.split(',').any(exposed),
        Some(("k8s", list)) => list.split(',').any(|uri| uri.trim().starts_with("http://")),
        // A Unix socket belongs to this machine.
        _ => false,
    }
}

/// Parses the names of a `dns:` or `k8s:` target.
fn names<T>(list: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let names: Vec<T> = list
        .split(',')
        .map(|uri| parse(uri.trim()))
        .collect::<Result<_, _>>()?;
    if names.len() > MAX_NAMES {
        return Err(format!("{} names are more than {MAX_NAMES}", names.len()));
    }
    Ok(names)
}

impl Address {
    fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            // RFC 6761, section 6.3: the name and its subdomains are loopback names.
            Err(_) => &*self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }

    fn parse(text: &str) -> Result<Address, String> {
        let LabelledUri { uri, zone, labels } = LabelledUri::parse(text)?;
        let uri: Uri = uri
            .parse()
            .map_err(|error| format!("`{text}` is not a URI: {error}"))?;
        let parts = uri.into_parts();
        let scheme = parts
            .scheme
            .ok_or_else(|| format!("`{text}` must begin with http:// or https://"))?;
        let authority = parts.authority.ok_or_else(|| format!("`{text}` names no host"))?;
        if parts.path_and_query.is_some_and(|path| path != "/") {
            return Err(format!("`{text}` must have no path"));
        }
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(format!("`{text}` must begin with http:// or https://"));
        }
        if authority.as_str().contains('@') {
            return Err("must hold no user and no password".to_owned());
        }
        let port = authority
            .port_u16()
            .ok_or_else(|| format!("`{text}` must name a port"))?;
        let host = Arc::from(authority.host().trim_matches(['[', ']']));
        Ok(Address {
            scheme,
            authority,
            host,
            port: Some(port),
            zone,
            labels,
        })
    }
}

impl Address {
    /// The address and port for the attributes `network.peer.*`: those of the connection if there is one,
    /// otherwise the ones to connect to. A Unix socket has only its path.
    pub(crate) fn peer(&self, connection: Option<SocketAddr>) -> (String, Option<u16>) {
        connection.map_or_else(
            || (self.host.to_string(), self.port),
            |peer| (peer.ip().to_string(), Some(peer.port())),
        )
    }

    /// The host that requests name, without brackets: the one that a server's certificate is for.
    pub(crate) fn authority_host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }
}

/// The authority, followed by the host and port, or the Unix socket, to connect to if it differs.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address {
            authority,
            host,
            port,
            ..
        } = self;
        if self.authority_host() == &**host {
            return authority.fmt(f);
        }
        let Some(port) = port else {
            return write!(f, "{authority} ({host})");
        };
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{authority} ({open}{host}{close}:{port})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(target: &str) -> Result<Target, Error> {
        Target::parse(target, &KubernetesApi::default(), Duration::from_secs(30), None)
    }

    #[test]
    fn a_list_is_parsed_and_duplicates_count_once() {
        let target = "static:http://127.0.0.1:7102, http://[::1]:7103,http://127.0.0.1:7102/";
        let Ok(Target::Static(addresses)) = parse(target) else {
            panic!("a static target")
        };
        let hosts: Vec<_> = addresses
            .iter()
            .map(|address| (&*address.host, address.port))
            .collect();
        assert_eq!(hosts, [("127.0.0.1", Some(7102)), ("::1", Some(7103))]);
    }

    #[test]
    fn traffic_that_leaves_the_machine_without_tls_is_exposed() {
        for exposed in [
            "static:http://10.0.0.7:7102",
            "static:https://a:1,http://b:1",
            "static:http://127.0.0.1:1,http://10.0.0.7:1;zone=a",
            "dns:http://payment:7102",
            "dns:https://payment:7102,http://payment-canary:7102",
            "dns:http://localhost.evil.test:1",
            "k8s:http://payment.weft:grpc",
            "k8s:https://payment.weft:grpc, http://payment-canary.weft:grpc",
        ] {
            assert!(
                is_exposed(exposed, false) && is_exposed(exposed, true),
                "{exposed}"
            );
        }
        for safe in [
            "static:http://127.0.0.1:7102,http://[::1]:7103,http://[::ffff:127.0.0.1]:1",
            "static:http://localhost:1",
            "static:https://10.0.0.7:7102",
            "dns:https://payment:7102",
            "k8s:https://payment.weft:grpc",
            "unix:/run/payment.sock",
        ] {
            assert!(!is_exposed(safe, false), "{safe}");
        }
    }

    #[test]
    fn tls_settings_require_https_and_a_list_has_one_scheme() {
        let secured = |target: &str, tls: bool| parse(target).unwrap().is_secured(target, tls);
        for (target, expected) in [
            ("static:http://a:1,http://b:1", false),
            ("static:https://a:1,https://b:1", true),
            ("dns:https://a:1", true),
            ("unix:/run/a.sock", false),
        ] {
            assert_eq!(secured(target, false).unwrap(), expected, "{target}");
        }
        assert!(secured("dns:https://a:1", true).unwrap());
        for (target, tls, reason) in [
            ("static:http://a:1,https://b:1", false, "all http://"),
            ("dns:http://a:1", true, "https://"),
            ("unix:/run/a.sock", true, "no `tls`"),
        ] {
            let error = secured(target, tls).unwrap_err().to_string();
            assert!(error.contains(target) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_target_with_a_password_is_rejected_and_the_password_is_not_printed() {
        let error = parse("static:http://u:secret@h:1").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no password") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn the_error_of_an_invalid_target_gives_the_reason() {
        for (target, reason) in [
            ("http://a:1", "static:"),
            ("static:", "URI"),
            ("static:a:1", "http://"),
            ("static:http://a", "port"),
            ("static:ftp://a:1", "http://"),
            ("dns:HTTPS://a:1", "lower case"),
            ("unix:/run/a.sock;version=v2", "labels"),
            ("dns:http://a:1/path", "path"),
            ("static:http://a:1;zone=", "zone"),
            ("static:http://a:1;version", "label"),
            ("dns:http://a:1,http://b", "port"),
            ("k8s:http://a.b:grpc", "KUBERNETES_SERVICE_HOST"),
            ("unix:", "path"),
            ("unix://run/a.sock", "absolute"),
        ] {
            let error = parse(target).unwrap_err().to_string();
            assert!(error.contains(target) && error.contains(reason), "{error}");
        }
    }
}
