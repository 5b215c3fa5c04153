//! The board: what tests have told the process to do, and what it has seen.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::Context;
use tests::hop::{Orders, Tally};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};

/// So many of the latest calls are remembered one by one.
const LATEST: usize = 1_000;

#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    orders: Orders,
    places: Option<Arc<Semaphore>>,
    tally: Tally,
}

impl Board {
    /// Reads orders and shows the tally, one connection after the other.
    pub(crate) async fn follow(self, listener: TcpListener) {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                // A test that goes away in the middle of a word has ended.
                let _ = self.converse(stream).await;
            }
        }
    }

    async fn converse(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if let Some(orders) = serde_json::from_str::<Option<Orders>>(&line)? {
            let mut state = self.state();
            state.orders = orders;
            state.places = (orders.places > 0).then(|| Arc::new(Semaphore::new(orders.places)));
        }
        let mut answer = serde_json::to_vec(&self.state().tally)?;
        answer.push(b'\n');
        stream.write_all(&answer).await
    }

    pub(crate) fn orders(&self) -> (Orders, Option<Arc<Semaphore>>) {
        let state = self.state();
        (state.orders, state.places.clone())
    }

    /// Notes that a call is worked on from now.
    pub(crate) fn begin(&self, context: &Context) -> Work {
        let tally = &mut self.state().tally;
        tally.begun += 1;
        tally.repeated += u64::from(context.serving_retry());
        if let Some(left) = context.remaining() {
            note(&mut tally.left_us, left.as_micros() as u64);
        }
        Work {
            board: self.clone(),
            deadline: context.deadline(),
            finished: false,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call's work; dropped unfinished, it was stopped.
pub(crate) struct Work {
    board: Board,
    deadline: Option<Instant>,
    finished: bool,
}

impl Work {
    /// It was worked on for so long.
    pub(crate) fn finish(mut self, worked: Duration) {
        self.finished = true;
        let tally = &mut self.board.state().tally;
        tally.finished += 1;
        tally.worked_us += worked.as_micros() as u64;
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let now = Instant::now();
        let tally = &mut self.board.state().tally;
        tally.stopped += 1;
        if let Some(deadline) = self.deadline {
            let late = now.saturating_duration_since(deadline).as_micros() as i64;
            let early = deadline.saturating_duration_since(now).as_micros() as i64;
            note(&mut tally.late_us, late - early);
        }
    }
}

fn note<T>(latest: &mut Vec<T>, value: T) {
    if latest.len() == LATEST {
        latest.remove(0);
    }
    latest.push(value);
}
