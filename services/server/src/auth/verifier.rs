//! Verifies bearer tokens.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use moka::sync::Cache;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::{
    Settings, TokenError,
    jwks::{Keys, LookupError},
    token::{Parts, TenantClaim},
};
use crate::{
    Caller, Lifecycle, Violations,
    authenticator::{Authenticator, Credentials},
    status,
};

/// How long a verified token is cached.
const CACHE_TTL: Duration = Duration::from_secs(60);
const CACHE_CAPACITY: u64 = 10_000;

/// Completes the caller of a verified token, or rejects the token.
type Completion = dyn Fn(&mut Caller) -> Result<(), TokenError> + Send + Sync;

/// Verifies tokens and caches the results. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    keys: Arc<Keys>,
    settings: Arc<Settings>,
    /// By the token's SHA-256, so that no token stays in memory.
    cache: Cache<[u8; 32], Arc<CachedToken>>,
    tenants: Option<TenantClaim>,
    completion: Option<Arc<Completion>>,
}

#[derive(Debug)]
struct CachedToken {
    caller: Arc<Caller>,
    /// In seconds since 1970.
    expires: f64,
    /// The version of the keys it was verified with: a withdrawn key is rejected at once.
    key_version: u64,
}

impl Verifier {
    /// A verifier of tokens for the service `service`; [`start`](Verifier::start) loads its keys.
    ///
    /// # Errors
    /// When the URL of the keys or this service's own signing key cannot be used.
    pub fn new(settings: &Settings, service: &str) -> anyhow::Result<Verifier> {
        Ok(Verifier {
            keys: Arc::new(Keys::new(settings, service)?),
            settings: Arc::new(settings.clone()),
            cache: new_cache(),
            tenants: None,
            completion: None,
        })
    }

    /// Takes the caller's tenant from a claim. By default callers have no tenants.
    #[must_use]
    pub fn with_tenants(mut self, claim: TenantClaim) -> Verifier {
        self.tenants = Some(claim);
        self.cache = new_cache();
        self
    }

    /// Completes the caller of each verified token: changes its roles, or adds values for the handlers to its
    /// extensions. An error rejects the token. Called once for a token while it is cached, for a minute.
    #[must_use]
    pub fn with_completion(
        mut self,
        completion: impl Fn(&mut Caller) -> Result<(), TokenError> + Send + Sync + 'static,
    ) -> Verifier {
        self.completion = Some(Arc::new(completion));
        self.cache = new_cache();
        self
    }

    /// Loads the keys, and keeps them up to date until the process stops.
    ///
    /// # Errors
    /// When a setting is out of bounds, or all keys come from files and cannot be used. Keys from a URL are retried; readiness waits for them as
    /// the dependency `jwks`.
    pub async fn start(self, lifecycle: &Lifecycle) -> anyhow::Result<Verifier> {
        let mut violations = Violations::new();
        violations.within("auth", |violations| self.settings.check(violations));
        violations.into_result()?;
        let dependency = lifecycle.health.dependency("jwks");
        match self.keys.refresh().await {
            Ok(()) => dependency.up(),
            Err(error) if self.keys.are_from_files() => return Err(error.into()),
            Err(error) => dependency.down(&status::chain(&error)),
        }
        self.register_metrics();
        let (keys, shutdown) = (self.keys.clone(), lifecycle.shutdown.clone());
        lifecycle.tasks.spawn("jwks", async move {
            keys.refresh_loop(dependency, shutdown).await;
            Ok(())
        });
        Ok(self)
    }

    /// Exports the age of the keys.
    fn register_metrics(&self) {
        let keys = Arc::downgrade(&self.keys);
        opentelemetry::global::meter("weft")
            .f64_observable_gauge("weft.auth.keys.age")
            .with_unit("s")
            .with_description("The time since the public keys of a source were last read")
            .with_callback(move |observer| {
                for (setting, age) in keys.upgrade().iter().flat_map(|keys| keys.ages()) {
                    observer.observe(age, &[opentelemetry::KeyValue::new("source", setting)]);
                }
            })
            .build();
    }

    /// The caller that `bearer` proves.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub async fn verify(&self, bearer: &str) -> Result<Arc<Caller>, TokenError> {
        let hash: [u8; 32] = Sha256::digest(bearer).into();
        if let Some(known) = self.cache.get(&hash) {
            let lasts = known.expires + self.settings.leeway_s as f64 > now();
            if lasts && known.key_version == self.keys.version() {
                return Ok(known.caller.clone());
            }
            self.cache.invalidate(&hash);
        }
        let verified = self.check(bearer).await?;
        let caller = verified.caller.clone();
        self.cache.insert(hash, Arc::new(verified));
        Ok(caller)
    }

    async fn check(&self, bearer: &str) -> Result<CachedToken, TokenError> {
        let parts = Parts::parse(bearer)?;
        let found = self.keys.find(&parts.kid, parts.algorithm).await;
        let found = found.map_err(|error| match error {
            LookupError::Unknown => TokenError::UnknownKey,
            LookupError::Algorithm => TokenError::KeyAlgorithm,
            LookupError::NoKeys => TokenError::NoKeys,
        })?;
        let mut token = parts.verify(&found.key, &self.settings, self.tenants, now())?;
        if let Some(complete) = &self.completion {
            complete(&mut token.caller)?;
        }
        Ok(CachedToken {
            caller: Arc::new(token.caller),
            expires: token.expires,
            key_version: found.version,
        })
    }
}

impl Authenticator for Verifier {
    fn authenticate<'a>(
        &'a self,
        credentials: Credentials<'a>,
    ) -> BoxFuture<'a, Result<Arc<Caller>, Status>> {
        Box::pin(async move {
            let Some(token) = credentials.bearer else {
                let text = "the call needs a token: send `authorization: Bearer …`";
                return Err(status::unauthenticated("NO_TOKEN", text));
            };
            self.verify(token).await.map_err(|refused| match refused {
                TokenError::NoKeys => status::unavailable("KEYS_UNAVAILABLE", refused.to_string()),
                refused => status::unauthenticated("INVALID_TOKEN", refused.to_string()),
            })
        })
    }

    fn tenant_name(&self) -> &'static str {
        match self.tenants {
            Some(TenantClaim::Required(name) | TenantClaim::Optional(name)) => name,
            None => "tenant",
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("keys", &self.keys)
            .field("tenants", &self.tenants)
            .finish_non_exhaustive()
    }
}

fn new_cache() -> Cache<[u8; 32], Arc<CachedToken>> {
    Cache::builder()
        .max_capacity(CACHE_CAPACITY)
        .time_to_live(CACHE_TTL)
        .build()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests;
