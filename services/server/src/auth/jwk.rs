//! A JSON Web Key Set (RFC 7517): its keys, the owner of each, and the one algorithm that each verifies.

use std::{collections::HashMap, fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{Jwk, ThumbprintHash},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The member of a JWK that names the service that owns the key. A key without it belongs to the identity
/// provider.
pub(super) const SERVICE_MEMBER: &str = "weft_service";
/// Keys in one set. No identity provider needs more.
const MAX_KEYS: usize = 100;
/// Length of RSA moduli, in bytes: RFC 7518, section 3.3 requires 2048 bits; more than 8192 only cost time.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// The owner of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// Signs the tokens of people.
    IdentityProvider,
    /// Signs the tokens of this service only.
    Service(Arc<str>),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::IdentityProvider => f.write_str("the identity provider"),
            Owner::Service(name) => write!(f, "service {name}"),
        }
    }
}

/// A public key, pinned to one algorithm (RFC 8725, section 3.1).
pub(super) struct Key {
    pub(super) owner: Owner,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    /// The thumbprint (RFC 7638). A key is found by it as well as by its `kid`.
    thumbprint: String,
    kid: Option<String>,
}

/// Why a set cannot be used. The messages contain no value of the set other than names of keys.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    #[error("is no JSON Web Key Set: {0}")]
    Format(String),
    #[error("holds {0} keys, more than {MAX_KEYS}")]
    TooMany(usize),
    #[error("holds a private or a symmetric key ({0}): publish public keys only, and replace this one")]
    Private(String),
    #[error("holds no key that can be used ({0})")]
    Empty(String),
    #[error("the key {kid} is given to {one} and to {other}: a key has one owner")]
    Owners { kid: String, one: String, other: String },
    #[error(
        "the key {kid} is the signing key of service {service} and is not marked as such: add \
         \"{SERVICE_MEMBER}\": \"{service}\" to it, or it could sign for people"
    )]
    Unmarked { kid: String, service: String },
    #[error(
        "the key {kid} has no \"{SERVICE_MEMBER}\": every key of auth.service_keys_file names its service"
    )]
    NoService { kid: String },
    #[error("the key {kid} has a \"{SERVICE_MEMBER}\" that is no name of a service")]
    ServiceName { kid: String },
}

/// The keys of one document. Keys of unsupported kinds are skipped, as RFC 7517, section 5 requires.
pub(super) fn parse(bytes: &[u8], allowed: &[Algorithm], all_services: bool) -> Result<Vec<Key>, Error> {
    let document: Value = serde_json::from_slice(bytes)
        .map_err(|error| Error::Format(format!("line {}, column {}", error.line(), error.column())))?;
    let listed = document.get("keys").and_then(Value::as_array);
    let listed = listed.ok_or_else(|| Error::Format("it has no list `keys`".to_owned()))?;
    if listed.len() > MAX_KEYS {
        return Err(Error::TooMany(listed.len()));
    }
    let mut keys = Vec::new();
    let mut skipped = Vec::new();
    for (index, value) in listed.iter().enumerate() {
        let name = match value.get("kid").and_then(Value::as_str) {
            Some(kid) => quoted(kid),
            None => format!("number {}", index + 1),
        };
        let symmetric = value.get("kty").and_then(Value::as_str) == Some("oct");
        if symmetric || value.get("d").is_some() || value.get("k").is_some() {
            return Err(Error::Private(name));
        }
        let owner = owner(value, &name)?;
        match key(value, owner, allowed) {
            Ok(key) if all_services && key.owner == Owner::IdentityProvider => {
                return Err(Error::NoService { kid: name });
            }
            Ok(key) => keys.push(key),
            Err(reason) => skipped.push(format!("{name}: {reason}")),
        }
    }
    if keys.is_empty() {
        let reasons = if skipped.is_empty() {
            "the list is empty".to_owned()
        } else {
            skipped.join("; ").chars().take(500).collect()
        };
        return Err(Error::Empty(reasons));
    }
    Ok(keys)
}

