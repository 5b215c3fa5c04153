//! Who calls: tokens as the operators' identity provider would mint them, and the keys they are checked by.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tonic::{Request, Status, metadata::AsciiMetadataValue, service::Interceptor};

/// Who issues the harness's tokens.
pub const ISSUER: &str = "https://identity.weft.test";
/// Whom they are for.
pub const AUDIENCE: &str = "weft";
/// The name of the key in the JWKS file.
pub const KEY_ID: &str = "tests";

/// An Ed25519 key, the JWKS file that services check tokens by, and the private key file that they sign their own
/// service tokens with.
pub struct Issuer {
    key: EncodingKey,
    jwks: PathBuf,
    private: PathBuf,
}

impl Issuer {
    /// Makes a key and writes `jwks.json` and `signing.pem` into `folder`.
    pub fn create(folder: &Path) -> Issuer {
        let pair = Ed25519KeyPair::generate().expect("the system has random numbers");
        let der = pair.to_pkcs8v1().expect("a fresh key can be written");
        let x = general_purpose::URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let jwks = json!({ "keys": [{
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": KEY_ID, "x": x,
        }]});
        let body = general_purpose::STANDARD.encode(der.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        let issuer = Issuer {
            key: EncodingKey::from_ed_der(der.as_ref()),
            jwks: folder.join("jwks.json"),
            private: folder.join("signing.pem"),
        };
        fs::write(&issuer.jwks, jwks.to_string()).expect("the folder is the test's own");
        fs::write(&issuer.private, pem).expect("the folder is the test's own");
        issuer
    }

    /// The public keys, as services read them.
    pub fn jwks_file(&self) -> &Path {
        &self.jwks
    }

    /// The private key in PEM, for the services' own tokens.
    pub fn signing_key_file(&self) -> &Path {
        &self.private
    }

    /// A token for a person of one facility, good for an hour.
    pub fn token(&self, facility: &str, roles: &[&str]) -> Bearer {
        self.sign(&self.claims(facility, roles))
    }

    /// The claims of such a token, to be bent before they are signed.
    pub fn claims(&self, facility: &str, roles: &[&str]) -> Value {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs();
        json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "tester", "facility": facility, "roles": roles,
            "iat": now, "nbf": now - 1, "exp": now + 3600,
        })
    }

    /// Signs any claims.
    pub fn sign(&self, claims: &Value) -> Bearer {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(KEY_ID.to_owned());
        Bearer(jsonwebtoken::encode(&header, claims, &self.key).expect("JSON can be signed"))
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Issuer")
            .field("jwks", &self.jwks)
            .finish_non_exhaustive()
    }
}

/// A signed token. As an interceptor it puts itself on every request.
#[derive(Clone, Debug)]
pub struct Bearer(String);

impl Bearer {
    /// The token itself, without the word `Bearer`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = AsciiMetadataValue::try_from(format!("Bearer {}", self.0));
        request
            .metadata_mut()
            .insert("authorization", value.expect("a token is ASCII"));
        Ok(request)
    }
}
