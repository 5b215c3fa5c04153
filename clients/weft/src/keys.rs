//! Ed25519 keys for tokens: generated once, stored as PKCS#8 in PEM, published as a JWKS (RFC 7517, RFC 8037).

use std::{fs, path::Path};

use anyhow::{Context as _, anyhow};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::workspace::write_private;

/// A signing key and its key id.
pub(crate) struct Key {
    /// The thumbprint of the public key (RFC 7638), so that equal keys have equal ids everywhere.
    pub(crate) id: String,
    /// PKCS#8 in PEM.
    pub(crate) pem: String,
    public: String,
}

impl Key {
    /// Reads the key at `path`; creates it (mode 0600) if there is none.
    pub(crate) fn open_or_create(path: &Path) -> anyhow::Result<Key> {
        if !path.exists() {
            write_private(path, generate()?.as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Key::open(path)
    }

    /// Reads the key at `path`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Key> {
        let pem =
            fs::read_to_string(path).with_context(|| format!("cannot read the key {}", path.display()))?;
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = STANDARD
            .decode(body)
            .with_context(|| format!("{} is not PEM", path.display()))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der)
            .map_err(|reason| anyhow!("{} holds no Ed25519 key: {reason}", path.display()))?;
        let public = URL_SAFE_NO_PAD.encode(pair.public_key());
        let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#));
        Ok(Key {
            id: URL_SAFE_NO_PAD.encode(thumbprint),
            pem,
            public,
        })
    }

    /// The public key as a JWK: that of `service`, or of a key that signs people's tokens.
    pub(crate) fn to_jwk(&self, service: Option<&str>) -> Value {
        let mut jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.id, "x": self.public});
        if let Some(service) = service {
            jwk["weft_service"] = service.into();
        }
        jwk
    }
}

/// Writes the public keys as a JWKS.
pub(crate) fn write_jwks(path: &Path, keys: &[Value]) -> anyhow::Result<()> {
    let set = json!({ "keys": keys });
    write_private(path, serde_json::to_string_pretty(&set)?.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}

fn generate() -> anyhow::Result<String> {
    let pair = Ed25519KeyPair::generate().map_err(|_| anyhow!("a key cannot be generated"))?;
    // Version 1 holds only the private key, and every reader of PKCS#8 understands it.
    let document = pair
        .to_pkcs8v1()
        .map_err(|_| anyhow!("the key cannot be written as PKCS#8"))?;
    let body = STANDARD.encode(document.as_ref());
    Ok(format!(
        "-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_created_once_and_readable_by_its_owner_only() {
        let folder = std::env::temp_dir().join(format!("weft-keys-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("user.pem");
        let first = Key::open_or_create(&path).unwrap();
        let second = Key::open_or_create(&path).unwrap();
        assert_eq!((first.id, first.pem), (second.id, second.pem));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(folder).unwrap();
    }
}
