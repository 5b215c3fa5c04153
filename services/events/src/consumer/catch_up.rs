//! When a consumer's filter gains a subject, the consumer is reset to the first stored message of that subject.
//! The broker does not go back by itself: the consumer's cursor has passed those messages.

use async_nats::jetstream::{
    Context,
    consumer::{Info, PullConsumer},
    stream::ConsumerErrorKind,
};
use sqlx::PgPool;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{definition, message::Message};
use crate::{Bus, Error, stored_message, streams};

/// The databases' clocks may differ by this much, and a catch-up may last this long while rows are pruned.
const CLOCK_MARGIN: time::Duration = time::Duration::hours(1);

/// The first server version that can reset a consumer.
const MIN_RESET_VERSION: (i64, i64, i64) = (2, 14, 0);

/// Messages that a consumer receives again, until its cursor is back where it was.
#[derive(Clone, Debug)]
pub(super) struct CatchUp {
    /// Up to this sequence everything was acknowledged except messages of `subjects`.
    until: u64,
    subjects: Vec<String>,
    /// Effects before this time may have been pruned from the inbox. `None`: none was pruned.
    forgotten_until: Option<OffsetDateTime>,
}

/// How a message received during a catch-up is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// Handled as usual: the inbox knows whether it has taken effect.
    Handle,
    /// It was acknowledged before, so it is acknowledged again.
    Acknowledged,
    /// The inbox no longer knows whether it has taken effect.
    Forgotten,
}

/// A consumer with its new filter.
pub(crate) struct FilteredConsumer {
    pub(super) consumer: PullConsumer,
    pub(super) catch_up: Option<CatchUp>,
    /// Subjects whose stored messages were not delivered to it, and the sequence up to which it had acknowledged.
    added: Vec<String>,
    acknowledged: u64,
}

impl CatchUp {
    pub(super) fn treatment(&self, message: &Message) -> Treatment {
        if message.sequence > self.until {
            return Treatment::Handle;
        }
        if !self
            .subjects
            .iter()
            .any(|filter| covers(filter, &message.subject))
        {
            return Treatment::Acknowledged;
        }
        match self.forgotten_until {
            Some(until) if occurred_at(message) < until + CLOCK_MARGIN => Treatment::Forgotten,
            _ => Treatment::Handle,
        }
    }
}

impl FilteredConsumer {
    /// Resets the consumer if its filter has gained subjects with stored messages. Only the process that consumes
    /// may call it.
    pub(super) async fn rewind(
        &mut self,
        bus: &Bus,
        pool: &PgPool,
        subjects: &[String],
    ) -> Result<bool, Error> {
        if self.added.is_empty() {
            return Ok(false);
        }
        let mut first: Option<u64> = None;
        for subject in &self.added {
            let stored = stored_message::next(&bus.jetstream(), streams::EVENTS, subject, 1).await?;
            if let Some(message) = stored {
                first = Some(first.map_or(message.sequence, |first| first.min(message.sequence)));
            }
        }
        let name = self.consumer.cached_info().name.clone();
        if let Some(first) = first {
            let start = first.min(self.acknowledged + 1);
            reset_to(bus, &mut self.consumer, subjects, start).await?;
            tracing::info!(
                consumer = name,
                subjects = ?self.added,
                stream.sequence = start,
                "the filter has gained subjects; the consumer was reset to their first message"
            );
        }
        sqlx::query!(
            "update events.consumer set subjects = $2 where name = $1",
            name,
            subjects,
        )
        .execute(pool)
        .await?;
        Ok(first.is_some())
    }
}

