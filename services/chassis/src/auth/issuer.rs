//! Signs tokens for tests, as an identity provider would.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Settings;

pub(crate) struct Issuer {
    pub(crate) folder: TempDir,
    key: EncodingKey,
    pub(crate) kid: String,
}

impl Issuer {
    pub(crate) fn new() -> Issuer {
        let folder = TempDir::new().unwrap();
        let pair = Ed25519KeyPair::generate().unwrap();
        let der = pair.to_pkcs8v1().unwrap();
        let body = STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": x}]});
        std::fs::write(folder.path().join("key.pem"), pem).unwrap();
        std::fs::write(folder.path().join("jwks.json"), jwks.to_string()).unwrap();
        Issuer {
            folder,
            key: EncodingKey::from_ed_der(der.as_ref()),
            kid: "k1".to_owned(),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            jwks_file: Some(self.folder.path().join("jwks.json")),
            signing_key_file: Some(self.folder.path().join("key.pem")),
            ..Settings::default()
        }
    }

    /// A good token, but for what `bend` does to its claims.
    pub(crate) fn token(&self, bend: impl FnOnce(&mut Value)) -> String {
        let now = get_current_timestamp();
        let mut claims = json!({
            "iss": "weft", "aud": ["weft", "other"], "sub": "amal", "iat": now, "nbf": now, "exp": now + 60,
            "facility": "F1", "roles": ["clerk", "not-ours"],
        });
        bend(&mut claims);
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        encode(&header, &claims, &self.key).unwrap()
    }
}
