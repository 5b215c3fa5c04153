//! From a bearer token to an identity.

use std::{collections::HashSet, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, Validation, decode, decode_header, errors::ErrorKind};
use moka::sync::Cache;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Identity, RoleSet, Settings, jwks::Keys};
use crate::{
    Facility, Tasks,
    contract::text::{self, Lines},
    health::Dependency,
};

/// A verified token is remembered no longer than this, so that a key that is withdrawn stops counting.
const REMEMBERED: Duration = Duration::from_secs(60);
const REMEMBERED_AT_MOST: u64 = 10_000;
/// Clocks may differ by this many seconds.
const LEEWAY_S: u64 = 5;
/// The longest `sub` and `service`, in characters.
const MAX_NAME: usize = 256;

/// Why a token is not believed. Told to the caller: it gives away nothing that the token does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not three parts of base64 with JSON in them, or lacks a claim.
    #[error("the token cannot be read")]
    Unreadable,
    /// It is signed in a way other than EdDSA, or not at all.
    #[error("the token must be signed with EdDSA")]
    Algorithm,
    /// No known key has its `kid`.
    #[error("the token's key is not known")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// Somebody else's.
    #[error("the token's issuer is wrong")]
    Issuer,
    /// For somebody else.
    #[error("the token's audience is wrong")]
    Audience,
    /// It names no facility.
    #[error("the token names no facility")]
    Facility,
    /// Who it is for cannot be written down.
    #[error("the token's sub and service must each be one line of at most 256 characters")]
    Subject,
}

/// Checks tokens, and remembers those that it has checked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Verifier {
    keys: Arc<Keys>,
    validation: Arc<Validation>,
    /// By the token's SHA-256, so that no token stays in memory.
    remembered: Cache<[u8; 32], Arc<Verified>>,
}

#[derive(Debug)]
struct Verified {
    identity: Identity,
    expires: u64,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(default)]
    facility: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    service: Option<String>,
}

impl Verifier {
    /// A verifier with its keys read.
    ///
    /// # Errors
    /// When they come from a file and cannot be read. Keys from a URL are asked for until they come; readiness waits
    /// for them as the dependency `jwks`.
    pub async fn start(settings: &Settings, process: &crate::Process) -> anyhow::Result<Verifier> {
        let verifier = Verifier::new(settings)?;
        let dependency = (!verifier.keys.is_local()).then(|| process.health.dependency("jwks"));
        match (verifier.keys.refresh().await, &dependency) {
            (Ok(()), Some(dependency)) => dependency.up(),
            (Ok(()), None) => {}
            (Err(error), Some(dependency)) => dependency.down(&crate::status::chain(&error)),
            (Err(error), None) => return Err(error.into()),
        }
        verifier.keep_fresh(
            dependency,
            settings.refresh(),
            &process.tasks,
            process.shutdown.clone(),
        );
        Ok(verifier)
    }

    fn new(settings: &Settings) -> anyhow::Result<Verifier> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.required_spec_claims = HashSet::from(["exp", "iss", "aud", "sub"].map(String::from));
        let remembered = Cache::builder()
            .max_capacity(REMEMBERED_AT_MOST)
            .time_to_live(REMEMBERED)
            .build();
        Ok(Verifier {
            keys: Arc::new(Keys::new(settings)?),
            validation: Arc::new(validation),
            remembered,
        })
    }

    fn keep_fresh(
        &self,
        dependency: Option<Dependency>,
        every: Duration,
        tasks: &Tasks,
        shutdown: CancellationToken,
    ) {
        let keys = self.keys.clone();
        tasks.spawn("jwks", async move {
            let soon = Duration::from_secs(1).min(every);
            loop {
                let waiting = dependency.as_ref().is_some_and(|dependency| !dependency.is_up());
                tokio::select! {
                    () = tokio::time::sleep(if waiting { soon } else { every }) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
                match keys.refresh().await {
                    Ok(()) => dependency.iter().for_each(Dependency::up),
                    // The last good keys stay in use, so that this is no reason to stop serving.
                    Err(error) => {
                        tracing::warn!(error.message = crate::status::chain(&error), "keys not refreshed");
                    }
                }
            }
        });
    }

    /// The identity that `token` proves.
    ///
    /// # Errors
    /// Why it proves none.
    pub async fn verify(&self, token: &str) -> Result<Identity, Refused> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(known) = self.remembered.get(&hash) {
            if known.expires + LEEWAY_S > jsonwebtoken::get_current_timestamp() {
                return Ok(known.identity.clone());
            }
            self.remembered.invalidate(&hash);
        }
        let verified = self.check(token).await?;
        let identity = verified.identity.clone();
        self.remembered.insert(hash, Arc::new(verified));
        Ok(identity)
    }

    async fn check(&self, token: &str) -> Result<Verified, Refused> {
        let header = decode_header(token).map_err(|error| refusal(error.kind()))?;
        if header.alg != Algorithm::EdDSA {
            return Err(Refused::Algorithm);
        }
        let kid = header.kid.as_deref().ok_or(Refused::UnknownKey)?;
        let key = self.keys.find(kid).await.ok_or(Refused::UnknownKey)?;
        let claims: Claims = decode(token, &key, &self.validation)
            .map_err(|error| refusal(error.kind()))?
            .claims;
        let facility = claims.facility.ok_or(Refused::Facility)?;
        if ![Some(&claims.sub), claims.service.as_ref()]
            .into_iter()
            .flatten()
            .all(|name| is_name(name))
        {
            return Err(Refused::Subject);
        }
        let identity = Identity {
            subject: claims.sub,
            facility: Facility::new(facility).map_err(|_| Refused::Facility)?,
            roles: RoleSet::from_names(claims.roles),
            service: claims.service,
        };
        Ok(Verified {
            identity,
            expires: claims.exp,
        })
    }
}

/// Whether a name can be kept in the audit trail and shown in logs.
fn is_name(name: &str) -> bool {
    name.chars().count() <= MAX_NAME && text::refusal(name, Lines::One).is_none()
}

fn refusal(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::ExpiredSignature => Refused::Expired,
        ErrorKind::ImmatureSignature => Refused::NotYet,
        ErrorKind::InvalidIssuer => Refused::Issuer,
        ErrorKind::InvalidAudience => Refused::Audience,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::MissingAlgorithm => {
            Refused::Algorithm
        }
        _ => Refused::Unreadable,
    }
}

#[cfg(test)]
#[path = "verifier_tests.rs"]
mod tests;
