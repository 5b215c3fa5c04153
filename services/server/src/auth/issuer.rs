//! Signs tokens for tests, as the identity provider and as services.

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, get_current_timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Settings;

/// An identity provider with a key for each algorithm (`k1` is Ed25519; `ec`, `rsa` and `pss` are named after
/// theirs), and two services with one key each.
pub(crate) struct Issuer {
    pub(crate) folder: TempDir,
    person: Signer,
    others: Vec<Signer>,
    pub(crate) kid: String,
}

/// A private key, its `kid`, and its public key as a JWK.
struct Signer {
    kid: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    pem: String,
    jwk: Value,
}

impl Signer {
    fn ed25519(kid: &'static str, service: Option<&str>) -> Signer {
        let pair = Ed25519KeyPair::generate().unwrap();
        let der = pair.to_pkcs8v1().unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let mut jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x});
        if let Some(service) = service {
            jwk["weft_service"] = service.into();
        }
        Signer::new(kid, Algorithm::EdDSA, der.as_ref(), jwk)
    }

    fn p256(kid: &'static str) -> Signer {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        // An uncompressed point: 4, x, y.
        let point = pair.public_key().as_ref();
        let (x, y) = (
            URL_SAFE_NO_PAD.encode(&point[1..33]),
            URL_SAFE_NO_PAD.encode(&point[33..]),
        );
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y});
        Signer::new(kid, Algorithm::ES256, document.as_ref(), jwk)
    }

    fn rsa(kid: &'static str, algorithm: Algorithm) -> Signer {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let document: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let public = pair.public_key();
        let n = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
        let e = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
        let jwk = json!({"kty": "RSA", "kid": kid, "n": n, "e": e, "alg": format!("{algorithm:?}")});
        Signer::new(kid, algorithm, document.as_ref(), jwk)
    }

    fn new(kid: &'static str, algorithm: Algorithm, pkcs8: &[u8], jwk: Value) -> Signer {
        let body = STANDARD.encode(pkcs8);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
        };
        Signer {
            kid,
            algorithm,
            key: key.unwrap(),
            pem,
            jwk,
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

impl Issuer {
    /// With Ed25519 keys only, which are quick to generate.
    pub(crate) fn new() -> Issuer {
        Issuer::with(vec![])
    }

    /// With a key for each algorithm.
    pub(crate) fn with_all_algorithms() -> Issuer {
        Issuer::with(vec![
            Signer::p256("ec"),
            Signer::rsa("rsa", Algorithm::RS256),
            Signer::rsa("pss", Algorithm::PS256),
        ])
    }

    fn with(mut others: Vec<Signer>) -> Issuer {
        let folder = TempDir::new().unwrap();
        let person = Signer::ed25519("k1", None);
        let services = ["order", "payment"].map(|name| Signer::ed25519(name, Some(name)));
        std::fs::write(folder.path().join("key.pem"), &services[0].pem).unwrap();
        others.extend(services);
        let keys: Vec<_> = [&person]
            .into_iter()
            .chain(&others)
            .map(|signer| &signer.jwk)
            .collect();
        let jwks = json!({ "keys": keys });
        std::fs::write(folder.path().join("jwks.json"), jwks.to_string()).unwrap();
        Issuer {
            folder,
            person,
            others,
            kid: "k1".to_owned(),
        }
    }

    /// The settings of the order service.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            jwks_file: Some(self.folder.path().join("jwks.json")),
            signing_key_file: Some(self.folder.path().join("key.pem")),
            signing_key_id: Some("order".to_owned()),
            ..Settings::default()
        }
    }

    /// A valid token, with its claims changed by `bend`.
    pub(crate) fn token(&self, bend: impl FnOnce(&mut Value)) -> String {
        self.with_header(|_| {}, bend)
    }

    /// A valid token, with its header and its claims changed.
    pub(crate) fn with_header(
        &self,
        bend_header: impl FnOnce(&mut Value),
        bend: impl FnOnce(&mut Value),
    ) -> String {
        let mut header = json!({"alg": "EdDSA", "kid": self.kid});
        bend_header(&mut header);
        let mut claims = claims();
        bend(&mut claims);
        self.person.sign(&header, &claims)
    }

    /// A token signed with the key `kid`.
    pub(crate) fn signed_by(&self, kid: &str, bend: impl FnOnce(&mut Value)) -> String {
        let signer = self.others.iter().find(|signer| signer.kid == kid).unwrap();
        let mut claims = claims();
        bend(&mut claims);
        let header = json!({"alg": format!("{:?}", signer.algorithm), "kid": kid, "typ": "at+jwt"});
        signer.sign(&header, &claims)
    }

    /// A service's own token.
    pub(crate) fn service_token(&self, service: &str) -> String {
        self.signed_by(service, |claims| {
            claims["service"] = service.into();
            claims["roles"] = json!([]);
        })
    }
}

fn claims() -> Value {
    let now = get_current_timestamp();
    json!({
        "iss": "weft", "aud": ["weft", "other"], "sub": "amal", "iat": now, "nbf": now, "exp": now + 60,
        "facility": "F1", "roles": ["clerk", "not-ours"],
    })
}
