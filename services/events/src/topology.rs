//! Compares the broker's streams and consumers with their definitions in this build.

use async_nats::jetstream::{
    Context,
    consumer::{Config as ConsumerConfig, IntoConsumerConfig as _, PullConsumer},
    stream::Config as StreamConfig,
};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;

use crate::{Bus, Error, consumer, streams};

/// A setting that differs from its definition.
pub(crate) struct Difference {
    /// `stream EVENTS`, `consumer payment-ledger`.
    pub(crate) object: String,
    /// Empty: the object is missing.
    pub(crate) setting: String,
    pub(crate) is: String,
    pub(crate) wanted: String,
}

/// The settings of a consumer that its definition decides.
const CONSUMER_SETTINGS: [&str; 6] = [
    "description",
    "ack_wait",
    "max_deliver",
    "max_ack_pending",
    "filter_subject",
    "filter_subjects",
];

/// Everything that [`apply`] would change.
pub(crate) async fn compare(bus: &Bus) -> Result<Vec<Difference>, Error> {
    let jetstream = bus.jetstream();
    let mut differences = Vec::new();
    for wanted in streams::definitions(bus.settings()) {
        let object = format!("stream {}", wanted.name);
        match streams::find(&jetstream, &wanted.name).await? {
            None => differences.push(missing(object)),
            Some(current) => {
                let is = current.config;
                let merged: StreamConfig = streams::merge(&is, &wanted);
                compare_settings(&object, &json(&is)?, &json(&merged)?, None, &mut differences);
            }
        }
    }
    for (name, registration) in bus.consumers() {
        let object = format!("consumer {name}");
        let wanted = consumer::definition(bus, &name, &registration.subjects).into_consumer_config();
        match find_consumer(&jetstream, &name).await {
            None => differences.push(missing(object)),
            Some(is) => {
                let settings = Some(CONSUMER_SETTINGS.as_slice());
                compare_settings(&object, &json(&is)?, &json(&wanted)?, settings, &mut differences);
            }
        }
    }
    Ok(differences)
}

/// Creates what is missing and updates what differs. Idempotent.
pub(crate) async fn apply(bus: &Bus, pool: &PgPool) -> Result<(), Error> {
    let jetstream = bus.jetstream();
    streams::apply(&jetstream, bus.settings(), streams::Scope::Forced).await?;
    for (name, registration) in bus.consumers() {
        consumer::apply_filter(bus, pool, &name, &registration.subjects).await?;
    }
    Ok(())
}

async fn find_consumer(jetstream: &Context, name: &str) -> Option<ConsumerConfig> {
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream(name, streams::EVENTS)
        .await
        .ok()?;
    Some(consumer.cached_info().config.clone())
}

fn missing(object: String) -> Difference {
    Difference {
        object,
        setting: String::new(),
        is: "missing".into(),
        wanted: "there".into(),
    }
}

fn json(config: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(config).map_err(Error::broker)
}

/// Compares settings in the JSON of the broker's protocol. An absent setting has its default.
fn compare_settings(
    object: &str,
    is: &Value,
    wanted: &Value,
    only: Option<&[&str]>,
    differences: &mut Vec<Difference>,
) {
    let (Some(is), Some(wanted)) = (is.as_object(), wanted.as_object()) else {
        return;
    };
    let names: std::collections::BTreeSet<&String> = is.keys().chain(wanted.keys()).collect();
    for name in names {
        let text = |value: Option<&Value>| value.map(ToString::to_string).unwrap_or_default();
        let (is, wanted) = (text(is.get(name)), text(wanted.get(name)));
        if is != wanted && only.is_none_or(|only| only.contains(&name.as_str())) {
            differences.push(Difference {
                object: object.to_owned(),
                setting: name.clone(),
                is,
                wanted,
            });
        }
    }
}
