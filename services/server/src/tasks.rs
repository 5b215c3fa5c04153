//! Spawned tasks: named, supervised, and awaited by the drain.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// The background tasks of a process. Cheap to clone.
///
/// Tasks are not cancelled from outside: they watch [`Lifecycle::shutdown`](crate::Lifecycle::shutdown) and end by themselves.
/// Tasks that have not ended within the drain's grace period are dropped with the process.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Tasks {
    /// Tasks of the process that `shutdown` stops.
    pub fn new(shutdown: CancellationToken) -> Tasks {
        Tasks {
            tracker: TaskTracker::new(),
            shutdown,
            failure: Arc::default(),
        }
    }

    /// Cancelled when the process must stop.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Runs a task for the lifetime of the process. If it ends before the shutdown, with an error, a panic or
    /// success, the process stops with a failure.
    pub fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let tasks = self.clone();
        // No span: a span that lasts as long as the process would become the parent of every trace that starts in
        // it.
        let running = self.tracker.spawn(work);
        self.tracker.spawn(async move {
            let ended = match running.await {
                Ok(Ok(())) if tasks.shutdown.is_cancelled() => return,
                Ok(Ok(())) => "it ended before the shutdown".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(error) => error.to_string(),
            };
            tracing::error!(
                task.name = name,
                error.message = ended,
                "task ended; stopping the process"
            );
            tasks.fail(format!("task {name}: {ended}"));
        });
    }

    /// Runs a task to its end, even if the caller stops waiting for its result; the drain waits for it.
    pub fn run<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(work.in_current_span())
    }

    /// The number of running tasks.
    pub fn running(&self) -> usize {
        self.tracker.len()
    }

    /// The first failure that stopped the process.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Stops the process with a failure. Only the first reason is kept.
    pub fn fail(&self, reason: String) {
        // Only the first failure is the cause; the rest follow from it.
        let _ = self.failure.set(reason);
        self.shutdown.cancel();
    }

    /// Waits until all tasks have ended, for at most `grace`; false when some are left.
    pub async fn finished_within(&self, grace: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_stops_the_process_with_its_reason() {
        let shutdown = CancellationToken::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("relay", async { anyhow::bail!("the stream is gone") });
        shutdown.cancelled().await;
        assert_eq!(tasks.failure(), Some("task relay: the stream is gone"));
    }

    #[tokio::test]
    async fn a_panic_stops_the_process() {
        let shutdown = CancellationToken::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("relay", async { panic!("boom") });
        shutdown.cancelled().await;
        assert!(tasks.failure().unwrap().contains("panicked"));
    }

    #[tokio::test]
    async fn a_task_that_ends_at_the_shutdown_is_no_failure() {
        let shutdown = CancellationToken::new();
        let tasks = Tasks::new(shutdown.clone());
        let stopping = shutdown.clone();
        tasks.spawn("relay", async move {
            stopping.cancelled().await;
            Ok(())
        });
        shutdown.cancel();
        assert!(tasks.finished_within(Duration::from_secs(5)).await);
        assert_eq!(tasks.failure(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_tasks_is_bounded() {
        let tasks = Tasks::new(CancellationToken::new());
        drop(tasks.run(std::future::pending::<()>()));
        assert!(!tasks.finished_within(Duration::from_secs(20)).await);
        assert_eq!(tasks.running(), 1);
    }
}
