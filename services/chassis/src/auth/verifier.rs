//! Verifies bearer tokens.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use moka::sync::Cache;
use sha2::{Digest, Sha256};

use super::{
    Identity, Settings, TokenError,
    jwks::{Keys, LookupError},
    token::{Parts, VerifiedToken},
};

/// How long a verified token is cached.
const CACHE_TTL: Duration = Duration::from_secs(60);
const CACHE_CAPACITY: u64 = 10_000;

/// Verifies tokens and caches the results. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Arc<Keys>,
    settings: Arc<Settings>,
    /// By the token's SHA-256, so that no token stays in memory.
    cache: Cache<[u8; 32], Arc<CachedToken>>,
}

#[derive(Debug)]
struct CachedToken {
    token: VerifiedToken,
    /// The version of the keys it was verified with: a withdrawn key is rejected at once.
    key_version: u64,
}

impl Verifier {
    /// A verifier with its keys loaded.
    ///
    /// # Errors
    /// When all keys come from files and cannot be used. Keys from a URL are retried; readiness waits for them as
    /// the dependency `jwks`.
    pub async fn start(settings: &Settings, process: &crate::Process) -> anyhow::Result<Verifier> {
        let verifier = Verifier::new(settings, process.name)?;
        let dependency = process.health.dependency("jwks");
        match verifier.keys.refresh().await {
            Ok(()) => dependency.up(),
            Err(error) if verifier.keys.are_from_files() => return Err(error.into()),
            Err(error) => dependency.down(&crate::status::chain(&error)),
        }
        verifier.register_metrics();
        let (keys, shutdown) = (verifier.keys.clone(), process.shutdown.clone());
        process.tasks.spawn("jwks", async move {
            keys.refresh_loop(dependency, shutdown).await;
            Ok(())
        });
        Ok(verifier)
    }

    fn new(settings: &Settings, service: &'static str) -> anyhow::Result<Verifier> {
        let cache = Cache::builder()
            .max_capacity(CACHE_CAPACITY)
            .time_to_live(CACHE_TTL)
            .build();
        Ok(Verifier {
            keys: Arc::new(Keys::new(settings, service)?),
            settings: Arc::new(settings.clone()),
            cache,
        })
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

    /// The identity that `bearer` proves.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub async fn verify(&self, bearer: &str) -> Result<Identity, TokenError> {
        let hash: [u8; 32] = Sha256::digest(bearer).into();
        if let Some(known) = self.cache.get(&hash) {
            let lasts = known.token.expires + self.settings.leeway_s as f64 > now();
            if lasts && known.key_version == self.keys.version() {
                return Ok(known.token.identity.clone());
            }
            self.cache.invalidate(&hash);
        }
        let verified = self.check(bearer).await?;
        let identity = verified.token.identity.clone();
        self.cache.insert(hash, Arc::new(verified));
        Ok(identity)
    }

    async fn check(&self, bearer: &str) -> Result<CachedToken, TokenError> {
        let parts = Parts::parse(bearer)?;
        let found = self.keys.find(&parts.kid, parts.algorithm).await;
        let found = found.map_err(|error| match error {
            LookupError::Unknown => TokenError::UnknownKey,
            LookupError::Algorithm => TokenError::KeyAlgorithm,
            LookupError::NoKeys => TokenError::NoKeys,
        })?;
        let token = parts.verify(&found.key, &self.settings, now())?;
        Ok(CachedToken {
            token,
            key_version: found.version,
        })
    }
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
