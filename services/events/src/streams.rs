//! The definitions of the streams. Every service applies the same ones, so that any of them may start first.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    context::{CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind, UpdateStreamError},
    stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{Error, Settings};

pub(crate) const EVENTS: &str = "EVENTS";
pub(crate) const DEAD_LETTERS: &str = "DEAD_LETTERS";
pub(crate) const ADVISORIES: &str = "ADVISORIES";

/// How long the broker recognises a message id it has stored. A relay that was stopped for longer may publish an
/// event twice; the inbox drops the second one.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// An advisory has some 400 bytes.
const ADVISORIES_BYTES: i64 = 64 << 20;

const DAY: Duration = Duration::from_secs(86_400);

/// The metadata key under which a stream stores the settings last applied to it. A setting that differs from them
/// was changed by an operator.
const APPLIED: &str = "weft.applied";

/// The broker has less storage than the stream's `max_bytes`.
const INSUFFICIENT_STORAGE: u64 = 10047;

/// The least `max_bytes` of EVENTS where the broker has too little storage.
const MIN_EVENTS_BYTES: i64 = 64 << 20;

/// What [`apply`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Creates missing streams and changes no others.
    Missing,
    /// At a start: also changes settings that this build or its settings define differently, unless an operator
    /// has changed them.
    All,
    /// At an operator's request: changes everything that differs.
    Forced,
}

/// Creates what is missing and updates what differs. Idempotent.
pub(crate) async fn apply(jetstream: &Context, settings: &Settings, scope: Scope) -> Result<(), Error> {
    for desired in definitions(settings) {
        match find(jetstream, &desired.name).await? {
            Some(_) if scope == Scope::Missing => {}
            Some(current) => update(jetstream, &current, &desired, scope).await?,
            None => create(jetstream, desired).await?,
        }
    }
    Ok(())
}

async fn update(jetstream: &Context, current: &Info, desired: &Config, scope: Scope) -> Result<(), Error> {
    let mut target = target(&current.config, desired, scope);
    let used = i64::try_from(current.state.bytes).unwrap_or(i64::MAX);
    if target.max_bytes > 0 && target.max_bytes < used && target.max_bytes != current.config.max_bytes {
        tracing::warn!(
            stream = desired.name,
            max_bytes = target.max_bytes,
            used,
            "the stream holds more than its configured max_bytes, which is not lowered"
        );
        target.max_bytes = current.config.max_bytes;
    }
    if target == current.config {
        return Ok(());
    }
    match jetstream.update_stream(&target).await {
        Ok(_) => tracing::info!(stream = desired.name, "stream updated"),
        Err(error) if update_code(&error) == Some(INSUFFICIENT_STORAGE) => {
            tracing::warn!(
                stream = desired.name,
                max_bytes = target.max_bytes,
                now = current.config.max_bytes,
                "the broker has too little storage for the configured max_bytes, which is not changed"
            );
        }
        Err(error) => return Err(Error::broker(error)),
    }
    Ok(())
}

/// Halves `max_bytes` until the broker has enough storage, so that the service can start.
async fn create(jetstream: &Context, desired: Config) -> Result<(), Error> {
    let mut target = Config {
        metadata: [(APPLIED.to_owned(), Applied::new(&desired).json())].into(),
        ..desired.clone()
    };
    loop {
        match jetstream.create_stream(target.clone()).await {
            Ok(_) => break,
            Err(error)
                if create_code(&error) == Some(INSUFFICIENT_STORAGE)
                    && target.max_bytes / 2 >= MIN_EVENTS_BYTES =>
            {
                target.max_bytes /= 2;
                target.metadata = [(APPLIED.to_owned(), Applied::new(&target).json())].into();
            }
            Err(error) => return Err(Error::broker(error)),
        }
    }
    if target.max_bytes == desired.max_bytes {
        tracing::info!(stream = desired.name, "stream created");
    } else {
        tracing::warn!(
            stream = desired.name,
            max_bytes = target.max_bytes,
            wanted = desired.max_bytes,
            "stream created with a smaller max_bytes: the broker's storage (max_file) is too small"
        );
    }
    Ok(())
}

/// The settings of a stream that operators change with the broker's own tools.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Applied {
    max_bytes: i64,
    max_age_s: u64,
    replicas: usize,
    duplicate_window_s: u64,
}

