//! Tokens for work without a caller: resumed work, timers.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde::Serialize;

use super::{Settings, key_id, token::SERVICE_SUBJECT};

/// Lifetime of a token, in seconds.
const LIFETIME_S: u64 = 300;
/// A token with less lifetime left is not reused: it must outlive the call that it is for.
const MIN_LEFT_S: u64 = 60;
/// Tenants with a cached token.
const CACHE_CAPACITY: usize = 10_000;

/// Signs the service's own tokens and caches one per tenant. Cheap to clone.
#[derive(Clone)]
pub struct ServiceTokens {
    inner: Arc<Inner>,
}

struct Inner {
    service: String,
    /// The claim with the tenant's name, if tokens have one.
    tenant_claim: Option<&'static str>,
    issuer: String,
    audience: String,
    header: Header,
    key: EncodingKey,
    /// By tenant; without one, by the empty name.
    cache: Mutex<HashMap<Box<str>, CachedToken>>,
}

struct CachedToken {
    token: Arc<str>,
    expires: u64,
}

/// Why tokens cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No signing key is configured.
    #[error("auth.signing_key_file is not set: work without a caller needs it")]
    NoKey,
    /// The file cannot be read.
    #[error("the signing key cannot be read from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not an Ed25519 key.
    #[error("the signing key is no Ed25519 key in PKCS #8 PEM")]
    Format,
    /// The signature failed.
    #[error("the token cannot be signed")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    /// The tenant's claim, if there is one.
    #[serde(flatten)]
    tenant: BTreeMap<&'a str, &'a str>,
    roles: [&'a str; 0],
    service: &'a str,
}

impl ServiceTokens {
    /// Tokens of the service `service`, which name their tenant in the claim `tenant_claim`.
    ///
    /// # Errors
    /// When there is no key, or it cannot be used.
    pub fn new(
        service: impl Into<String>,
        tenant_claim: Option<&'static str>,
        settings: &Settings,
    ) -> Result<ServiceTokens, Error> {
        let path = settings.signing_key_file.clone().ok_or(Error::NoKey)?;
        let pem = std::fs::read(&path).map_err(|source| Error::Read { path, source })?;
        let key = EncodingKey::from_ed_pem(&pem).map_err(|_| Error::Format)?;
        let kid = match &settings.signing_key_id {
            Some(kid) => kid.clone(),
            None => key_id(public_key(&pem).ok_or(Error::Format)?.as_ref()),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(kid);
        let inner = Inner {
            service: service.into(),
            tenant_claim,
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            header,
            key,
            cache: Mutex::default(),
        };
        Ok(ServiceTokens {
            inner: Arc::new(inner),
        })
    }

    /// A token for background work of `tenant`, valid for at least another minute. The tenant has no effect when
    /// tokens have no claim for it.
    ///
    /// # Errors
    /// When signing fails.
    pub fn bearer(&self, tenant: Option<&str>) -> Result<Arc<str>, Error> {
        let tenant = tenant.unwrap_or_default();
        let now = get_current_timestamp();
        let mut cache = self.inner.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = cache
            .get(tenant)
            .filter(|cached| cached.expires >= now + MIN_LEFT_S)
        {
            return Ok(token.token.clone());
        }
        if cache.len() >= CACHE_CAPACITY {
            cache.retain(|_, cached| cached.expires >= now + MIN_LEFT_S);
        }
        let token: Arc<str> = self.inner.sign(tenant, now)?.into();
        if cache.len() < CACHE_CAPACITY {
            cache.insert(
                tenant.into(),
                CachedToken {
                    token: token.clone(),
                    expires: now + LIFETIME_S,
                },
            );
        }
        Ok(token)
    }
}

/// The thumbprint of this service's signing key; `None` when none is configured.
pub(super) fn own_key_id(settings: &Settings) -> Result<Option<String>, Error> {
    let Some(path) = settings.signing_key_file.clone() else {
        return Ok(None);
    };
    let pem = std::fs::read(&path).map_err(|source| Error::Read { path, source })?;
    let public = public_key(&pem).ok_or(Error::Format)?;
    Ok(Some(key_id(public.as_ref())))
}

impl Inner {
    fn sign(&self, tenant: &str, now: u64) -> Result<String, Error> {
        let tenant_claim = self.tenant_claim.filter(|_| !tenant.is_empty());
        let tenant_claim = tenant_claim.map(|claim| (claim, tenant));
        let claims = Claims {
            iss: &self.issuer,
            aud: &self.audience,
            sub: format!("{SERVICE_SUBJECT}{}", self.service),
            iat: now,
            nbf: now,
            exp: now + LIFETIME_S,
            tenant: tenant_claim.into_iter().collect(),
            roles: [],
            service: &self.service,
        };
        Ok(encode(&self.header, &claims, &self.key)?)
    }
}

impl std::fmt::Debug for ServiceTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceTokens")
            .field("service", &self.inner.service)
            .finish_non_exhaustive()
    }
}

fn public_key(pem: &[u8]) -> Option<impl AsRef<[u8]>> {
    let text = std::str::from_utf8(pem).ok()?;
    let base64: String = text
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::trim)
        .collect();
    let der = STANDARD.decode(base64).ok()?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok()?;
    Some(pair.public_key().clone())
}
