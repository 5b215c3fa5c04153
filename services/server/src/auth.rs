//! Authentication by JWTs, verified with the keys of the identity provider and of the services.

mod fetch;
#[cfg(test)]
pub(crate) mod issuer;
mod jwk;
mod jwks;
mod service_tokens;
mod token;
mod verifier;

use std::{path::PathBuf, time::Duration};

use jsonwebtoken::Algorithm;
pub use jwk::key_id;
use serde::{Deserialize, Serialize};
pub use service_tokens::{Error as SigningError, ServiceTokens};
use sha2::{Digest, Sha256};
pub use token::{TenantClaim, TokenError};
pub use verifier::Verifier;

use crate::{Secret, SecretUrl, Violations};

/// Which token issuers are trusted.
///
/// A key whose JWK has the member `weft_service` signs the tokens of that service only. Every other key belongs to
/// the identity provider: it signs the tokens of people, and cannot sign for a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The file with the identity provider's public keys (RFC 7517). Either this or `jwks_url`.
    pub jwks_file: Option<PathBuf>,
    /// The URL of the identity provider's public keys: `https://`. Either this or `jwks_file`.
    pub jwks_url: SecretUrl,
    /// The PEM file with the authorities that sign the certificate of `jwks_url`'s server. Default: the public
    /// ones.
    pub jwks_ca_file: Option<PathBuf>,
    /// Whether `jwks_url` may be `http://`. Anybody who can impersonate that server can then sign any token.
    /// Default no.
    pub jwks_allow_http: bool,
    /// Seconds between two refreshes of the keys, 1 to 86400. Default 300.
    pub jwks_refresh_s: u64,
    /// Seconds after which keys that could not be refreshed are no longer used, `jwks_refresh_s` to 2592000.
    /// Default 21600.
    pub jwks_max_age_s: u64,
    /// The file with the services' public keys (RFC 7517), each with its `weft_service`. Not needed when
    /// `jwks_file` or `jwks_url` contains them.
    pub service_keys_file: Option<PathBuf>,
    /// The algorithms that the identity provider may sign with: `EdDSA`, `ES256`, `RS256`, `PS256`. Default all
    /// four. Services sign with EdDSA.
    pub algorithms: Vec<String>,
    /// The `iss` that a token must have. Default `weft`.
    pub issuer: String,
    /// The `aud` that a token must contain. Default `weft`.
    pub audience: String,
    /// Allowed difference between clocks, in seconds, 0 to 300. Default 5.
    pub leeway_s: u64,
    /// The PKCS #8 PEM file with the Ed25519 key that signs this service's own tokens. Without it the service
    /// cannot do background work that calls other services.
    pub signing_key_file: Option<PathBuf>,
    /// The `kid` of that key. Default: the thumbprint of its public key (RFC 7638).
    pub signing_key_id: Option<String>,
    /// The key that signs page tokens. Default: derived from the signing key; without one, generated at each
    /// start.
    pub page_token_key: Secret,
}

const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("EdDSA", Algorithm::EdDSA),
    ("ES256", Algorithm::ES256),
    ("RS256", Algorithm::RS256),
    ("PS256", Algorithm::PS256),
];

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            jwks_file: None,
            jwks_url: SecretUrl::default(),
            jwks_ca_file: None,
            jwks_allow_http: false,
            jwks_refresh_s: 300,
            jwks_max_age_s: 21_600,
            service_keys_file: None,
            algorithms: ALGORITHMS.map(|(name, _)| name.to_owned()).to_vec(),
            issuer: "weft".to_owned(),
            audience: "weft".to_owned(),
            leeway_s: 5,
            signing_key_file: None,
            signing_key_id: None,
            page_token_key: Secret::default(),
        }
    }
}

impl Settings {
    pub(crate) fn refresh(&self) -> Duration {
        Duration::from_secs(self.jwks_refresh_s)
    }

    pub(crate) fn max_age(&self) -> Duration {
        Duration::from_secs(self.jwks_max_age_s)
    }

    fn algorithms(&self) -> Vec<Algorithm> {
        let allowed = |name: &str| self.algorithms.iter().any(|allowed| allowed == name);
        let allowed = ALGORITHMS.into_iter().filter(|(name, _)| allowed(name));
        allowed.map(|(_, algorithm)| algorithm).collect()
    }

    /// The key that signs page tokens; the same in all replicas with the same settings.
    ///
    /// # Errors
    /// When the signing key's file cannot be read.
    pub fn page_key(&self) -> std::io::Result<Vec<u8>> {
        if self.page_token_key.is_set() {
            return Ok(self.page_token_key.expose().as_bytes().to_vec());
        }
        let Some(path) = &self.signing_key_file else {
            return Ok(rand::random::<[u8; 32]>().to_vec());
        };
        let derived = Sha256::new()
            .chain_update(b"page tokens")
            .chain_update(std::fs::read(path)?)
            .finalize();
        Ok(derived.to_vec())
    }

    /// Reports the settings that contradict each other or are out of bounds.
    pub fn check(&self, violations: &mut Violations) {
        let by_url = self.jwks_url.is_set();
        match (&self.jwks_file, by_url) {
            (None, false) => violations.add(
                "jwks_file",
                "must be set, or auth.jwks_url: the identity provider's public keys (`weft up` writes a set for trying \
                 out, .weft/keys/jwks.json)",
            ),
            (Some(_), true) => violations.add("jwks_file", "must not be set beside auth.jwks_url"),
            _ => {}
        }
        if by_url && let Err(reason) = fetch::Location::new(self) {
            violations.add("jwks_url", format!("{reason} (is {})", self.jwks_url));
        }
        for (setting, given) in [
            ("jwks_ca_file", self.jwks_ca_file.is_some()),
            ("jwks_allow_http", self.jwks_allow_http),
        ] {
            violations.require(by_url || !given, setting, "has no effect without auth.jwks_url");
        }
        let algorithms = &self.algorithms;
        let unknown = algorithms
            .iter()
            .find(|name| !ALGORITHMS.iter().any(|(known, _)| known == *name));
        if let Some(name) = unknown {
            violations.add(
                "algorithms",
                format!("must be among EdDSA, ES256, RS256, PS256, not {name:?}"),
            );
        }
        violations.require(!algorithms.is_empty(), "algorithms", "must not be empty");
        for (setting, value, low, high) in [
            ("jwks_refresh_s", self.jwks_refresh_s, 1, 86_400),
            (
                "jwks_max_age_s",
                self.jwks_max_age_s,
                self.jwks_refresh_s,
                2_592_000,
            ),
            ("leeway_s", self.leeway_s, 0, 300),
        ] {
            let text = format!("must be {low} to {high}, is {value}");
            violations.require((low..=high).contains(&value), setting, text);
        }
        violations.require(!self.issuer.is_empty(), "issuer", "must not be empty");
        violations.require(!self.audience.is_empty(), "audience", "must not be empty");
    }
}
