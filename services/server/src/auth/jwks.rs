//! The public keys in use. They are read from a file or a URL at intervals, and when a token names an unknown key.
//! One task reads them; callers with an unknown key wait for its result.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::Algorithm;
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Settings, fetch,
    jwk::{self, Key, KeySet, WrongAlgorithm},
    service_tokens,
};
use crate::health::Dependency;

/// Shortest time between two refreshes that are caused by tokens with unknown keys.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Delay before a retry after a failed refresh; the refresh interval if that is shorter.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long a caller with an unknown key waits for a refresh.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Callers that wait for a refresh at once; further ones are rejected.
const MAX_WAITERS: usize = 1_024;
/// The largest file of keys, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// The public keys and where they come from.
pub(super) struct Keys {
    sources: Vec<Source>,
    algorithms: Vec<Algorithm>,
    /// The thumbprint of this service's own signing key, and the service's name.
    own_key: Option<(String, String)>,
    refresh_interval: Duration,
    max_age: Duration,
    active: RwLock<Arc<ActiveKeys>>,
    refresh_requested: Notify,
    refreshes: watch::Sender<RefreshState>,
    waiters: Semaphore,
}

/// The keys in use, and the version of the set.
#[derive(Default)]
struct ActiveKeys {
    set: KeySet,
    fingerprint: [u8; 32],
    version: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct RefreshState {
    done: u64,
    running: bool,
    ended: Option<Instant>,
}

/// A key and the version of the set that contains it.
pub(super) struct FoundKey {
    pub(super) key: Arc<Key>,
    pub(super) version: u64,
}

/// Why a token's key is not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupError {
    /// No known key has this name.
    Unknown,
    /// The key of this name is for another algorithm.
    Algorithm,
    /// No keys are loaded.
    NoKeys,
}

enum Location {
    File(PathBuf),
    Url(fetch::Location),
}

struct Source {
    /// The setting that configures it.
    setting: &'static str,
    location: Location,
    all_services: bool,
    /// The keys of the last successful read, and its time.
    last: RwLock<Option<(Instant, Vec<Arc<Key>>)>>,
}

