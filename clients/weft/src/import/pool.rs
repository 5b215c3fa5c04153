//! Parallel work that keeps the file's order where it matters: jobs with the same key go to the same worker.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// The capacity of a worker's queue.
const QUEUE: usize = 8;

/// Why no more jobs were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    AtTheEnd,
    Interrupted,
    Halted,
}

impl StopReason {
    /// The text for the report; `None` at the end of the file.
    pub(crate) fn message(self) -> Option<String> {
        match self {
            StopReason::AtTheEnd => None,
            StopReason::Interrupted => Some("interrupted".to_owned()),
            StopReason::Halted => Some(
                "a service cannot be reached, does not take the token, or is not the one that was meant"
                    .to_owned(),
            ),
        }
    }
}

/// Processes jobs. `accept` is called in the jobs' order, `work` in parallel.
pub(crate) trait Worker: Send + Sync + 'static {
    type Job: Send + 'static;

    /// Jobs with the same key are processed in their order, jobs without a key in any order.
    fn key<'a>(&self, job: &'a Self::Job) -> Option<&'a str>;
    /// Called once for a job before it is queued for `work`.
    fn accept(&self, job: &Self::Job);
    fn work(&self, job: Self::Job) -> impl Future<Output = ()> + Send;
}

/// Processes jobs, at most `concurrency` at once, until there are no more, `halt` is cancelled, or Ctrl-C.
/// Accepted jobs are finished; a second Ctrl-C drops them.
pub(crate) async fn run<W: Worker>(
    worker: &Arc<W>,
    concurrency: u16,
    mut jobs: mpsc::Receiver<W::Job>,
    halt: &CancellationToken,
) -> std::io::Result<StopReason> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tasks = JoinSet::new();
    let queues: Vec<_> = (0..concurrency.max(1))
        .map(|_| start(worker, &mut tasks))
        .collect();
    let mut keyless = 0;
    let mut dispatched = async || {
        while let Some(job) = jobs.recv().await {
            let shard = worker.key(&job).map_or_else(
                || {
                    keyless += 1;
                    keyless
                },
                shard,
            );
            // A queue closes only if its worker panics; then its jobs are missing and the report does not balance.
            if let Ok(place) = queues[shard % queues.len()].reserve().await {
                worker.accept(&job);
                place.send(job);
            }
        }
    };
    let stop = tokio::select! {
        biased;
        () = halt.cancelled() => StopReason::Halted,
        _ = interrupt.recv() => {
            halt.cancel();
            eprintln!("finishing what is under way; Ctrl-C again to stop at once");
            StopReason::Interrupted
        }
        () = dispatched() => StopReason::AtTheEnd,
    };
    // The reader stops because its next send fails.
    drop(jobs);
    drop(queues);
    let finished = async { while tasks.join_next().await.is_some() {} };
    let stop = tokio::select! {
        // The last jobs may have halted the import.
        () = finished => if halt.is_cancelled() && stop == StopReason::AtTheEnd { StopReason::Halted } else { stop },
        _ = interrupt.recv() => StopReason::Interrupted,
    };
    tasks.shutdown().await;
    Ok(stop)
}

fn start<W: Worker>(worker: &Arc<W>, tasks: &mut JoinSet<()>) -> mpsc::Sender<W::Job> {
    let (sender, mut queue) = mpsc::channel(QUEUE);
    let worker = worker.clone();
    tasks.spawn(async move {
        while let Some(job) = queue.recv().await {
            worker.work(job).await;
        }
    });
    sender
}

fn shard(key: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(String, u32)>>);

    impl Worker for Log {
        type Job = (String, u32);

        fn key<'a>(&self, job: &'a Self::Job) -> Option<&'a str> {
            Some(&job.0)
        }

        fn accept(&self, _: &Self::Job) {}

        async fn work(&self, job: Self::Job) {
            tokio::task::yield_now().await;
            self.0.lock().unwrap().push(job);
        }
    }

    #[tokio::test]
    async fn jobs_of_one_key_keep_their_order() {
        let log = Arc::new(Log::default());
        let (sender, jobs) = mpsc::channel(4);
        let feeding = tokio::spawn(async move {
            for number in 0..100 {
                sender
                    .send((format!("customer {}", number % 7), number))
                    .await
                    .unwrap();
            }
        });
        let stop = run(&log, 4, jobs, &CancellationToken::new()).await.unwrap();
        feeding.await.unwrap();
        assert_eq!(stop, StopReason::AtTheEnd);
        let log = log.0.lock().unwrap();
        assert_eq!(log.len(), 100);
        for customer in 0..7 {
            let of_one = log
                .iter()
                .filter(|(key, _)| *key == format!("customer {customer}"));
            assert!(of_one.map(|(_, number)| number).is_sorted());
        }
    }

    #[tokio::test]
    async fn no_job_is_started_after_a_halt() {
        let (_sender, jobs) = mpsc::channel(1);
        let halt = CancellationToken::new();
        halt.cancel();
        let stop = run(&Arc::new(Log::default()), 2, jobs, &halt).await.unwrap();
        assert_eq!(stop, StopReason::Halted);
    }
}
