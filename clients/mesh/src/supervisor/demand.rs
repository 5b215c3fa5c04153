//! Calls that find nothing connected bring the next attempts to connect forward, within bounds.
//!
//! gRPC's connection-backoff.md asks that attempts disperse and do not come much more often than the backoff says: a
//! server that is just coming back must not be met by all its clients at once, however many calls they have. So the
//! brought-forward min_wait are spread, grow with each attempt in vain, and one address of a channel is tried at a time.

use std::time::Duration;

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::sleep,
};

use crate::retry::backoff::jitter;

/// The first wait after a failed attempt, before jitter. Those that follow are longer, up to `MAX_WAIT`.
const INITIAL_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_secs(5);
const FACTOR: f64 = 1.6;

/// The wish of a channel's calls for a connection.
#[derive(Debug)]
pub(crate) struct Demand {
    raised: Notify,
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
    /// A call has found nothing connected.
    pub(crate) fn raise(&self) {
        self.raised.notify_waiters();
    }

    /// MinWait for `backoff`, or for a call to ask, but no less than `min_wait` says. The attempt that a call has asked for
    /// is made while the permit is held.
    pub(super) async fn wait(
        &self,
        backoff: Duration,
        min_wait: &mut MinWait,
    ) -> Option<SemaphorePermit<'_>> {
        let requested = async {
            let mut raised = std::pin::pin!(self.raised.notified());
            // Calls that ask during the least wait count as well.
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

/// The least min_wait of one address since it was last connected.
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

    /// Attempts of `addresses` that always fail, while a call asks every 10 ms. By address, when each was made.
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
    async fn however_many_calls_ask_attempts_grow_rare_and_disperse() {
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
        assert!(
            late(&made[0]).len() > 20,
            "no two min_wait are alike: {:?}",
            late(&made[0])
        );
        assert!(late(&made[0]).iter().all(|gap| *gap >= 4_000));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_asks_and_the_backoff_holds() {
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