/// Creates the consumer, or updates its filter. Subjects that the filter gains are recorded as missing before the
/// broker learns of them, so that a crash in between does not lose their messages.
pub(crate) async fn apply_filter(
    bus: &Bus,
    pool: &PgPool,
    name: &str,
    subjects: &[String],
) -> Result<FilteredConsumer, Error> {
    let jetstream = bus.jetstream();
    let wanted = definition(bus, name, subjects);
    let running = find_consumer(&jetstream, name).await?;
    let stream = streams::find(&jetstream, streams::EVENTS).await?;
    let stream = stream
        .as_ref()
        .map_or(OffsetDateTime::UNIX_EPOCH, streams::created);
    let acknowledged = running
        .as_ref()
        .map_or(0, |running| running.ack_floor.stream_sequence);
    let known = sqlx::query!(
        "select subjects, catch_up_until, catch_up_subjects, catch_up_stream,
             greatest(forgotten_until, case when forgotten_until is not null
                      then now() - make_interval(days => $2) end) as forgotten_until
         from events.consumer where name = $1",
        name,
        kept_days(bus),
    )
    .fetch_optional(pool)
    .await?;
    // A consumer that is new to the broker starts with the first message in the stream, of every subject.
    let filters = match &running {
        Some(running) => &running.config.filter_subjects,
        None => subjects,
    };
    let recorded = known.as_ref().and_then(|known| known.subjects.as_ref());
    let recorded = recorded.filter(|_| running.is_some());
    let (mut added, complete): (Vec<_>, Vec<_>) = subjects.iter().cloned().partition(|subject| {
        let covered = |by: &[String]| by.iter().any(|filter| covers(filter, subject));
        !covered(filters) || !recorded.is_none_or(|recorded| covered(recorded))
    });
    added.dedup();
    let earlier = known.as_ref().and_then(|known| {
        let until = known.catch_up_until?.unsigned_abs();
        let is_unfinished = known.catch_up_stream == Some(stream) && until > acknowledged;
        is_unfinished.then(|| (until, known.catch_up_subjects.clone()))
    });
    let catch_up = match (earlier, added.is_empty()) {
        (None, true) => None,
        (earlier, _) => {
            let (until, mut subjects) = earlier.unwrap_or((acknowledged, Vec::new()));
            subjects.extend(
                added
                    .iter()
                    .filter(|subject| !subjects.contains(subject))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
            Some(CatchUp {
                until: until.max(acknowledged),
                subjects,
                forgotten_until: known.and_then(|known| known.forgotten_until),
            })
        }
    };
    record(pool, name, &complete, catch_up.as_ref(), stream).await?;
    Ok(FilteredConsumer {
        consumer: create(&jetstream, wanted).await?,
        catch_up,
        added,
        acknowledged,
    })
}

/// `complete`: the subjects of which no message is missing.
async fn record(
    pool: &PgPool,
    name: &str,
    complete: &[String],
    catch_up: Option<&CatchUp>,
    stream: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    let until = catch_up.map(|catch_up| i64::try_from(catch_up.until).unwrap_or(i64::MAX));
    let subjects = catch_up.map_or(&[][..], |catch_up| &catch_up.subjects);
    sqlx::query!(
        "update events.consumer
         set subjects = $2, catch_up_until = $3, catch_up_subjects = $4,
             catch_up_stream = case when $3::bigint is not null then $5::timestamptz end
         where name = $1 and (subjects, catch_up_until, catch_up_subjects)
             is distinct from ($2::text[], $3::bigint, $4::text[])",
        name,
        complete,
        until,
        subjects,
        stream,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Inbox rows and dead letters are kept for at least this many days.
fn kept_days(bus: &Bus) -> i32 {
    let settings = bus.settings();
    let days = settings.inbox_kept_days.min(settings.dead_letters_kept_days);
    i32::try_from(days).unwrap_or(i32::MAX)
}

/// When the event happened, and no later than it was published.
fn occurred_at(message: &Message) -> OffsetDateTime {
    let named = message.headers.get("ce-time");
    let named = named.and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
    named.map_or(message.published, |named| named.min(message.published))
}

async fn find_consumer(jetstream: &Context, name: &str) -> Result<Option<Info>, Error> {
    const NOT_FOUND: usize = 404;
    let found = jetstream.get_consumer_from_stream(name, streams::EVENTS).await;
    match found {
        Ok(consumer) => {
            let consumer: PullConsumer = consumer;
            Ok(Some(consumer.cached_info().clone()))
        }
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(inner) if inner.code() == NOT_FOUND => Ok(None),
            _ => Err(Error::broker(error)),
        },
    }
}

async fn create(
    jetstream: &Context,
    wanted: async_nats::jetstream::consumer::pull::Config,
) -> Result<PullConsumer, Error> {
    let created = jetstream.create_consumer_on_stream(wanted, streams::EVENTS).await;
    created.map_err(Error::broker)
}

/// Resets the consumer to this sequence. On a server that cannot do so the consumer is deleted and created again:
/// it starts with the first message in the stream, and messages acknowledged before are skipped.
async fn reset_to(
    bus: &Bus,
    consumer: &mut PullConsumer,
    subjects: &[String],
    start: u64,
) -> Result<(), Error> {
    let (major, minor, patch) = MIN_RESET_VERSION;
    if bus.client().is_server_compatible(major, minor, patch) {
        consumer.reset(Some(start)).await.map_err(Error::broker)?;
        return Ok(());
    }
    let jetstream = bus.jetstream();
    let name = consumer.cached_info().name.clone();
    let deleted = jetstream
        .delete_consumer_from_stream(&name, streams::EVENTS)
        .await;
    deleted.map_err(Error::broker)?;
    *consumer = create(&jetstream, definition(bus, &name, subjects)).await?;
    Ok(())
}

/// Whether a filter matches every message that another filter, or a plain subject, matches.
fn covers(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(of_filter), Some(token)) if of_filter == token => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_covers_a_subject_whose_every_message_it_matches() {
        for (filter, subject) in [
            ("evt.order.order.adjusted", "evt.order.order.adjusted"),
            ("evt.order.order.*", "evt.order.order.adjusted"),
            ("evt.order.>", "evt.order.order.adjusted"),
            ("evt.order.>", "evt.order.order.*"),
            ("evt.*.order.*", "evt.order.order.*"),
        ] {
            assert!(covers(filter, subject), "{filter} {subject}");
        }
        for (filter, subject) in [
            ("evt.order.order.adjusted", "evt.order.order.settled"),
            ("evt.order.order.adjusted", "evt.order.order.*"),
            ("evt.order.order.*", "evt.order.order.>"),
            ("evt.order.order.*", "evt.order.order.adjusted.more"),
            ("evt.order.order.>", "evt.order.order"),
            ("evt.order", "evt.order.order"),
        ] {
            assert!(!covers(filter, subject), "{filter} {subject}");
        }
    }
}
