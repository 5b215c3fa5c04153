//! Compares the event log with the stream. Both are read once, in the order of time, without holding either in
//! memory.

use std::collections::HashMap;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use futures_util::StreamExt as _;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Bus, Error, streams};

/// Events read from the log by one query.
const PAGE: i32 = 5_000;

/// The most missing events in one report. A further audit finds the rest.
const MAX_MISSING: usize = 100_000;

/// The most logged events that are not matched yet: those published much later than they happened, and those
/// missing. At this bound the log is not read any further.
const MAX_UNMATCHED: usize = 500_000;

/// The broker's time of an event's message may differ from the log's time by this much.
const CLOCK_SKEW: time::Duration = time::Duration::minutes(5);

pub(crate) struct Comparison<'a> {
    pool: &'a PgPool,
    consumer: PullConsumer,
    messages: pull::Stream,
    /// Messages that the broker has not delivered yet.
    remaining: u64,
    /// The last event read from the log. `None`: all of it has been read.
    log: Option<(OffsetDateTime, Uuid)>,
    /// The publication time of the last message read from the stream.
    published: OffsetDateTime,
    logged: u64,
    /// Logged events that have not been found in the stream yet.
    unmatched_logged: HashMap<Uuid, OffsetDateTime>,
    /// Events of the stream that have not been found in the log yet.
    unmatched_streamed: HashMap<Uuid, OffsetDateTime>,
}

impl<'a> Comparison<'a> {
    pub(crate) async fn new(bus: &Bus, pool: &'a PgPool, since: OffsetDateTime) -> Result<Self, Error> {
        let start_time = since - CLOCK_SKEW;
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartTime { start_time },
            ack_policy: AckPolicy::None,
            filter_subject: format!("evt.{}.>", bus.service()),
            headers_only: true,
            inactive_threshold: std::time::Duration::from_secs(30),
            ..pull::Config::default()
        };
        let consumer: PullConsumer = bus
            .jetstream()
            .create_consumer_on_stream(config, streams::EVENTS)
            .await
            .map_err(Error::broker)?;
        Ok(Self {
            pool,
            remaining: consumer.cached_info().num_pending,
            messages: consumer.messages().await.map_err(Error::broker)?,
            consumer,
            log: Some((since, Uuid::nil())),
            published: start_time,
            logged: 0,
            unmatched_logged: HashMap::new(),
            unmatched_streamed: HashMap::new(),
        })
    }

    /// Reads from the source that is behind, until both have been read.
    pub(crate) async fn run(&mut self) -> Result<(), Error> {
        loop {
            let has_capacity = self.unmatched_logged.len() < MAX_UNMATCHED;
            match self.log {
                Some((at, _)) if has_capacity && (self.remaining == 0 || at <= self.published) => {
                    self.read_log(at).await?;
                }
                _ if self.remaining > 0 => self.read_stream().await?,
                _ => {
                    // Messages that the broker acknowledged before the log was read are in the stream by now.
                    self.remaining = self.consumer.info().await.map_err(Error::broker)?.num_pending;
                    if self.remaining == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The number of events read from the log.
    pub(crate) fn logged(&self) -> u64 {
        self.logged
    }

    /// The events that the stream lacks, in the order of the log.
    pub(crate) fn missing(self) -> Vec<(OffsetDateTime, Uuid)> {
        let mut missing: Vec<_> = self
            .unmatched_logged
            .into_iter()
            .map(|(id, at)| (at, id))
            .collect();
        missing.sort_unstable();
        missing.truncate(MAX_MISSING);
        missing
    }

    async fn read_log(&mut self, at: OffsetDateTime) -> Result<(), Error> {
        let id = self.log.map_or(Uuid::nil(), |(_, id)| id);
        let page = sqlx::query!(
            r#"select id as "id!", occurred_at as "occurred_at!" from events.log_page($1, $2, $3, $4)"#,
            at,
            id,
            OffsetDateTime::now_utc() + CLOCK_SKEW,
            PAGE,
        )
        .fetch_all(self.pool)
        .await?;
        self.log = page.last().map(|last| (last.occurred_at, last.id));
        self.logged += page.len() as u64;
        for event in page {
            if self.unmatched_streamed.remove(&event.id).is_none() {
                self.unmatched_logged.insert(event.id, event.occurred_at);
            }
        }
        // A message published long before the next logged events matches none of them: it is a duplicate or
        // foreign.
        if let Some((at, _)) = self.log {
            self.unmatched_streamed
                .retain(|_, published| *published >= at - CLOCK_SKEW);
        }
        Ok(())
    }

    async fn read_stream(&mut self) -> Result<(), Error> {
        let Some(message) = self.messages.next().await else {
            return Err(Error::Broker("the stream ended before it was read".into()));
        };
        let message = message.map_err(Error::broker)?;
        let info = message.info().map_err(Error::broker)?;
        self.remaining = info.pending;
        self.published = info.published;
        let id = message.headers.as_ref().and_then(|headers| headers.get("ce-id"));
        let id = id.and_then(|id| id.as_str().parse::<Uuid>().ok());
        if let Some(id) = id
            && self.unmatched_logged.remove(&id).is_none()
            && self.log.is_some()
        {
            self.unmatched_streamed.insert(id, self.published);
        }
        Ok(())
    }
}
