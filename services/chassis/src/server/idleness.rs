//! How long a connection has had no call.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct Idleness {
    open: AtomicUsize,
    since: Mutex<Instant>,
}

/// A call, until its answer has ended or nobody waits for the rest.
#[derive(Debug)]
pub(super) struct Open(Arc<Idleness>);

impl Idleness {
    pub(super) fn new() -> Arc<Idleness> {
        Arc::new(Idleness {
            open: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn begin(self: &Arc<Idleness>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Whether no call is open.
    pub(super) fn now(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Waits until no call has been open for so long.
    pub(super) async fn lasts(&self, limit: Duration) {
        loop {
            let so_far = if self.now() {
                self.since().elapsed()
            } else {
                Duration::ZERO
            };
            if so_far >= limit {
                return;
            }
            sleep(limit - so_far).await;
        }
    }

    fn since(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self.0.since() = Instant::now();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let (idleness, began) = (Idleness::new(), Instant::now());
        let (first, second) = (idleness.begin(), idleness.begin());
        let limit = Duration::from_secs(10);
        let ends = async {
            sleep(Duration::from_secs(15)).await;
            drop(first);
            sleep(Duration::from_secs(12)).await;
            drop(second);
        };
        tokio::join!(idleness.lasts(limit), ends);
        assert_eq!(began.elapsed().as_secs(), 15 + 12 + 10);
    }
}
