//! A consumer whose filter gains a subject goes back to the first stored message of that subject, because the
//! broker never goes back by itself: its cursor has passed them.

use async_nats::jetstream::{
    Context,
    consumer::{Info, PullConsumer},
    stream::ConsumerErrorKind,
};
use sqlx::PgPool;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{definition, message::Message};
use crate::{Bus, Error, stored_message, streams};

/// The clocks of the databases may differ by this much, and rows may be deleted for this long while a consumer
/// catches up.
const CLOCK_MARGIN: time::Duration = time::Duration::hours(1);

/// The first server that takes a consumer back.
const MIN_RESET_VERSION: (i64, i64, i64) = (2, 14, 0);

/// What a consumer is being given once more, until its cursor is where it was.
#[derive(Clone, Debug)]
pub(super) struct CatchUp {
    /// Up to this sequence it had acknowledged everything but `subjects`.
    until: u64,
    subjects: Vec<String>,
    /// What took effect before this time may not be in the inbox any more. `None`: everything is.
    forgotten_until: Option<OffsetDateTime>,
}

/// How a message that comes during a catch-up is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Treatment {
    /// As always: the inbox knows whether it has taken effect.
    Handle,
    /// It was acknowledged before.
    Acknowledged,
    /// The inbox no longer knows whether it has taken effect.
    Forgotten,
}

/// A consumer with the filter that it is to have.
pub(crate) struct FilteredConsumer {
    pub(super) consumer: PullConsumer,
    pub(super) catch_up: Option<CatchUp>,
    /// Subjects of which it has not been given what is stored, and the sequence that it had acknowledged.
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
    /// Takes the consumer back, if its filter has gained subjects of which messages are stored. Only for the
    /// process that consumes.
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
                "the filter has gained subjects; the consumer went back to their first message"
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

/// Creates the consumer, or gives it the filter that it is to have. Before the broker learns of subjects that the
/// filter gains, they are on record as missing, so that they are caught up with whatever dies in between.
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
    // A consumer that is new at the broker begins with the first message in the stream, of every subject.
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
    let before = known.as_ref().and_then(|known| {
        let until = known.catch_up_until?.unsigned_abs();
        let goes_on = known.catch_up_stream == Some(stream) && until > acknowledged;
        goes_on.then(|| (until, known.catch_up_subjects.clone()))
    });
    let catch_up = match (before, added.is_empty()) {
        (None, true) => None,
        (before, _) => {
            let (until, mut subjects) = before.unwrap_or((acknowledged, Vec::new()));
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

/// `complete`: the subjects of which nothing is missing.
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

/// Inbox rows and dead letters are kept at least so long.
fn kept_days(bus: &Bus) -> i32 {
    let settings = bus.settings();
    let days = settings.inbox_kept_days.min(settings.dead_letters_kept_days);
    i32::try_from(days).unwrap_or(i32::MAX)
}

/// When the event happened; no later than it was published.
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

/// A server that cannot take a consumer back gets it anew: it begins with the first message in the stream, and
/// what was acknowledged is passed over all the same.
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

/// Whether a filter takes every message that another one, or a plain subject, takes.
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