fn owner(jwk: &Value, name: &str) -> Result<Owner, Error> {
    let service = match jwk.get(SERVICE_MEMBER) {
        None | Some(Value::Null) => return Ok(Owner::IdentityProvider),
        Some(service) => service.as_str().unwrap_or_default(),
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_name = !service.is_empty() && service.len() <= 63 && service.chars().all(allowed);
    if is_name {
        Ok(Owner::Service(Arc::from(service)))
    } else {
        Err(Error::ServiceName { kid: name.to_owned() })
    }
}

/// The key in a JWK, or why it is not used. Services sign with EdDSA, independent of the identity provider's
/// algorithms.
fn key(value: &Value, owner: Owner, allowed: &[Algorithm]) -> Result<Key, String> {
    let text = |member: &str| value.get(member).and_then(Value::as_str);
    if text("use").is_some_and(|usage| usage != "sig") {
        return Err("its `use` is not `sig`".to_owned());
    }
    let operations = value.get("key_ops").and_then(Value::as_array);
    if operations.is_some_and(|operations| !operations.iter().any(|one| one == "verify")) {
        return Err("its `key_ops` do not hold `verify`".to_owned());
    }
    let algorithm = match (text("kty"), text("crv"), text("alg")) {
        (Some("OKP"), Some("Ed25519"), None | Some("EdDSA" | "Ed25519")) => Algorithm::EdDSA,
        (Some("EC"), Some("P-256"), None | Some("ES256")) => Algorithm::ES256,
        (Some("RSA"), _, None | Some("RS256")) => Algorithm::RS256,
        (Some("RSA"), _, Some("PS256")) => Algorithm::PS256,
        _ => return Err("its kind or algorithm is not used here".to_owned()),
    };
    let usable = match owner {
        Owner::IdentityProvider => allowed.contains(&algorithm),
        Owner::Service(_) => algorithm == Algorithm::EdDSA,
    };
    if !usable {
        return Err(format!("{algorithm:?} is not allowed for {owner}"));
    }
    let modulus = text("n").and_then(|n| URL_SAFE_NO_PAD.decode(n).ok());
    if text("kty") == Some("RSA") && !modulus.is_some_and(|n| RSA_BYTES.contains(&n.len())) {
        return Err("an RSA key has 2048 to 8192 bits".to_owned());
    }
    // `alg` and similar members are checked above. Values that the library does not know must not make the key
    // unusable.
    let mut bare = value.clone();
    if let Value::Object(members) = &mut bare {
        members.retain(|name, _| matches!(name.as_str(), "kty" | "crv" | "x" | "y" | "n" | "e"));
    }
    let broken = || "its parameters cannot be read".to_owned();
    let jwk: Jwk = serde_json::from_value(bare).map_err(|_| broken())?;
    Ok(Key {
        decoding: DecodingKey::from_jwk(&jwk).map_err(|_| broken())?,
        thumbprint: jwk.thumbprint(ThumbprintHash::SHA256).map_err(|_| broken())?,
        kid: text("kid").map(str::to_owned),
        owner,
        algorithm,
    })
}

/// Keys by `kid` and by thumbprint.
#[derive(Default)]
pub(super) struct KeySet(HashMap<String, Vec<Arc<Key>>>);

impl KeySet {
    /// The keys of several documents. `own` is the thumbprint of the key with which `service` itself signs.
    ///
    /// # Errors
    /// When a key has two owners, or the service's own key could sign for people.
    pub(super) fn new(
        keys: impl IntoIterator<Item = Arc<Key>>,
        own: Option<(&str, &str)>,
    ) -> Result<KeySet, Error> {
        let mut set = KeySet::default();
        for key in keys {
            if let Some((own, service)) = own
                && key.thumbprint == own
                && key.owner == Owner::IdentityProvider
            {
                let (kid, service) = (key.name(), service.to_owned());
                return Err(Error::Unmarked { kid, service });
            }
            let by_kid = key.kid.clone().filter(|kid| *kid != key.thumbprint);
            for name in by_kid.into_iter().chain([key.thumbprint.clone()]) {
                let named = set.0.entry(name).or_default();
                if let Some(other) = named.iter().find(|other| other.owner != key.owner) {
                    return Err(Error::Owners {
                        kid: key.name(),
                        one: other.owner.to_string(),
                        other: key.owner.to_string(),
                    });
                }
                named.push(key.clone());
            }
        }
        Ok(set)
    }

    /// The key with this name for this algorithm; `Err` when keys with this name exist for other algorithms only.
    pub(super) fn find(&self, kid: &str, algorithm: Algorithm) -> Option<Result<Arc<Key>, WrongAlgorithm>> {
        let named = self.0.get(kid)?;
        let fitting = named.iter().find(|key| key.algorithm == algorithm).cloned();
        Some(fitting.ok_or(WrongAlgorithm))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Identifies the content of a set: the keys, their algorithms and their owners.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut lines: Vec<_> = self
            .0
            .iter()
            .flat_map(|(name, keys)| keys.iter().map(move |key| (name, key)))
            .map(|(name, key)| format!("{name} {} {:?} {}", key.thumbprint, key.algorithm, key.owner))
            .collect();
        lines.sort_unstable();
        Sha256::digest(lines.join("\n")).into()
    }
}

/// The key is for another algorithm than the token's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrongAlgorithm;

impl Key {
    fn name(&self) -> String {
        quoted(self.kid.as_deref().unwrap_or(&self.thumbprint))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {:?}, {})", self.name(), self.algorithm, self.owner)
    }
}

/// A key's name for messages: bounded, without control characters.
fn quoted(kid: &str) -> String {
    let short: String = kid.chars().take(64).collect();
    format!("\"{}\"", short.escape_debug())
}

/// The thumbprint of an Ed25519 public key of 32 bytes (RFC 7638), used as its `kid` where no other is given.
pub fn key_id(public: &[u8]) -> String {
    let canonical = format!(
        r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#,
        URL_SAFE_NO_PAD.encode(public)
    );
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

#[cfg(test)]
mod tests;
