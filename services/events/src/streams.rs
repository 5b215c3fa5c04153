//! The streams, as code. Every service applies the same definitions, so that any of them may start first.

use std::time::Duration;

use async_nats::jetstream::{
    Context,
    context::GetStreamErrorKind,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};

use crate::{Error, Settings};

pub(crate) const EVENTS: &str = "EVENTS";
pub(crate) const DEAD_LETTERS: &str = "DEAD_LETTERS";
pub(crate) const ADVISORIES: &str = "ADVISORIES";

/// How long the broker recognises a message id it has stored. A relay that was stopped for longer may publish an
/// event twice; the inbox catches it.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

const DAY: Duration = Duration::from_secs(86_400);

/// Creates what is missing and updates what differs. Idempotent.
pub(crate) async fn apply(jetstream: &Context, settings: &Settings) -> Result<(), Error> {
    for wanted in definitions(settings) {
        match running(jetstream, &wanted.name).await? {
            Some(is) if same(&is, &wanted) => {}
            Some(is) => {
                let merged = merge(&is, &wanted);
                jetstream.update_stream(merged).await.map_err(Error::broker)?;
                tracing::info!(stream = wanted.name, "stream updated");
            }
            None => {
                let name = wanted.name.clone();
                jetstream.create_stream(wanted).await.map_err(Error::broker)?;
                tracing::info!(stream = name, "stream created");
            }
        }
    }
    Ok(())
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
            // Full means that the outbox backs up, not that older events vanish. This rules out the broker's
            // message schedules, which it refuses on such a stream: long waits are delayed refusals.
            discard: DiscardPolicy::New,
            max_bytes: settings.events_max_bytes,
            max_age: DAY * settings.events_max_age_days,
            allow_atomic_publish: true,
            ..base.clone()
        },
        Config {
            name: DEAD_LETTERS.into(),
            description: Some("What a consumer gave up on".into()),
            subjects: vec!["dlq.>".into()],
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
            max_age: DAY * 30,
            ..base
        },
    ]
}

fn same(is: &Config, wanted: &Config) -> bool {
    merge(is, wanted) == *is
}

/// The running configuration with what these definitions decide; the rest is the operator's.
pub(crate) fn merge(is: &Config, wanted: &Config) -> Config {
    let unlimited = |bytes: i64| if bytes <= 0 { -1 } else { bytes };
    Config {
        description: wanted.description.clone(),
        subjects: wanted.subjects.clone(),
        discard: wanted.discard,
        max_bytes: unlimited(wanted.max_bytes),
        max_age: wanted.max_age,
        num_replicas: wanted.num_replicas,
        duplicate_window: wanted.duplicate_window,
        allow_direct: wanted.allow_direct,
        allow_atomic_publish: wanted.allow_atomic_publish,
        ..is.clone()
    }
}

/// The configuration of a stream as the broker has it. `None`: there is no such stream.
pub(crate) async fn running(jetstream: &Context, name: &str) -> Result<Option<Config>, Error> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(Error::broker(error)),
    }
}

fn is_missing(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => error.code() == 404,
        _ => false,
    }
}
