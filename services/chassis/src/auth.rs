//! Who calls: JWTs signed with Ed25519, checked against a JWKS, and the identity that they prove.

mod fetch;
mod identity;
#[cfg(test)]
pub(crate) mod issuer;
mod jwks;
mod service_tokens;
mod verifier;

use std::{path::PathBuf, time::Duration};

pub use identity::{Identity, RoleSet};
pub use jwks::key_id;
use serde::{Deserialize, Serialize};
pub use service_tokens::{Error as SigningError, ServiceTokens};
use sha2::{Digest, Sha256};
pub use verifier::{Refused, Verifier};

use crate::{PageTokens, Secret, Violations};

/// Whose tokens are believed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The file with the public keys (RFC 7517). Either this or `jwks_url`.
    pub jwks_file: Option<PathBuf>,
    /// Where the public keys are fetched, `http://` or `https://`. Either this or `jwks_file`.
    pub jwks_url: Option<String>,
    /// Seconds between two readings of the keys. Default 300.
    pub jwks_refresh_s: u64,
    /// The `iss` that a token must carry. Default `weft`.
    pub issuer: String,
    /// The `aud` that a token must hold. Default `weft`.
    pub audience: String,
    /// The PKCS #8 PEM file with the Ed25519 key that signs this service's own tokens. Without it the service can do
    /// no work that has no caller.
    pub signing_key_file: Option<PathBuf>,
    /// The `kid` of that key. Default: the thumbprint of its public half (RFC 7638).
    pub signing_key_id: Option<String>,
    /// What page tokens are signed with. Default: derived from the signing key; without one, made anew at each start.
    pub page_token_key: Secret,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            jwks_file: None,
            jwks_url: None,
            jwks_refresh_s: 300,
            issuer: "weft".to_owned(),
            audience: "weft".to_owned(),
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

    /// The signer of page tokens, the same in every replica that has the same key.
    ///
    /// # Errors
    /// When the signing key's file cannot be read.
    pub fn page_tokens(&self) -> std::io::Result<PageTokens> {
        Ok(PageTokens::new(&self.page_key()?))
    }

    /// What page tokens are signed with, for those who sign them by themselves.
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

    pub(crate) fn check(&self, violations: &mut Violations) {
        let one = self.jwks_file.is_some() != self.jwks_url.is_some();
        violations.require(one, "jwks_file", "must be set, or jwks_url, and not both");
        if let Some(url) = &self.jwks_url {
            let fetchable = url
                .parse::<http::Uri>()
                .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
            violations.require(fetchable, "jwks_url", "must be an http:// or https:// URL");
        }
        violations.require(self.jwks_refresh_s >= 1, "jwks_refresh_s", "must be at least 1");
        violations.require(!self.issuer.is_empty(), "issuer", "must not be empty");
        violations.require(!self.audience.is_empty(), "audience", "must not be empty");
    }
}
