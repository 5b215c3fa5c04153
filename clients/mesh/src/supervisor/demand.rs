//! Calls that find no connection bring the next connection attempts forward, within bounds.
//!
//! gRPC's connection-backoff.md demands that attempts are dispersed and not much more frequent than the backoff: a
//! recovering server must not be contacted by all its clients at once, however many calls they have. So the
//! shortened waits have jitter and grow with each failed attempt, and a channel tries one address at a time.

use std::time::Duration;

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::sleep,
};

use crate::retry::backoff::jitter;

/// The first minimum wait after a failed attempt, before jitter. Later ones grow up to `MAX_WAIT`.
const INITIAL_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_secs(5);
const FACTOR: f64 = 1.6;

/// The demand of a channel's calls for a connection.
#[derive(Debug)]
pub(crate) struct Demand {
    raised: Notify,
    /// Permits one early attempt at a time.
    attempt: Semaphore,
}

impl Default for Demand {
    fn default() -> Demand {
        Demand {
            raised: Notify::new(),
            attempt: Semaphore::new(1),
        }
    }
}

impl Demand {
    /// Requests an earlier attempt, because a call has found no connection.
    pub(crate) fn raise(&self) {
        self.raised.notify_waiters();
    }

    /// Waits for `backoff`, or until a call requests an attempt, but at least for `min_wait`. Returns a permit if
    /// a call requested the attempt; the caller holds it during the attempt.
    pub(super) async fn wait(
        &self,
        backoff: Duration,
        min_wait: &mut MinWait,
    ) -> Option<SemaphorePermit<'_>> {
        let requested = async {
            let mut raised = std::pin::pin!(self.raised.notified());
            // Requests during the minimum wait count as well.
            raised.as_mut().enable();
            sleep(jitter(min_wait.next.min(backoff))).await;
            raised.await;
            self.attempt.acquire().await.ok()
        };
        tokio::select! {
            () = sleep(backoff) => None,
            permit = requested => {
                min_wait.next = min_wait.next.mul_f64(FACTOR).min(MAX_WAIT);
                permit
            }
        }
    }
}

/// The minimum wait of one address; it grows until the address is connected.
#[derive(Debug)]
pub(super) struct MinWait {
    next: Duration,
}

impl MinWait {
    pub(super) fn new() -> MinWait {
        MinWait { next: INITIAL_WAIT }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::time::Instant;

    use super::*;

    /// Attempts of `addresses` that always fail, while calls request one every 10 ms. Returns their times by
    /// address.
    async fn attempts(addresses: usize, lasting: Duration) -> Vec<Vec<Duration>> {
        let demand = Arc::new(Demand::default());
        let made = Arc::new(Mutex::new(vec![Vec::new(); addresses]));
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for address in 0..addresses {
            let (demand, made) = (Arc::clone(&demand), Arc::clone(&made));
            tasks.spawn(async move {
                let mut min_wait = MinWait::new();
                loop {
                    let permit = demand.wait(Duration::from_secs(120), &mut min_wait).await;
                    made.lock().unwrap()[address].push(began.elapsed());
                    sleep(Duration::from_millis(1)).await;
                    drop(permit);
                }
            });
        }
        while began.elapsed() < lasting {
            demand.raise();
            sleep(Duration::from_millis(10)).await;
        }
        drop(tasks);
        let made = made.lock().unwrap();
        made.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_become_rare_and_disperse_however_many_calls_request_them() {
        let made = attempts(3, Duration::from_secs(600)).await;
        for address in &made {
            assert!((100..160).contains(&address.len()), "{} in 600 s", address.len());
            assert!(address[0] < Duration::from_secs(1), "the first comes soon");
        }
        let late = |address: &Vec<Duration>| {
            let gaps = address
                .windows(2)
                .skip(8)
                .map(|pair| (pair[1] - pair[0]).as_millis());
            gaps.collect::<std::collections::BTreeSet<_>>()
        };
        assert!(late(&made[0]).len() > 20, "waits differ: {:?}", late(&made[0]));
        assert!(late(&made[0]).iter().all(|gap| *gap >= 4_000));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_request_the_backoff_applies() {
        let demand = Demand::default();
        let began = Instant::now();
        assert!(
            demand
                .wait(Duration::from_secs(20), &mut MinWait::new())
                .await
                .is_none()
        );
        assert_eq!(began.elapsed(), Duration::from_secs(20));
    }
}
