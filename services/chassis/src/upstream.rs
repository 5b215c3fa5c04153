//! Another service that this one calls.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Process, Violations};

/// The target of another service, and the behavior of calls to it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Upstream {
    /// `static:http://127.0.0.1:7102,http://…`, `dns:http://payment:7102`, `k8s:http://payment.weft:grpc` or
    /// `unix:/run/payment.sock`.
    pub target: String,
    /// Overrides of the contract's policies: a file with gRPC's service-config JSON. Read again when it changes;
    /// an invalid file has no effect. Default none.
    pub service_config_file: Option<PathBuf>,
    /// Mutual TLS with SPIFFE ids: required for `https://` targets, and only for these. Default none.
    pub tls: Option<mesh::Tls>,
    /// Limits and timeouts of the channel.
    pub tuning: mesh::Tuning,
}

impl Upstream {
    /// One endpoint at a local address: `Upstream::local(7102)`.
    pub fn local(port: u16) -> Upstream {
        Upstream {
            target: format!("static:http://127.0.0.1:{port}"),
            ..Upstream::default()
        }
    }

    /// Reports violations; call it within the section's name.
    pub fn check(&self, violations: &mut Violations) {
        let known = ["static:", "dns:", "k8s:", "unix:"]
            .iter()
            .any(|scheme| self.target.starts_with(scheme));
        violations.require(known, "target", "must begin with static:, dns:, k8s: or unix:");
        violations.require(
            !self.target.contains('@'),
            "target",
            "must hold no user and no password",
        );
        violations.require(
            self.tuning.bearer != mesh::BearerTokens::Secured
                || !mesh::is_exposed(&self.target, self.tuning.proxy.is_some()),
            "tuning.bearer",
            format!(
                "must be `plaintext` or `never` for {}: calls carry tokens, which cross the network in the clear; \
                 `plaintext` allows that, https:// needs no permission",
                crate::masked(&self.target)
            ),
        );
        violations.require(
            self.service_config_file.is_none() || self.tuning.service_config.is_none(),
            "service_config_file",
            "contradicts tuning.service_config",
        );
        violations.require(
            self.tls.is_none() || self.tuning.tls.is_none(),
            "tls",
            "contradicts tuning.tls",
        );
        self.check_tls(violations);
        violations.within("tuning", |violations| {
            for (setting, fault) in self.tuning.errors() {
                violations.add(setting, fault);
            }
        });
    }

    /// Reports what mutual TLS lacks: a Weft service has a SPIFFE id and accepts only clients with certificates. A
    /// host name and a public authority would not identify it.
    fn check_tls(&self, violations: &mut Violations) {
        for (setting, fault) in self.tls.iter().flat_map(mesh::Tls::errors) {
            violations.add(setting, fault);
        }
        let (section, tls) = match (&self.tls, &self.tuning.tls) {
            (Some(tls), _) => ("tls", tls),
            (None, Some(tls)) => ("tuning.tls", tls),
            (None, None) => {
                let secured = self.target.contains("https://");
                violations.require(!secured, "tls", "is required for https:// targets");
                return;
            }
        };
        violations.within(section, |violations| {
            for (setting, is_set) in [
                ("ca_file", tls.ca_file.is_some()),
                ("cert_file", tls.cert_file.is_some()),
                ("key_file", tls.key_file.is_some()),
                ("server_ids", !tls.server_ids.is_empty()),
            ] {
                violations.require(is_set, setting, "must be set: Weft's services use mutual TLS");
            }
        });
    }
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target, a setting or the service config cannot be used.
    #[error("no channel to {service}")]
    Channel {
        /// The service at the other end.
        service: String,
        /// What is wrong.
        source: mesh::Error,
    },
}

impl Process {
    /// A channel to another service. It connects in the background, without blocking.
    ///
    /// # Errors
    /// When the target or the service config cannot be used.
    pub fn channel(&self, service: &str, upstream: &Upstream) -> Result<mesh::Channel, Error> {
        let mut options = mesh::ChannelOptions::new(&upstream.target, service, self.name);
        options.tuning = upstream.tuning.clone();
        options.allow_faults = self.allows_faults;
        if self.allows_faults && !options.tuning.inject.is_empty() {
            let faults = options.tuning.inject.len();
            tracing::warn!(service, faults, "fault injection is on");
        }
        if let Some(tls) = &upstream.tls {
            options.tuning.tls = Some(tls.clone());
        }
        options
            .service_config_file
            .clone_from(&upstream.service_config_file);
        let channel = mesh::Channel::connect(options, &self.policies).map_err(|source| Error::Channel {
            service: service.to_owned(),
            source,
        })?;
        self.channels.add(channel.clone());
        Ok(channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::fixture::process;

    #[test]
    fn an_https_upstream_needs_all_of_mutual_tls() {
        let violated = |upstream: &Upstream| {
            let mut violations = Violations::new();
            upstream.check(&mut violations);
            let found = violations
                .into_result()
                .err()
                .map(|violations| violations.to_string());
            found.unwrap_or_default()
        };
        let mut upstream = Upstream {
            target: "dns:https://payment:7102".to_owned(),
            ..Upstream::default()
        };
        assert!(
            violated(&upstream).contains("tls"),
            "public authorities do not identify a service"
        );
        upstream.tls = Some(mesh::Tls::default());
        let missing = violated(&upstream);
        for setting in ["tls.ca_file", "tls.cert_file", "tls.key_file", "tls.server_ids"] {
            assert!(missing.contains(setting), "{setting}: {missing}");
        }
        let ids = vec!["spiffe://weft/payment".to_owned()];
        upstream.tls = Some(mesh::Tls::spiffe("ca.pem", "cert.pem", "key.pem", ids));
        assert_eq!(violated(&upstream), "");
        (upstream.tuning.tls, upstream.tls) = (upstream.tls.take(), None);
        assert_eq!(violated(&upstream), "");
        upstream.tuning.tls.as_mut().unwrap().server_ids.clear();
        assert!(violated(&upstream).contains("tuning.tls.server_ids"));
        let unix = Upstream {
            target: "unix:/run/payment.sock".to_owned(),
            ..Upstream::default()
        };
        assert_eq!(violated(&unix), "");
    }

    #[tokio::test]
    async fn fault_injection_is_rejected_where_the_environment_does_not_allow_it() {
        let mut upstream = Upstream::local(1);
        upstream.tuning.inject = vec![mesh::Fault::default()];
        for (value, allowed) in [(None, false), (Some("1"), false), (Some("true"), true)] {
            let mut process = process();
            process.allows_faults = crate::process::allows_faults(value);
            let made = process.channel("payment", &upstream);
            assert_eq!(made.is_ok(), allowed, "{value:?}");
            if let Err(Error::Channel { source, .. }) = made {
                assert!(source.to_string().contains("`inject`"), "{source}");
            }
        }
    }
}
