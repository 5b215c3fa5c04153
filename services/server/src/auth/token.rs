//! A signed JWT: its parts, and the rules for its header and claims (RFC 7515, 7519, 8725 and 9068).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, crypto};
use serde_json::{Map, Value};

use super::{
    Settings,
    jwk::{Key, Owner},
};
use crate::{
    Caller, Tenant,
    contract::text::{self, Lines},
};

/// Longest token, in bytes. All headers of a call together have 16 KiB.
const MAX_BYTES: usize = 8 * 1024;
/// Longest subject, in characters.
const MAX_SUBJECT: usize = 256;
/// Most roles in a token.
const MAX_ROLES: usize = 256;
/// The last second of the year 9999.
const LAST_SECOND: f64 = 253_402_300_799.0;
/// Prefix of the subjects of services' tokens; not allowed for people.
pub(super) const SERVICE_SUBJECT: &str = "service:";

/// Why a token is rejected. Sent to the caller; it reveals nothing beyond the token's own content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is too long.
    #[error("the token is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is not three parts of base64url.
    #[error(
        "the token is no signed JWT: three parts of base64url without padding, joined by dots (RFC 7515)"
    )]
    Shape,
    /// The header is not a JSON object.
    #[error("the token's header is no JSON object")]
    Header,
    /// The payload is not a JSON object.
    #[error("the token's payload is no JSON object")]
    Payload,
    /// It is unsigned, or signed with an unsupported algorithm.
    #[error("the token must be signed with EdDSA, ES256, RS256 or PS256 (`alg` in its header)")]
    Algorithm,
    /// The key with this name is for another algorithm.
    #[error("the token's key is not for the token's `alg`")]
    KeyAlgorithm,
    /// It requires an extension that is not supported (RFC 7515, section 4.1.11).
    #[error("the token's header demands extensions (`crit`), and none is supported")]
    Critical,
    /// It is another kind of signed JWT, such as an ID token or a logout token.
    #[error("the token is of another kind: `typ` must be JWT or at+jwt, or be left out")]
    Type,
    /// It does not name the key that signed it.
    #[error("the token's header names no key (`kid`)")]
    NoKeyId,
    /// No known key has its `kid`.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The keys could not be read; the token may be valid.
    #[error("tokens cannot be checked now: the public keys could not be read")]
    NoKeys,
    /// The signature does not match the key.
    #[error("the token's signature is wrong")]
    Signature,
    /// A required claim is missing.
    #[error("the token lacks the claim `{0}`")]
    Missing(&'static str),
    /// A claim has the wrong type.
    #[error("the token's claim `{0}` must be {1}")]
    Claim(&'static str, &'static str),
    /// It has expired.
    #[error("the token has expired")]
    Expired,
    /// It is not valid yet.
    #[error("the token is not valid yet")]
    NotYet,
    /// Its `iat` is in the future.
    #[error("the token was issued in the future (`iat`)")]
    IssuedInFuture,
    /// It has another issuer.
    #[error("the token's issuer is wrong")]
    Issuer,
    /// It has another audience.
    #[error("the token's audience is wrong")]
    Audience,
    /// It names no valid tenant in the claim of this name.
    #[error("the token names no {0}")]
    Tenant(&'static str),
    /// It is signed by the identity provider and claims to be a service.
    #[error(
        "the identity provider's keys sign for people: the token must not claim a service, in `service` or `sub`"
    )]
    ServiceFromProvider,
    /// It is signed by a service and claims to be another service, or a person.
    #[error("a service's key signs for that service alone: `service` must be its name, and `roles` empty")]
    ServiceMismatch,
}

/// The claim with the tenant's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantClaim {
    /// Every token must have the claim of this name.
    Required(&'static str),
    /// A token without it is for no tenant.
    Optional(&'static str),
}

/// A parsed token whose signature has not been checked.
pub(super) struct Parts<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) kid: String,
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
}

/// A verified token: the caller and the expiry, in seconds since 1970.
#[derive(Debug)]
pub(super) struct VerifiedToken {
    pub(super) caller: Caller,
    pub(super) expires: f64,
}

impl Parts<'_> {
    pub(super) fn parse(token: &str) -> Result<Parts<'_>, TokenError> {
        if token.len() > MAX_BYTES {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Shape)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Shape)?;
        if payload.contains('.') {
            return Err(TokenError::Shape);
        }
        let header = object(header)?.ok_or(TokenError::Header)?;
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(TokenError::Critical);
        }
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        let typed = header.get("typ").is_none_or(|kind| {
            let kind = kind.as_str().unwrap_or_default().to_ascii_lowercase();
            let kind = kind.strip_prefix("application/").unwrap_or(&kind);
            matches!(kind, "jwt" | "at+jwt")
        });
        if !typed {
            return Err(TokenError::Type);
        }
        let algorithm = match text("alg") {
            Some("EdDSA" | "Ed25519") => Algorithm::EdDSA,
            Some("ES256") => Algorithm::ES256,
            Some("RS256") => Algorithm::RS256,
            Some("PS256") => Algorithm::PS256,
            _ => return Err(TokenError::Algorithm),
        };
        Ok(Parts {
            algorithm,
            kid: text("kid").ok_or(TokenError::NoKeyId)?.to_owned(),
            signed,
            payload,
            signature,
        })
    }

    /// Verifies the token at `now` with `key`.
    pub(super) fn verify(
        &self,
        key: &Key,
        settings: &Settings,
        tenants: Option<TenantClaim>,
        now: f64,
    ) -> Result<VerifiedToken, TokenError> {
        let signed = self.signed.as_bytes();
        if URL_SAFE_NO_PAD.decode(self.signature).is_err() {
            return Err(TokenError::Shape);
        }
        match crypto::verify(self.signature, signed, &key.decoding, key.algorithm) {
            Ok(true) => {}
            _ => return Err(TokenError::Signature),
        }
        let claims = Claims(object(self.payload)?.ok_or(TokenError::Payload)?);
        claims.check(settings, now)?;
        let caller = claims.caller(&key.owner, tenants)?;
        let expires = claims.time("exp")?.ok_or(TokenError::Missing("exp"))?;
        Ok(VerifiedToken { caller, expires })
    }
}