/// Why the keys could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("auth.{setting}: {from} cannot be read")]
    Read {
        setting: &'static str,
        from: String,
        source: std::io::Error,
    },
    #[error("auth.{setting}: {from} is larger than {MAX_FILE_BYTES} bytes")]
    Size { setting: &'static str, from: String },
    #[error("auth.{setting}: {from} cannot be fetched")]
    Fetch {
        setting: &'static str,
        from: String,
        source: fetch::Error,
    },
    #[error("auth.{setting}: {from} cannot be used")]
    Content {
        setting: &'static str,
        from: String,
        source: jwk::Error,
    },
    #[error("auth: the keys cannot be used together")]
    Together(#[source] jwk::Error),
    #[error("auth.jwks_url")]
    Location(#[source] fetch::Error),
    #[error("auth.signing_key_file")]
    SigningKey(#[from] service_tokens::Error),
}

impl Keys {
    pub(super) fn new(settings: &Settings, service: &str) -> Result<Keys, Error> {
        let mut sources = Vec::new();
        if let Some(path) = &settings.jwks_file {
            sources.push(Source::new("jwks_file", Location::File(path.clone()), false));
        }
        if settings.jwks_url.is_set() {
            let location = fetch::Location::new(settings).map_err(Error::Location)?;
            sources.push(Source::new("jwks_url", Location::Url(location), false));
        }
        if let Some(path) = &settings.service_keys_file {
            sources.push(Source::new(
                "service_keys_file",
                Location::File(path.clone()),
                true,
            ));
        }
        let own = service_tokens::own_key_id(settings)?;
        Ok(Keys {
            sources,
            algorithms: settings.algorithms(),
            own_key: own.map(|id| (id, service.to_owned())),
            refresh_interval: settings.refresh(),
            max_age: settings.max_age(),
            active: RwLock::default(),
            refresh_requested: Notify::new(),
            refreshes: watch::Sender::default(),
            waiters: Semaphore::new(MAX_WAITERS),
        })
    }

    /// Whether all keys come from files, so that a failed read is permanent.
    pub(super) fn are_from_files(&self) -> bool {
        self.sources
            .iter()
            .all(|source| matches!(source.location, Location::File(_)))
    }

    /// Reads all keys again. When that fails, the last ones stay in use until they are too old.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        self.refreshes.send_modify(|refreshes| refreshes.running = true);
        let mut outcome = Ok(());
        let mut fresh = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let read = source.read(&self.algorithms).await;
            fresh.push(read.map_err(|error| outcome = Err(error)).ok());
        }
        let outcome = outcome.and(self.activate(fresh));
        self.refreshes.send_modify(|refreshes| {
            refreshes.done += 1;
            refreshes.running = false;
            refreshes.ended = Some(Instant::now());
        });
        outcome
    }

    /// Starts using what was read, together with the last keys of sources that failed and are not too old. Keys
    /// that contradict each other count as a failed read.
    fn activate(&self, fresh: Vec<Option<Vec<Arc<Key>>>>) -> Result<(), Error> {
        let own = self
            .own_key
            .as_ref()
            .map(|(id, service)| (id.as_str(), service.as_str()));
        let together = |fresh: &[Option<Vec<Arc<Key>>>]| {
            let each = self.sources.iter().enumerate();
            let keys = each.flat_map(|(index, source)| match fresh.get(index) {
                Some(Some(keys)) => keys.clone(),
                _ => source.keys_younger_than(self.max_age),
            });
            KeySet::new(keys, own).map_err(Error::Together)
        };
        let (set, outcome) = match together(&fresh) {
            Ok(set) => {
                for (source, keys) in self.sources.iter().zip(fresh) {
                    source.store(keys);
                }
                (set, Ok(()))
            }
            Err(error) => (together(&[])?, Err(error)),
        };
        let fingerprint = set.fingerprint();
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        if active.fingerprint != fingerprint {
            let version = active.version + 1;
            *active = Arc::new(ActiveKeys {
                set,
                fingerprint,
                version,
            });
        }
        outcome
    }

    /// Refreshes the keys at intervals and on request, until `shutdown`.
    pub(super) async fn refresh_loop(&self, dependency: Dependency, shutdown: CancellationToken) {
        let mut failed = !dependency.is_up();
        loop {
            let pause = if failed {
                RETRY_INTERVAL.min(self.refresh_interval)
            } else {
                self.refresh_interval
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.refresh_requested.notified() => if self.is_rate_limited() { continue },
                () = shutdown.cancelled() => return,
            }
            let outcome = self.refresh().await;
            failed = outcome.is_err();
            match (&outcome, self.stale()) {
                (Err(error), Some(setting)) => dependency.down(&format!(
                    "auth.{setting}: the keys are not used any more, they could not be read again for {} s: {}",
                    self.max_age.as_secs(),
                    crate::status::chain(error)
                )),
                (Ok(()), _) => dependency.up(),
                // The last good keys stay in use, so the process remains ready.
                (Err(error), None) => {
                    tracing::warn!(error.message = crate::status::chain(error), "keys not refreshed");
                }
            }
        }
    }

    /// The setting of a source whose keys are too old, or were never read.
    fn stale(&self) -> Option<&'static str> {
        let stale = |source: &&Source| source.age().is_none_or(|age| age > self.max_age);
        self.sources.iter().find(stale).map(|source| source.setting)
    }

    /// The age of each source's keys in seconds, by the setting that names it.
    pub(super) fn ages(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.sources
            .iter()
            .filter_map(|source| Some((source.setting, source.age()?.as_secs_f64())))
    }

    fn is_rate_limited(&self) -> bool {
        let ended = self.refreshes.borrow().ended;
        ended.is_some_and(|ended| ended.elapsed() < MIN_REFRESH_INTERVAL)
    }

    /// The version of the set in use; another version may lack a key.
    pub(super) fn version(&self) -> u64 {
        self.active().version
    }

    /// The key `kid`. If it is unknown, the keys may have changed: the caller waits for one refresh, which all
    /// waiting callers share, and which starts five seconds after the last one at the earliest.
    pub(super) async fn find(&self, kid: &str, algorithm: Algorithm) -> Result<FoundKey, LookupError> {
        let mut refreshes = self.refreshes.subscribe();
        let before = *refreshes.borrow_and_update();
        match self.lookup(kid, algorithm) {
            Err(LookupError::Unknown | LookupError::NoKeys) if before.running || !self.is_rate_limited() => {}
            found => return found,
        }
        if let Ok(_permit) = self.waiters.try_acquire() {
            self.refresh_requested.notify_one();
            let ended = refreshes.wait_for(|refreshes| refreshes.done > before.done);
            // On a timeout the keys are looked up as they are.
            let _ = tokio::time::timeout(MAX_WAIT, ended).await;
        }
        self.lookup(kid, algorithm)
    }

    fn lookup(&self, kid: &str, algorithm: Algorithm) -> Result<FoundKey, LookupError> {
        let active = self.active();
        if active.set.is_empty() {
            return Err(LookupError::NoKeys);
        }
        match active.set.find(kid, algorithm) {
            Some(Ok(key)) => Ok(FoundKey {
                key,
                version: active.version,
            }),
            Some(Err(WrongAlgorithm)) => Err(LookupError::Algorithm),
            None => Err(LookupError::Unknown),
        }
    }

    fn active(&self) -> Arc<ActiveKeys> {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source {
    fn new(setting: &'static str, location: Location, all_services: bool) -> Source {
        Source {
            setting,
            location,
            all_services,
            last: RwLock::default(),
        }
    }

    async fn read(&self, algorithms: &[Algorithm]) -> Result<Vec<Arc<Key>>, Error> {
        let setting = self.setting;
        let (from, bytes) = match &self.location {
            Location::File(path) => {
                let from = path.display().to_string();
                let metadata = tokio::fs::metadata(path).await;
                if metadata.is_ok_and(|metadata| metadata.len() > MAX_FILE_BYTES) {
                    return Err(Error::Size { setting, from });
                }
                match tokio::fs::read(path).await {
                    Ok(bytes) => (from, bytes.into()),
                    Err(source) => {
                        return Err(Error::Read {
                            setting,
                            from,
                            source,
                        });
                    }
                }
            }
            Location::Url(location) => {
                let from = location.masked_url();
                match location.get().await {
                    Ok(bytes) => (from, bytes),
                    Err(source) => {
                        return Err(Error::Fetch {
                            setting,
                            from,
                            source,
                        });
                    }
                }
            }
        };
        match jwk::parse(&bytes, algorithms, self.all_services) {
            Ok(keys) => Ok(keys.into_iter().map(Arc::new).collect()),
            Err(source) => Err(Error::Content {
                setting,
                from,
                source,
            }),
        }
    }

    fn store(&self, keys: Option<Vec<Arc<Key>>>) {
        if let Some(keys) = keys {
            *self.last.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), keys));
        }
    }

    fn age(&self) -> Option<Duration> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(at, _)| at.elapsed())
    }

    fn keys_younger_than(&self, max_age: Duration) -> Vec<Arc<Key>> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, keys)) if at.elapsed() <= max_age => keys.clone(),
            _ => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
