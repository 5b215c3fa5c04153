//! Spawned work: named, supervised, waited for.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The background work of a process. Cheap to clone.
///
/// Nothing here is cancelled from outside: work watches [`Process::shutdown`](crate::Process) and ends by itself;
/// what has not ended within the drain's grace is dropped with the process.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Tasks {
    /// Work that belongs to the process stopped by `shutdown`.
    pub fn new(shutdown: CancellationToken) -> Tasks {
        Tasks {
            tracker: TaskTracker::new(),
            shutdown,
            failure: Arc::default(),
        }
    }

    /// Runs work that lasts as long as the process. If it ends unasked, with an error, by a panic, or just so, the
    /// process stops and exits with a failure.
    pub fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let tasks = self.clone();
        // No span: one that lasts as long as the process would swallow every trace that begins in it.
        let running = self.tracker.spawn(work);
        self.tracker.spawn(async move {
            let ended = match running.await {
                Ok(Ok(())) if tasks.shutdown.is_cancelled() => return,
                Ok(Ok(())) => "it ended unasked".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(error) => error.to_string(),
            };
            tracing::error!(
                task.name = name,
                error.message = ended,
                "a task has died: stopping"
            );
            tasks.fail(format!("task {name}: {ended}"));
        });
    }

    /// Runs one piece of work to its end, whoever stops waiting for its result; the drain waits for it.
    pub fn run<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(work.in_current_span())
    }

    /// How much is running.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// The first failure that stopped the process.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn fail(&self, reason: String) {
        // Only the first failure is the cause; the rest follow from it.
        let _ = self.failure.set(reason);
        self.shutdown.cancel();
    }

    /// Waits for all work to end, at most `grace`; false when some is left.
    pub(crate) async fn finished_within(&self, grace: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_dies_unasked_stops_the_process_with_its_reason() {
        let shutdown = CancellationToken::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("relay", async { anyhow::bail!("the stream is gone") });
        shutdown.cancelled().await;
        assert_eq!(tasks.failure(), Some("task relay: the stream is gone"));
    }

    #[tokio::test]
    async fn a_panic_counts_as_dying() {
        let shutdown = CancellationToken::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("relay", async { panic!("boom") });
        shutdown.cancelled().await;
        assert!(tasks.failure().unwrap().contains("panicked"));
    }

    #[tokio::test]
    async fn a_task_that_ends_when_asked_is_no_failure() {
        let shutdown = CancellationToken::new();
        let tasks = Tasks::new(shutdown.clone());
        let asked = shutdown.clone();
        tasks.spawn("relay", async move {
            asked.cancelled().await;
            Ok(())
        });
        shutdown.cancel();
        assert!(tasks.finished_within(Duration::from_secs(5)).await);
        assert_eq!(tasks.failure(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_rest_is_bounded() {
        let tasks = Tasks::new(CancellationToken::new());
        drop(tasks.run(std::future::pending::<()>()));
        assert!(!tasks.finished_within(Duration::from_secs(20)).await);
        assert_eq!(tasks.running(), 1);
    }
}
