//! The `tls` settings of a channel.

use std::path::{Path, PathBuf};

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// Which servers are accepted, and the identity of this process. By default servers are verified as on the web: by
/// the public certificate authorities and the target's host name, without a client certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the CA certificates for verifying servers; several while one is being replaced by another.
    /// Default: the public authorities that Mozilla trusts, as compiled in. Required with `server_ids`.
    pub ca_file: Option<PathBuf>,
    /// PEM file with this process's certificate and its intermediate certificates. Default: none is sent.
    pub cert_file: Option<PathBuf>,
    /// PEM file with the certificate's private key; together with `cert_file`.
    pub key_file: Option<PathBuf>,
    /// The SPIFFE ids accepted in the server's certificate, such as `spiffe://weft/payment`, in place of a host name.
    /// The server must then speak TLS 1.3. Default none.
    pub server_ids: Vec<String>,
    /// The host name or IP address that the server's certificate must be for, and that is sent as SNI. Default: the
    /// target's host; not together with `server_ids`. The server may speak TLS 1.2 or 1.3.
    pub server_name: Option<String>,
}

impl Tls {
    /// Mutual TLS with SPIFFE ids: the files of the authorities, the certificate and its key, and the accepted
    /// servers.
    pub fn spiffe(
        ca_file: impl Into<PathBuf>,
        cert_file: impl Into<PathBuf>,
        key_file: impl Into<PathBuf>,
        server_ids: Vec<String>,
    ) -> Tls {
        Tls {
            ca_file: Some(ca_file.into()),
            cert_file: Some(cert_file.into()),
            key_file: Some(key_file.into()),
            server_ids,
            server_name: None,
        }
    }

    /// All invalid settings, as (setting, reason). The files are not read.
    pub fn errors(&self) -> Vec<(&'static str, String)> {
        let mut errors = Vec::new();
        let mut require = |kept: bool, setting, reason: &str| {
            if !kept {
                errors.push((setting, reason.to_owned()));
            }
        };
        let has_ids = !self.server_ids.is_empty();
        require(
            self.cert_file.is_some() || self.key_file.is_none(),
            "tls.cert_file",
            "must be set if `tls.key_file` is",
        );
        require(
            self.key_file.is_some() || self.cert_file.is_none(),
            "tls.key_file",
            "must be set if `tls.cert_file` is",
        );
        require(
            self.ca_file.is_some() || !has_ids,
            "tls.ca_file",
            "must be set if `tls.server_ids` is: public authorities issue no SPIFFE ids",
        );
        require(
            self.server_name.is_none() || !has_ids,
            "tls.server_name",
            "contradicts `tls.server_ids`",
        );
        if let Some(name) = &self.server_name {
            require(
                ServerName::try_from(name.as_str()).is_ok(),
                "tls.server_name",
                &format!("must be a host name or an IP address, is `{name}`"),
            );
        }
        errors
    }

    /// A file that stands for all of them in log messages. `None` if there are no files.
    pub(super) fn any_file(&self) -> Option<&Path> {
        self.cert_file.as_deref().or(self.ca_file.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictory_settings_are_named() {
        let file = || Some(PathBuf::from("a.pem"));
        let name = |name: &str| Some(name.to_owned());
        let server_ids = vec!["spiffe://weft/echo".to_owned()];
        let tls = Tls::default;
        for (tls, expected) in [
            (tls(), None),
            (
                Tls {
                    ca_file: file(),
                    ..tls()
                },
                None,
            ),
            (
                Tls {
                    server_name: name("echo.test"),
                    ..tls()
                },
                None,
            ),
            (
                Tls {
                    server_name: name("::1"),
                    ..tls()
                },
                None,
            ),
            (
                Tls {
                    cert_file: file(),
                    key_file: file(),
                    ..tls()
                },
                None,
            ),
            (
                Tls {
                    ca_file: file(),
                    server_ids: server_ids.clone(),
                    ..tls()
                },
                None,
            ),
            (
                Tls {
                    cert_file: file(),
                    ..tls()
                },
                Some("tls.key_file"),
            ),
            (
                Tls {
                    key_file: file(),
                    ..tls()
                },
                Some("tls.cert_file"),
            ),
            (
                Tls {
                    server_ids: server_ids.clone(),
                    ..tls()
                },
                Some("tls.ca_file"),
            ),
            (
                Tls {
                    ca_file: file(),
                    server_ids,
                    server_name: name("echo.test"),
                    ..tls()
                },
                Some("tls.server_name"),
            ),
            (
                Tls {
                    server_name: name("https://echo.test"),
                    ..tls()
                },
                Some("tls.server_name"),
            ),
        ] {
            let errors = tls.errors();
            let settings: Vec<_> = errors.iter().map(|(setting, _)| *setting).collect();
            assert_eq!(settings, Vec::from_iter(expected), "{tls:?}");
        }
    }

    #[test]
    fn a_setting_that_does_not_exist_is_an_error() {
        let empty: Tls = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, Tls::default());
        assert!(serde_json::from_str::<Tls>(r#"{"ca": "public"}"#).is_err());
    }
}