impl Applied {
    fn new(config: &Config) -> Self {
        Self {
            max_bytes: config.max_bytes,
            max_age_s: config.max_age.as_secs(),
            replicas: config.num_replicas,
            duplicate_window_s: config.duplicate_window.as_secs(),
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The configuration that the stream should have.
fn target(current: &Config, desired: &Config, scope: Scope) -> Config {
    let mut target = merge(current, desired);
    let applied = current.metadata.get(APPLIED);
    let applied = applied.and_then(|json| serde_json::from_str::<Applied>(json).ok());
    let mut new_applied = Applied::new(&target);
    if let Some(before) = applied.filter(|_| scope != Scope::Forced) {
        let now = Applied::new(current);
        // A setting that an operator has changed stays, and stays recognisable as changed.
        if now.max_bytes != before.max_bytes {
            (target.max_bytes, new_applied.max_bytes) = (current.max_bytes, before.max_bytes);
        }
        if now.max_age_s != before.max_age_s {
            (target.max_age, new_applied.max_age_s) = (current.max_age, before.max_age_s);
        }
        if now.replicas != before.replicas {
            (target.num_replicas, new_applied.replicas) = (current.num_replicas, before.replicas);
        }
        if now.duplicate_window_s != before.duplicate_window_s {
            let window = (current.duplicate_window, before.duplicate_window_s);
            (target.duplicate_window, new_applied.duplicate_window_s) = window;
        }
    }
    target.metadata.insert(APPLIED.to_owned(), new_applied.json());
    target
}

pub(crate) fn definitions(settings: &Settings) -> [Config; 3] {
    let base = Config {
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        num_replicas: settings.replicas,
        allow_direct: true,
        duplicate_window: DUPLICATE_WINDOW,
        ..Config::default()
    };
    [
        Config {
            name: EVENTS.into(),
            description: Some("What happened; a copy of the services' event logs".into()),
            subjects: vec!["evt.>".into(), "retry.>".into()],
            // When it is full, the outbox backs up and no older event is lost. The broker refuses its message
            // schedules on such a stream, so long waits are delayed negative acknowledgements.
            discard: DiscardPolicy::New,
            max_bytes: settings.events_bytes(),
            max_age: DAY * settings.events_max_age_days,
            allow_atomic_publish: true,
            ..base.clone()
        },
        Config {
            name: DEAD_LETTERS.into(),
            description: Some("What a consumer gave up on".into()),
            subjects: vec!["dlq.>".into()],
            // When it is full, the oldest copies are deleted: the dead letters themselves are in the databases.
            max_bytes: settings.dead_letters_max_bytes,
            max_age: DAY * settings.dead_letters_max_age_days,
            allow_atomic_publish: true,
            ..base.clone()
        },
        Config {
            name: ADVISORIES.into(),
            description: Some("Messages that the broker stopped delivering".into()),
            subjects: vec![
                "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.>".into(),
                "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.EVENTS.>".into(),
            ],
            max_bytes: ADVISORIES_BYTES,
            max_age: DAY * 30,
            ..base
        },
    ]
}

/// The current configuration with the settings that these definitions decide. The others stay as they are.
pub(crate) fn merge(current: &Config, desired: &Config) -> Config {
    let unlimited = |bytes: i64| if bytes <= 0 { -1 } else { bytes };
    Config {
        description: desired.description.clone(),
        subjects: desired.subjects.clone(),
        discard: desired.discard,
        max_bytes: unlimited(desired.max_bytes),
        max_age: desired.max_age,
        num_replicas: desired.num_replicas,
        duplicate_window: desired.duplicate_window,
        allow_direct: desired.allow_direct,
        allow_atomic_publish: desired.allow_atomic_publish,
        ..current.clone()
    }
}

/// The stream as it is on the broker. `None`: there is no such stream.
pub(crate) async fn find(jetstream: &Context, name: &str) -> Result<Option<Info>, Error> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(Error::broker(error)),
    }
}

/// When the stream was created, with PostgreSQL's precision of microseconds.
pub(crate) fn created(stream: &Info) -> OffsetDateTime {
    let micros = stream.created.nanosecond() / 1_000 * 1_000;
    stream
        .created
        .replace_nanosecond(micros)
        .unwrap_or(stream.created)
}

fn is_missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.code() == 404,
        _ => false,
    }
}

fn create_code(error: &CreateStreamError) -> Option<u64> {
    match error.kind() {
        CreateStreamErrorKind::JetStream(error) => Some(error.error_code().0),
        _ => None,
    }
}

fn update_code(error: &UpdateStreamError) -> Option<u64> {
    create_code(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(settings: &Settings) -> Config {
        let [events, ..] = definitions(settings);
        events
    }

    #[test]
    fn a_start_applies_changed_settings_and_keeps_an_operators_changes() {
        let mut settings = Settings::default();
        let first = events(&settings);
        let created = target(&first, &first, Scope::All);
        let by_operator = Config {
            max_bytes: 5 << 30,
            ..created
        };
        settings.events_max_age_days = 3;
        let desired = events(&settings);
        let started = target(&by_operator, &desired, Scope::All);
        assert_eq!((started.max_bytes, started.max_age), (5 << 30, DAY * 3));
        // Another start keeps the operator's change.
        let restarted = target(&started, &desired, Scope::All);
        assert_eq!(restarted, started);
        let forced = target(&started, &desired, Scope::Forced);
        assert_eq!(forced.max_bytes, settings.events_bytes());
        assert_eq!(target(&forced, &desired, Scope::All), forced);
    }

    #[test]
    fn a_stream_without_recorded_settings_is_updated_to_its_definition() {
        let settings = Settings::default();
        let desired = events(&settings);
        let old = Config {
            max_bytes: 2 << 30,
            ..desired.clone()
        };
        assert_eq!(
            target(&old, &desired, Scope::All).max_bytes,
            settings.events_bytes()
        );
    }

    #[test]
    fn the_streams_size_is_its_rate_times_its_age() {
        let mut settings = Settings {
            events_per_second: 50,
            events_max_age_days: 7,
            ..Settings::default()
        };
        let week: i64 = 50 * 7 * 86_400;
        assert!(settings.events_bytes() >= week * 1_000);
        settings.events_max_bytes = 1 << 30;
        assert_eq!(settings.events_bytes(), 1 << 30);
    }
}
