//! Batches on their way to the broker, several at a time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sqlx::PgPool;
use tokio::task::JoinSet;

use super::{Pending, publish};
use crate::{Bus, Error};

/// Batches on their way at once. Each has lanes of its own, so that a lane's next batch is sent only once the fate of
/// its previous one is known.
const GROUPS: usize = 4;

const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Which groups of lanes have a batch on its way.
pub(super) struct Flights {
    groups: [Group; GROUPS],
    running: JoinSet<Landed>,
}

#[derive(Default)]
struct Group {
    flying: bool,
    backoff: Backoff,
}

/// The wait after failures: doubled with each, and bounded.
#[derive(Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

/// What became of a batch.
struct Landed {
    groups: BTreeSet<usize>,
    published: usize,
    failure: Option<Error>,
}

impl Flights {
    pub(super) fn new() -> Self {
        Self {
            groups: Default::default(),
            running: JoinSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Of these lanes those that wait for nothing, and how many batches they make.
    pub(super) fn free(&self, lanes: &[i16]) -> (Vec<i16>, usize) {
        let is_free = |lane: &i16| {
            let group = &self.groups[group(*lane)];
            !group.flying && group.backoff.is_over()
        };
        let free: Vec<_> = lanes.iter().copied().filter(is_free).collect();
        let batches = free.iter().map(|lane| group(*lane)).collect::<BTreeSet<_>>();
        (free, batches.len())
    }

    /// Sends rows of free lanes, which are in order: all in one batch if they fit, else a batch for each group. True:
    /// a group has more rows than fit.
    pub(super) fn launch(&mut self, bus: &Bus, pool: &PgPool, rows: Vec<Pending>, batch: usize) -> bool {
        if rows.len() <= batch {
            self.fly(bus, pool, rows);
            return false;
        }
        let mut grouped: [Vec<Pending>; GROUPS] = Default::default();
        for row in rows {
            grouped[group(row.lane)].push(row);
        }
        let mut more = false;
        for mut rows in grouped {
            more |= rows.len() > batch;
            rows.truncate(batch);
            self.fly(bus, pool, rows);
        }
        more
    }

    fn fly(&mut self, bus: &Bus, pool: &PgPool, rows: Vec<Pending>) {
        if rows.is_empty() {
            return;
        }
        let groups: BTreeSet<_> = rows.iter().map(|row| group(row.lane)).collect();
        for group in &groups {
            self.groups[*group].flying = true;
        }
        let (bus, pool) = (bus.clone(), pool.clone());
        self.running.spawn(async move {
            let (published, mut failure) = publish::all(&bus, &rows).await;
            if let Err(error) = acknowledge(&pool, &published).await {
                failure.get_or_insert(error.into());
            }
            Landed {
                groups,
                published: published.len(),
                failure,
            }
        });
    }

    /// Waits until a batch has landed, and returns how many of its events are published. For ever when none is on its
    /// way.
    ///
    /// # Errors
    /// When what became of a batch cannot be known any more.
    pub(super) async fn landed(&mut self) -> Result<usize, Error> {
        let landed = match self.running.join_next().await {
            Some(Ok(landed)) => landed,
            Some(Err(error)) => return Err(Error::Broker(format!("a batch was lost: {error}"))),
            None => std::future::pending().await,
        };
        let mut failures = 0;
        for group in landed.groups {
            let group = &mut self.groups[group];
            group.flying = false;
            match landed.failure {
                Some(_) => group.backoff.fail(),
                None => group.backoff = Backoff::default(),
            }
            failures = failures.max(group.backoff.failures);
        }
        if let Some(error) = landed.failure {
            tracing::warn!(error = %error, failures, "events cannot be published; they will be tried again");
        }
        Ok(landed.published)
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

fn group(lane: i16) -> usize {
    usize::from(lane.unsigned_abs()) % GROUPS
}

/// The broker has these rows.
async fn acknowledge(pool: &PgPool, published: &[i64]) -> Result<(), sqlx::Error> {
    if published.is_empty() {
        return Ok(());
    }
    sqlx::query!("select events.acknowledged($1)", published)
        .execute(pool)
        .await?;
    Ok(())
}
