//! The public keys: read from a file or a URL, again at intervals, and when a token names a key that is not there.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, JwkSet, KeyAlgorithm},
};
use sha2::{Digest, Sha256};
use tokio::{sync::Mutex, time::Instant};

use super::{Settings, fetch};

/// A token with an unknown key makes the keys be read again, but not more often than this.
const COOL_DOWN: Duration = Duration::from_secs(5);

/// The keys that are known now.
#[derive(Debug)]
pub(super) struct Keys {
    source: Source,
    known: RwLock<Arc<HashMap<String, DecodingKey>>>,
    last_read: Mutex<Option<Instant>>,
}

#[derive(Clone, Debug)]
enum Source {
    File(std::path::PathBuf),
    Url(String),
}

/// Why the keys could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("neither jwks_file nor jwks_url is set")]
    NoSource,
    #[error("the keys cannot be read from {from}")]
    Read { from: String, source: std::io::Error },
    #[error("the keys cannot be fetched from {from}")]
    Fetch { from: String, source: fetch::Error },
    #[error("{from} is no JSON Web Key Set")]
    Format { from: String, source: serde_json::Error },
    #[error("{from} holds no Ed25519 key")]
    Empty { from: String },
}

impl Keys {
    pub(super) fn new(settings: &Settings) -> Result<Keys, Error> {
        let source = match (&settings.jwks_file, &settings.jwks_url) {
            (Some(path), _) => Source::File(path.clone()),
            (None, Some(url)) => Source::Url(url.clone()),
            (None, None) => return Err(Error::NoSource),
        };
        Ok(Keys {
            source,
            known: RwLock::default(),
            last_read: Mutex::new(None),
        })
    }

    /// Whether reading them can only fail for good.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.source, Source::File(_))
    }

    /// Reads the keys anew; when that fails, the last ones stay.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        *self.last_read.lock().await = Some(Instant::now());
        let keys = Arc::new(self.source.read().await?);
        *self
            .known
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The key called `kid`; when there is none, the keys may have changed.
    pub(super) async fn find(&self, kid: &str) -> Option<DecodingKey> {
        if let Some(key) = self.lookup(kid) {
            return Some(key);
        }
        let stale = self
            .last_read
            .lock()
            .await
            .is_none_or(|at| at.elapsed() >= COOL_DOWN);
        if stale && let Err(error) = self.refresh().await {
            tracing::warn!(
                error.message = crate::status::chain(&error),
                "the keys cannot be read again"
            );
        }
        self.lookup(kid)
    }

    fn lookup(&self, kid: &str) -> Option<DecodingKey> {
        self.known
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .get(kid)
            .cloned()
    }
}

impl Source {
    async fn read(&self) -> Result<HashMap<String, DecodingKey>, Error> {
        let (from, bytes) = match self {
            Source::File(path) => {
                let from = path.display().to_string();
                let bytes = tokio::fs::read(path).await;
                (
                    from.clone(),
                    bytes.map_err(|source| Error::Read { from, source })?.into(),
                )
            }
            Source::Url(url) => {
                let bytes = fetch::get(url).await;
                (
                    url.clone(),
                    bytes.map_err(|source| Error::Fetch {
                        from: url.clone(),
                        source,
                    })?,
                )
            }
        };
        parse(&from, &bytes)
    }
}

/// A key goes by its `kid` and by its thumbprint: signers who were told no name use the latter. Keys of other kinds are
/// others' business.
fn parse(from: &str, bytes: &[u8]) -> Result<HashMap<String, DecodingKey>, Error> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|source| Error::Format {
        from: from.to_owned(),
        source,
    })?;
    let mut keys = HashMap::new();
    for jwk in set.keys {
        let AlgorithmParameters::OctetKeyPair(pair) = &jwk.algorithm else {
            continue;
        };
        let usable = jwk
            .common
            .key_algorithm
            .is_none_or(|algorithm| algorithm == KeyAlgorithm::EdDSA);
        if pair.curve != EllipticCurve::Ed25519 || !usable {
            continue;
        }
        let Ok(public) = URL_SAFE_NO_PAD.decode(&pair.x) else {
            continue;
        };
        let key = DecodingKey::from_ed_der(&public);
        keys.extend(jwk.common.key_id.clone().map(|kid| (kid, key.clone())));
        keys.insert(key_id(&public), key);
    }
    if keys.is_empty() {
        Err(Error::Empty {
            from: from.to_owned(),
        })
    } else {
        Ok(keys)
    }
}

/// The thumbprint of an Ed25519 public key of 32 bytes (RFC 7638): its `kid` where no other is given.
pub fn key_id(public: &[u8]) -> String {
    let canonical = format!(
        r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
        URL_SAFE_NO_PAD.encode(public)
    );
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_by_its_thumbprint_as_rfc_8037_computes_it() {
        let public = URL_SAFE_NO_PAD
            .decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
            .unwrap();
        assert_eq!(key_id(&public), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let set =
            br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        assert!(
            parse("set", set)
                .unwrap()
                .contains_key("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")
        );
    }

    #[test]
    fn a_set_without_a_usable_key_is_refused() {
        assert!(matches!(
            parse("set", br#"{"keys":[]}"#),
            Err(Error::Empty { .. })
        ));
        assert!(matches!(parse("set", b"<html>"), Err(Error::Format { .. })));
    }
}
