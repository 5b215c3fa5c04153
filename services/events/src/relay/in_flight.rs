//! Batches that are being published, several at a time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sqlx::PgPool;
use tokio::task::JoinSet;

use super::{
    Pending,
    publish::{self, Refused},
};
use crate::{Bus, Error};

/// The most batches in flight. Each has lanes of its own, so that a lane's next batch is sent only once the
/// outcome of its previous one is known.
const GROUPS: usize = 4;

/// The most held messages. More than that are not the fault of single messages, so publishing stops.
const MAX_HELD: i32 = 1_000;

const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The groups of lanes, with whether a batch of each is in flight.
pub(super) struct InFlight {
    groups: [Group; GROUPS],
    running: JoinSet<BatchResult>,
}

#[derive(Default)]
struct Group {
    in_flight: bool,
    backoff: Backoff,
}

/// The wait after failures: doubled with each, and bounded.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

/// The result of a batch.
struct BatchResult {
    groups: BTreeSet<usize>,
    published: usize,
    failure: Option<Error>,
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self {
            groups: Default::default(),
            running: JoinSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The given lanes that wait for nothing, and how many batches they make.
    pub(super) fn idle_lanes(&self, lanes: &[i16]) -> (Vec<i16>, usize) {
        let is_idle = |lane: &i16| {
            let group = &self.groups[group_index(*lane)];
            !group.in_flight && group.backoff.is_over()
        };
        let idle: Vec<_> = lanes.iter().copied().filter(is_idle).collect();
        let batches = idle
            .iter()
            .map(|lane| group_index(*lane))
            .collect::<BTreeSet<_>>();
        (idle, batches.len())
    }

    /// Publishes rows of idle lanes, which are in order: in one batch if they fit, else in a batch for each group.
    /// True: a group has more rows than fit.
    pub(super) fn publish(&mut self, bus: &Bus, pool: &PgPool, rows: Vec<Pending>, batch: usize) -> bool {
        if rows.len() <= batch {
            self.send(bus, pool, rows);
            return false;
        }
        let mut grouped: [Vec<Pending>; GROUPS] = Default::default();
        for row in rows {
            grouped[group_index(row.lane)].push(row);
        }
        let mut more = false;
        for mut rows in grouped {
            more |= rows.len() > batch;
            rows.truncate(batch);
            self.send(bus, pool, rows);
        }
        more
    }

    fn send(&mut self, bus: &Bus, pool: &PgPool, rows: Vec<Pending>) {
        if rows.is_empty() {
            return;
        }
        let groups: BTreeSet<_> = rows.iter().map(|row| group_index(row.lane)).collect();
        for group in &groups {
            self.groups[*group].in_flight = true;
        }
        let (bus, pool) = (bus.clone(), pool.clone());
        self.running.spawn(async move {
            let summary = publish::publish_all(&bus, &rows).await;
            let mut failure = summary.failure;
            if let Err(error) = acknowledge(&pool, &summary.acknowledged).await {
                failure.get_or_insert(error.into());
            }
            if let Err(error) = hold(&bus, &pool, &rows, &summary.refused).await {
                failure.get_or_insert(error);
            }
            BatchResult {
                groups,
                published: summary.acknowledged.len(),
                failure,
            }
        });
    }

    /// Waits until a batch is finished, and returns how many of its messages are published. Never returns when
    /// none is in flight.
    ///
    /// # Errors
    /// When the result of a batch is lost.
    pub(super) async fn next_result(&mut self) -> Result<usize, Error> {
        let result = match self.running.join_next().await {
            Some(Ok(result)) => result,
            Some(Err(error)) => return Err(Error::Broker(format!("a batch was lost: {error}"))),
            None => std::future::pending().await,
        };
        let mut failures = 0;
        for group in result.groups {
            let group = &mut self.groups[group];
            group.in_flight = false;
            match result.failure {
                Some(_) => group.backoff.fail(),
                None => group.backoff = Backoff::default(),
            }
            failures = failures.max(group.backoff.failures);
        }
        if let Some(error) = result.failure {
            tracing::warn!(error = %error, failures, "events cannot be published; they are retried");
        }
        Ok(result.published)
    }
}

impl Backoff {
    pub(super) fn fail(&mut self) {
        self.failures += 1;
        let wait = Duration::from_millis(50) * (1 << self.failures.min(7));
        self.until = Some(Instant::now() + wait.min(MAX_BACKOFF));
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }
}

fn group_index(lane: i16) -> usize {
    usize::from(lane.unsigned_abs()) % GROUPS
}

/// Removes rows that the broker has stored.
async fn acknowledge(pool: &PgPool, published: &[i64]) -> Result<(), sqlx::Error> {
    if published.is_empty() {
        return Ok(());
    }
    sqlx::query!("select events.acknowledged($1)", published)
        .execute(pool)
        .await?;
    Ok(())
}

/// Holds rows that the broker refuses for a reason of their own, such as size or permissions. The others are
/// published.
async fn hold(bus: &Bus, pool: &PgPool, rows: &[Pending], refused: &[Refused]) -> Result<(), Error> {
    if refused.is_empty() {
        return Ok(());
    }
    let settings = &bus.settings().relay;
    let positions: Vec<_> = refused.iter().map(|row| row.position).collect();
    let codes: Vec<_> = refused.iter().map(|row| row.code.as_str().to_owned()).collect();
    let reasons: Vec<_> = refused.iter().map(|row| row.reason.clone()).collect();
    let sizes: Vec<_> = refused.iter().map(|row| row.size as i64).collect();
    let held = sqlx::query_scalar!(
        r#"select events.hold($1, $2, $3, $4, $5, $6) as "position!""#,
        &positions,
        &codes,
        &reasons,
        &sizes,
        Duration::from_millis(settings.held_retry_ms).as_secs_f64(),
        MAX_HELD,
    )
    .fetch_all(pool)
    .await?;
    for row in refused {
        let first = rows
            .iter()
            .find(|sent| sent.id == row.position && sent.attempts == 0);
        if let Some(sent) = first {
            tracing::error!(
                messaging.message.id = sent.message_id,
                messaging.destination.name = sent.subject,
                position = row.position,
                error.code = row.code.as_str(),
                error = row.reason,
                "the broker refuses a message; it is held, and the others are published"
            );
        }
    }
    if held.len() < refused.len() {
        return Err(Error::Broker(format!(
            "it refuses more than {MAX_HELD} messages, the last one because {}",
            refused.last().map_or("", |row| row.reason.as_str())
        )));
    }
    Ok(())
}