/// A part of the token as a JSON object; `None` when it is something else.
fn object(part: &str) -> Result<Option<Map<String, Value>>, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Shape)?;
    Ok(serde_json::from_slice(&bytes).ok())
}

struct Claims(Map<String, Value>);

impl Claims {
    /// The rules that apply to every token.
    fn check(&self, settings: &Settings, now: f64) -> Result<(), TokenError> {
        let leeway = settings.leeway_s as f64;
        let expires = self.time("exp")?.ok_or(TokenError::Missing("exp"))?;
        if now >= expires + leeway {
            return Err(TokenError::Expired);
        }
        if self.time("nbf")?.is_some_and(|from| from > now + leeway) {
            return Err(TokenError::NotYet);
        }
        if self.time("iat")?.is_some_and(|made| made > now + leeway) {
            return Err(TokenError::IssuedInFuture);
        }
        if self.text("iss")?.ok_or(TokenError::Missing("iss"))? != settings.issuer {
            return Err(TokenError::Issuer);
        }
        let audience = self.get("aud").ok_or(TokenError::Missing("aud"))?;
        let listed = match audience {
            Value::String(_) => std::slice::from_ref(audience),
            Value::Array(listed) => listed,
            _ => return Err(TokenError::Claim("aud", "text or a list of texts")),
        };
        if listed.iter().any(|one| one.as_str() == Some(&settings.audience)) {
            Ok(())
        } else {
            Err(TokenError::Audience)
        }
    }

    /// The caller; the key's owner decides which claims are allowed.
    fn caller(&self, owner: &Owner, tenants: Option<TenantClaim>) -> Result<Caller, TokenError> {
        let subject = self.text("sub")?.ok_or(TokenError::Missing("sub"))?;
        let writable = !subject.is_empty() && text::violation(subject, Lines::One).is_none();
        if !writable || subject.chars().count() > MAX_SUBJECT {
            return Err(TokenError::Claim("sub", "one line of 1 to 256 characters"));
        }
        let roles = self.roles()?;
        let service = self.text("service")?;
        let service = match owner {
            Owner::IdentityProvider if service.is_some() || subject.starts_with(SERVICE_SUBJECT) => {
                return Err(TokenError::ServiceFromProvider);
            }
            Owner::IdentityProvider => None,
            Owner::Service(name) if service == Some(name) && roles.is_empty() => Some(name.to_string()),
            Owner::Service(_) => return Err(TokenError::ServiceMismatch),
        };
        Ok(Caller {
            subject: subject.to_owned(),
            tenant: tenants.map_or(Ok(None), |claim| self.tenant(claim))?,
            roles: roles.into_iter().map(str::to_owned).collect(),
            service,
            ..Caller::default()
        })
    }

    fn tenant(&self, claim: TenantClaim) -> Result<Option<Tenant>, TokenError> {
        let (TenantClaim::Required(name) | TenantClaim::Optional(name)) = claim;
        let unnamed = TokenError::Tenant(name);
        match (self.text(name).map_err(|_| unnamed)?, claim) {
            (Some(tenant), _) => Tenant::new(tenant).map(Some).map_err(|_| unnamed),
            (None, TenantClaim::Required(_)) => Err(unnamed),
            (None, TenantClaim::Optional(_)) => Ok(None),
        }
    }

    fn roles(&self) -> Result<Vec<&str>, TokenError> {
        let wrong = TokenError::Claim("roles", "a list of at most 256 texts");
        let Some(roles) = self.get("roles") else {
            return Ok(Vec::new());
        };
        let listed = roles.as_array().filter(|listed| listed.len() <= MAX_ROLES);
        let listed = listed.ok_or(wrong)?.iter();
        listed.map(|role| role.as_str().ok_or(wrong)).collect()
    }

    /// A NumericDate: seconds since 1970, with an optional fraction (RFC 7519, section 2).
    fn time(&self, name: &'static str) -> Result<Option<f64>, TokenError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let seconds = value
            .as_f64()
            .filter(|seconds| (0.0..=LAST_SECOND).contains(seconds));
        match seconds {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(TokenError::Claim(name, "a number of seconds since 1970")),
        }
    }

    fn text(&self, name: &'static str) -> Result<Option<&str>, TokenError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Claim(name, "text")),
        }
    }

    /// A claim that is `null` counts as missing.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }
}
