//! Tokens as the operator's identity provider would issue them, and the keys that verify them.

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

use crate::Service;

/// Issuer of the harness's tokens.
pub const ISSUER: &str = "https://identity.weft.test";
/// Audience of the harness's tokens.
pub const AUDIENCE: &str = "weft";
/// Key id of the identity provider in the JWKS file. A service's key has the service's name.
pub const KEY_ID: &str = "tests";

/// The Ed25519 keys of the identity provider and of each service, and the JWKS file with which services verify
/// tokens.
pub struct Issuer {
    key: Key,
    services: Vec<(Service, Key)>,
    folder: PathBuf,
}

struct Key {
    signing: EncodingKey,
    pem: String,
    jwk: Value,
}

impl Key {
    fn create(kid: &str) -> Key {
        let pair = Ed25519KeyPair::generate().expect("the system has random numbers");
        let der = pair.to_pkcs8v1().expect("a fresh key can be written");
        let x = general_purpose::URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let body = general_purpose::STANDARD.encode(der.as_ref());
        Key {
            signing: EncodingKey::from_ed_der(der.as_ref()),
            pem: format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
            jwk: json!({
                "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x,
            }),
        }
    }

    fn sign(&self, kid: &str, claims: &Value) -> Bearer {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(kid.to_owned());
        Bearer(jsonwebtoken::encode(&header, claims, &self.signing).expect("JSON can be signed"))
    }
}

impl Issuer {
    /// Creates the keys and writes `jwks.json` and `<service>.pem` into `folder`.
    pub fn create(folder: &Path) -> Issuer {
        let key = Key::create(KEY_ID);
        let services = Service::ALL.map(|service| {
            let mut key = Key::create(service.name());
            key.jwk["weft_service"] = service.name().into();
            (service, key)
        });
        let issuer = Issuer {
            key,
            services: services.into(),
            folder: folder.to_owned(),
        };
        let keys = issuer.services.iter().map(|(_, key)| key);
        let keys: Vec<_> = [&issuer.key]
            .into_iter()
            .chain(keys)
            .map(|key| &key.jwk)
            .collect();
        let jwks = json!({ "keys": keys }).to_string();
        fs::write(issuer.jwks_file(), jwks).expect("the folder is the test's own");
        for (service, key) in &issuer.services {
            fs::write(issuer.signing_key_file(*service), &key.pem).expect("the folder is the test's own");
        }
        issuer
    }

    /// Path of the public keys that services read.
    pub fn jwks_file(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// Path of a service's private key in PEM, which signs its own tokens.
    pub fn signing_key_file(&self, service: Service) -> PathBuf {
        self.folder.join(format!("{service}.pem"))
    }

    /// A token for a user of one facility, valid for an hour.
    pub fn token(&self, facility: &str, roles: &[&str]) -> Bearer {
        self.sign(&self.claims(facility, roles))
    }

    /// The claims of such a token, to be changed before they are signed.
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

    /// Signs any claims with the identity provider's key.
    pub fn sign(&self, claims: &Value) -> Bearer {
        self.key.sign(KEY_ID, claims)
    }

    /// Signs any claims with a service's key.
    ///
    /// # Panics
    /// Never: every service has a key.
    pub fn sign_as(&self, service: Service, claims: &Value) -> Bearer {
        let key = self.services.iter().find(|(of, _)| *of == service);
        let (_, key) = key.expect("every service has a key");
        key.sign(service.name(), claims)
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Issuer")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// A signed token. As an interceptor it adds itself to every request.
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
