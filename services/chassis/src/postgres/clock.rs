//! The database's clock, for times that statements compare with `now()`. The clocks of processes may differ from
//! it, and from each other.

use std::sync::{Arc, PoisonError, RwLock};

use time::OffsetDateTime;
use tokio::time::Instant;

/// The time in PostgreSQL, read once a second. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<RwLock<Option<Reading>>>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    time: OffsetDateTime,
    sent: Instant,
}

impl Clock {
    /// The database's time. It may be ahead by at most the duration of the last query, so what is due in the
    /// database is due here. Before the first query it is the time of this process.
    pub fn now(&self) -> OffsetDateTime {
        let read = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        read.map_or_else(OffsetDateTime::now_utc, |read| read.time + read.sent.elapsed())
    }

    /// Records that PostgreSQL returned `time` to a query sent at `sent`.
    pub(super) fn set(&self, time: OffsetDateTime, sent: Instant) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Reading { time, sent });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_is_the_last_reading_plus_the_time_since_its_query() {
        let (clock, by_postgresql) = (Clock::default(), OffsetDateTime::UNIX_EPOCH);
        assert!(clock.now() > by_postgresql, "it was not read yet");
        let sent = Instant::now();
        tokio::time::advance(Duration::from_millis(300)).await;
        clock.clone().set(by_postgresql, sent);
        tokio::time::advance(Duration::from_millis(700)).await;
        assert_eq!(clock.now(), by_postgresql + Duration::from_secs(1));
    }
}
