//! Measures how long a connection has had no calls.

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
pub(super) struct IdleTimer {
    open_calls: AtomicUsize,
    idle_since: Mutex<Instant>,
}

/// A call, until its response ends or is dropped.
#[derive(Debug)]
pub(super) struct OpenCall(Arc<IdleTimer>);

impl IdleTimer {
    pub(super) fn new() -> Arc<IdleTimer> {
        Arc::new(IdleTimer {
            open_calls: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn start_call(self: &Arc<IdleTimer>) -> OpenCall {
        self.open_calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(Arc::clone(self))
    }

    /// Whether no call is open.
    pub(super) fn is_idle(&self) -> bool {
        self.open_calls.load(Ordering::Relaxed) == 0
    }

    /// Waits until no call has been open for `limit`.
    pub(super) async fn wait_idle_for(&self, limit: Duration) {
        loop {
            let idle = if self.is_idle() {
                self.idle_since().elapsed()
            } else {
                Duration::ZERO
            };
            if idle >= limit {
                return;
            }
            sleep(limit - idle).await;
        }
    }

    fn idle_since(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        *self.0.idle_since() = Instant::now();
        self.0.open_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let (timer, began) = (IdleTimer::new(), Instant::now());
        let (first, second) = (timer.start_call(), timer.start_call());
        let limit = Duration::from_secs(10);
        let ends = async {
            sleep(Duration::from_secs(15)).await;
            drop(first);
            sleep(Duration::from_secs(12)).await;
            drop(second);
        };
        tokio::join!(timer.wait_idle_for(limit), ends);
        assert_eq!(began.elapsed().as_secs(), 15 + 12 + 10);
    }
}
