//! The public keys that are in force: read from a file or a URL, again at intervals, and when a token names a key that
//! is not there. One task reads; whoever needs a new key waits for that reading.

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

/// A token with an unknown key makes the keys be read again, but not more often than this.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// Keys that could not be read are asked for again after this, or after the usual interval if that is shorter.
const RETRY: Duration = Duration::from_secs(5);
/// How long a caller with an unknown key waits for a reading that is under way.
const WAIT: Duration = Duration::from_secs(10);
/// Callers that wait so at once; more are refused.
const MAX_WAITING: usize = 1_024;
/// The largest file of keys, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// The keys that are known now.
pub(super) struct Keys {
    sources: Vec<Source>,
    algorithms: Vec<Algorithm>,
    /// The thumbprint of this service's own signing key, and the service's name.
    own: Option<(String, &'static str)>,
    every: Duration,
    max_age: Duration,
    known: RwLock<Arc<Known>>,
    wanted: Notify,
    readings: watch::Sender<Readings>,
    waiting: Semaphore,
}

/// The keys in force, and which edition of them it is.
#[derive(Default)]
struct Known {
    set: KeySet,
    fingerprint: [u8; 32],
    edition: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Readings {
    done: u64,
    running: bool,
    ended: Option<Instant>,
}

/// A key and the edition of the set that it was found in.
pub(super) struct Found {
    pub(super) key: Arc<Key>,
    pub(super) edition: u64,
}

/// Why a token's key is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// No known key has this name.
    Unknown,
    /// The key of this name is for another algorithm.
    Algorithm,
    /// There are no keys at all now.
    NoKeys,
}

enum Place {
    File(PathBuf),
    Url(fetch::Location),
}

struct Source {
    /// The setting that names it.
    setting: &'static str,
    place: Place,
    all_services: bool,
    /// What was read last, and when.
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
        source: jwk::Fault,
    },
    #[error("auth: the keys cannot be used together")]
    Together(#[source] jwk::Fault),
    #[error("auth.jwks_url")]
    Location(#[source] fetch::Error),
    #[error("auth.signing_key_file")]
    SigningKey(#[from] service_tokens::Error),
}

impl Keys {
    pub(super) fn new(settings: &Settings, service: &'static str) -> Result<Keys, Error> {
        let mut sources = Vec::new();
        if let Some(path) = &settings.jwks_file {
            sources.push(Source::new("jwks_file", Place::File(path.clone()), false));
        }
        if settings.jwks_url.is_set() {
            let location = fetch::Location::new(settings).map_err(Error::Location)?;
            sources.push(Source::new("jwks_url", Place::Url(location), false));
        }
        if let Some(path) = &settings.service_keys_file {
            sources.push(Source::new("service_keys_file", Place::File(path.clone()), true));
        }
        let own = service_tokens::own_key_id(settings)?;
        Ok(Keys {
            sources,
            algorithms: settings.algorithms(),
            own: own.map(|id| (id, service)),
            every: settings.refresh(),
            max_age: settings.max_age(),
            known: RwLock::default(),
            wanted: Notify::new(),
            readings: watch::Sender::default(),
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// Whether reading them can only fail for good.
    pub(super) fn are_local(&self) -> bool {
        self.sources
            .iter()
            .all(|source| matches!(source.place, Place::File(_)))
    }

    /// Reads all keys anew; where that fails, the last ones stay until they are too old.
    pub(super) async fn refresh(&self) -> Result<(), Error> {
        self.readings.send_modify(|readings| readings.running = true);
        let mut outcome = Ok(());
        let mut fresh = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let read = source.read(&self.algorithms).await;
            fresh.push(read.map_err(|error| outcome = Err(error)).ok());
        }
        let outcome = outcome.and(self.put_in_force(fresh));
        self.readings.send_modify(|readings| {
            readings.done += 1;
            readings.running = false;
            readings.ended = Some(Instant::now());
        });
        outcome
    }

    /// Puts what was read in force, beside the last keys of what was not and is not too old. Keys that contradict each
    /// other count as not read.
    fn put_in_force(&self, fresh: Vec<Option<Vec<Arc<Key>>>>) -> Result<(), Error> {
        let own = self.own.as_ref().map(|(id, service)| (id.as_str(), *service));
        let together = |fresh: &[Option<Vec<Arc<Key>>>]| {
            let each = self.sources.iter().enumerate();
            let keys = each.flat_map(|(index, source)| match fresh.get(index) {
                Some(Some(keys)) => keys.clone(),
                _ => source.within(self.max_age),
            });
            KeySet::new(keys, own).map_err(Error::Together)
        };
        let (set, outcome) = match together(&fresh) {
            Ok(set) => {
                for (source, keys) in self.sources.iter().zip(fresh) {
                    source.keep(keys);
                }
                (set, Ok(()))
            }
            Err(error) => (together(&[])?, Err(error)),
        };
        let fingerprint = set.fingerprint();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.fingerprint != fingerprint {
            let edition = known.edition + 1;
            *known = Arc::new(Known {
                set,
                fingerprint,
                edition,
            });
        }
        outcome
    }

    /// Reads again and again, and when somebody asks. Ends with the process.
    pub(super) async fn keep_fresh(&self, dependency: Dependency, shutdown: CancellationToken) {
        let mut failed = !dependency.is_up();
        loop {
            let pause = if failed { RETRY.min(self.every) } else { self.every };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => if self.is_cooling_down() { continue },
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
                // The last good keys stay in use, so that this is no reason to stop serving.
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

    fn is_cooling_down(&self) -> bool {
        let ended = self.readings.borrow().ended;
        ended.is_some_and(|ended| ended.elapsed() < COOL_DOWN)
    }

    /// Which edition of the keys is in force; another one may lack a key.
    pub(super) fn edition(&self) -> u64 {
        self.known().edition
    }

    /// The key called `kid`. When there is none the keys may have changed: the caller waits for one reading, which all
    /// who wait share, and which is not begun within five seconds of the last one.
    pub(super) async fn find(&self, kid: &str, algorithm: Algorithm) -> Result<Found, Missing> {
        let mut readings = self.readings.subscribe();
        let before = *readings.borrow_and_update();
        match self.lookup(kid, algorithm) {
            Err(Missing::Unknown | Missing::NoKeys) if before.running || !self.is_cooling_down() => {}
            found => return found,
        }
        if let Ok(_place) = self.waiting.try_acquire() {
            self.wanted.notify_one();
            let ended = readings.wait_for(|readings| readings.done > before.done);
            // Without an answer in time the keys are what they were.
            let _ = tokio::time::timeout(WAIT, ended).await;
        }
        self.lookup(kid, algorithm)
    }

    fn lookup(&self, kid: &str, algorithm: Algorithm) -> Result<Found, Missing> {
        let known = self.known();
        if known.set.is_empty() {
            return Err(Missing::NoKeys);
        }
        match known.set.find(kid, algorithm) {
            Some(Ok(key)) => Ok(Found {
                key,
                edition: known.edition,
            }),
            Some(Err(WrongAlgorithm)) => Err(Missing::Algorithm),
            None => Err(Missing::Unknown),
        }
    }

    fn known(&self) -> Arc<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Source {
    fn new(setting: &'static str, place: Place, all_services: bool) -> Source {
        Source {
            setting,
            place,
            all_services,
            last: RwLock::default(),
        }
    }

    async fn read(&self, algorithms: &[Algorithm]) -> Result<Vec<Arc<Key>>, Error> {
        let setting = self.setting;
        let (from, bytes) = match &self.place {
            Place::File(path) => {
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
            Place::Url(location) => {
                let from = location.shown();
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

    fn keep(&self, keys: Option<Vec<Arc<Key>>>) {
        if let Some(keys) = keys {
            *self.last.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), keys));
        }
    }

    fn age(&self) -> Option<Duration> {
        let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|(at, _)| at.elapsed())
    }

    fn within(&self, max_age: Duration) -> Vec<Arc<Key>> {
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
            .field("edition", &self.edition())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
