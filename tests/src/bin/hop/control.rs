//! Control port: sets the behaviour of the handlers and reports their statistics.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::Context;
use tests::hop_service::{Behavior, Stats};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};

/// Number of latest calls for which individual values are kept.
const LATEST: usize = 1_000;

#[derive(Clone, Default)]
pub(crate) struct Control(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    behavior: Behavior,
    slots: Option<Arc<Semaphore>>,
    stats: Stats,
}

impl Control {
    /// Accepts behaviours and returns the statistics, one connection at a time.
    pub(crate) async fn serve(self, listener: TcpListener) {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                // A test that disconnects in the middle of a message has ended.
                let _ = self.handle(stream).await;
            }
        }
    }

    async fn handle(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if let Some(behavior) = serde_json::from_str::<Option<Behavior>>(&line)? {
            let mut state = self.state();
            state.behavior = behavior;
            state.slots =
                (behavior.max_concurrent > 0).then(|| Arc::new(Semaphore::new(behavior.max_concurrent)));
        }
        let mut answer = serde_json::to_vec(&self.state().stats)?;
        answer.push(b'\n');
        stream.write_all(&answer).await
    }

    pub(crate) fn behavior(&self) -> (Behavior, Option<Arc<Semaphore>>) {
        let state = self.state();
        (state.behavior, state.slots.clone())
    }

    /// Records the start of a call's work.
    pub(crate) fn begin(&self, context: &Context) -> Work {
        let stats = &mut self.state().stats;
        stats.started += 1;
        stats.retried += u64::from(context.serving_retry());
        if let Some(left) = context.remaining() {
            push_latest(&mut stats.remaining_us, left.as_micros() as u64);
        }
        Work {
            control: self.clone(),
            deadline: context.deadline(),
            finished: false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The work of one call. Dropping it unfinished counts it as cancelled.
pub(crate) struct Work {
    control: Control,
    deadline: Option<Instant>,
    finished: bool,
}

impl Work {
    /// Records the end of the work and its duration.
    pub(crate) fn finish(mut self, worked: Duration) {
        self.finished = true;
        let stats = &mut self.control.state().stats;
        stats.finished += 1;
        stats.worked_us += worked.as_micros() as u64;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let now = Instant::now();
        let stats = &mut self.control.state().stats;
        stats.cancelled += 1;
        if let Some(deadline) = self.deadline {
            let late = now.saturating_duration_since(deadline).as_micros() as i64;
            let early = deadline.saturating_duration_since(now).as_micros() as i64;
            push_latest(&mut stats.late_us, late - early);
        }
    }
}

fn push_latest<T>(latest: &mut Vec<T>, value: T) {
    if latest.len() == LATEST {
        latest.remove(0);
    }
    latest.push(value);
}
