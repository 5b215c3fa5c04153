//! From a bearer token to an identity.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use moka::sync::Cache;
use sha2::{Digest, Sha256};

use super::{
    Identity, Refused, Settings,
    jwks::{Keys, Missing},
    token::{Parts, Proof},
};

/// A verified token is remembered no longer than this.
const REMEMBERED: Duration = Duration::from_secs(60);
const REMEMBERED_AT_MOST: u64 = 10_000;

/// Checks tokens, and remembers those that it has checked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Arc<Keys>,
    settings: Arc<Settings>,
    /// By the token's SHA-256, so that no token stays in memory.
    remembered: Cache<[u8; 32], Arc<Verified>>,
}

#[derive(Debug)]
struct Verified {
    proof: Proof,
    /// The edition of the keys that it was checked with: a key that is withdrawn stops counting at once.
    edition: u64,
}

impl Verifier {
    /// A verifier with its keys read.
    ///
    /// # Errors
    /// When they come from files alone and cannot be used. Keys from a URL are asked for until they come; readiness
    /// waits for them as the dependency `jwks`.
    pub async fn start(settings: &Settings, process: &crate::Process) -> anyhow::Result<Verifier> {
        let verifier = Verifier::new(settings, process.name)?;
        let dependency = process.health.dependency("jwks");
        match verifier.keys.refresh().await {
            Ok(()) => dependency.up(),
            Err(error) if verifier.keys.are_local() => return Err(error.into()),
            Err(error) => dependency.down(&crate::status::chain(&error)),
        }
        verifier.measure();
        let (keys, shutdown) = (verifier.keys.clone(), process.shutdown.clone());
        process.tasks.spawn("jwks", async move {
            keys.keep_fresh(dependency, shutdown).await;
            Ok(())
        });
        Ok(verifier)
    }

    fn new(settings: &Settings, service: &'static str) -> anyhow::Result<Verifier> {
        let remembered = Cache::builder()
            .max_capacity(REMEMBERED_AT_MOST)
            .time_to_live(REMEMBERED)
            .build();
        Ok(Verifier {
            keys: Arc::new(Keys::new(settings, service)?),
            settings: Arc::new(settings.clone()),
            remembered,
        })
    }

    /// Shows how old the keys are.
    fn measure(&self) {
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

    /// The identity that `token` proves.
    ///
    /// # Errors
    /// Why it proves none.
    pub async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.remembered.get(&hash) {
            let lasts = known.proof.expires + self.settings.leeway_s as f64 > now();
            if lasts && known.edition == self.keys.edition() {
                return Ok(known.proof.identity.clone());
            }
            self.remembered.invalidate(&hash);
        }
        let verified = self.check(token).await?;
        let identity = verified.proof.identity.clone();
        self.remembered.insert(hash, Arc::new(verified));
        Ok(identity)
    }

    async fn check(&self, token: &str) -> Result<Verified, Refused> {
        let parts = Parts::read(token)?;
        let found = self.keys.find(&parts.kid, parts.algorithm).await;
        let found = found.map_err(|missing| match missing {
            Missing::Unknown => Refused::UnknownKey,
            Missing::Algorithm => Refused::KeyAlgorithm,
            Missing::NoKeys => Refused::NoKeys,
        })?;
        let proof = parts.verify(&found.key, &self.settings, now())?;
        Ok(Verified {
            proof,
            edition: found.edition,
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
#[path = "verifier_tests.rs"]
mod tests;
