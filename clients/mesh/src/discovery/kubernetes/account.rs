//! How a pod reaches the Kubernetes API: an address from its environment, and a service account's mounted files.

use std::{env, fs, io, path::PathBuf};

use http::Uri;
use serde::{Deserialize, Serialize};

/// Where the Kubernetes API is, for `k8s:` targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KubernetesApi {
    /// Its address: `https://10.96.0.1:443`, or `http://` for a proxy that authenticates by itself. Default: the
    /// address that the kubelet sets in every container's environment.
    pub url: Option<String>,
    /// The folder with `token`, `ca.crt` and `namespace`. Default: where the kubelet mounts the service account.
    pub account_folder: PathBuf,
}

impl Default for KubernetesApi {
    fn default() -> KubernetesApi {
        KubernetesApi {
            url: None,
            account_folder: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"),
        }
    }
}

/// The validated settings.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) secured: bool,
    folder: PathBuf,
}

impl Account {
    pub(super) fn new(settings: &KubernetesApi) -> Result<Account, String> {
        let url = settings.url.clone().map_or_else(in_cluster, Ok)?;
        let wrong = || format!("the API's address `{url}` must be https://HOST:PORT or http://HOST:PORT");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let secured = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?;
        Ok(Account {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if secured { 443 } else { 80 }),
            secured,
            folder: settings.account_folder.clone(),
        })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The pod's own namespace.
    pub(super) fn namespace(&self) -> Result<String, String> {
        let path = self.file("namespace");
        let text = fs::read_to_string(&path).map_err(|error| {
            format!(
                "names no namespace, and the own one cannot be read: {}: {error}",
                path.display()
            )
        })?;
        Ok(text.trim().to_owned())
    }

    /// The current token; the kubelet replaces the file long before the token expires. `None` if a proxy
    /// authenticates.
    pub(super) fn token(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.file("token")) {
            Ok(token) => Ok(Some(token.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.secured => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn in_cluster() -> Result<String, String> {
    let variable = |name: &str| {
        env::var(name)
            .map_err(|_| format!("{name} is not set: a k8s: target needs a pod, or the API's address"))
    };
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    Ok(format!("https://{host}:{port}"))
}
