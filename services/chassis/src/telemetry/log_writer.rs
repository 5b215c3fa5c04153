//! Writes log lines from a separate thread, so that a stalled reader of standard error does not block calls.
//!
//! Up to [`BUFFERED_LINES`] lines are buffered. Further lines are dropped and counted: in the metric
//! `weft.log.dropped`, and in a warning in every [`REPORT_INTERVAL`] with dropped lines.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Capacity of the buffer, in lines.
const BUFFERED_LINES: usize = 8_192;
/// The time between two warnings about dropped lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// How long the exit of the process waits for the remaining lines to be written. The writer's own limits, 100 ms
/// to enqueue the end and 1 s to write what precedes it, apply first unless standard output is blocked too.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The destination of log lines. Dropping it writes the remaining lines, for at most two seconds.
pub(crate) struct LogWriter {
    pub(super) lines: NonBlocking,
    pub(super) dropped: DroppedLines,
    guard: Option<WorkerGuard>,
}

/// Counts the lines that were not written.
#[derive(Clone, Debug)]
pub(crate) struct DroppedLines {
    overflow: ErrorCounter,
    unwritten: Arc<AtomicU64>,
}

impl LogWriter {
    /// Writes to standard error.
    pub(crate) fn stderr() -> LogWriter {
        LogWriter::new(io::stderr())
    }

    /// The count of lines that were not written.
    pub(crate) fn dropped_lines(&self) -> &DroppedLines {
        &self.dropped
    }

    fn new(output: impl Write + Send + 'static) -> LogWriter {
        let unwritten = Arc::new(AtomicU64::new(0));
        let output = Output {
            output,
            unwritten: unwritten.clone(),
        };
        let (lines, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(BUFFERED_LINES)
            .thread_name("log-writer")
            .finish(output);
        let dropped = DroppedLines {
            overflow: lines.error_counter(),
            unwritten,
        };
        LogWriter {
            lines,
            dropped,
            guard: Some(guard),
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        // The guard prints to standard output when the queue stays full, which may block as well.
        let (flushed, done) = mpsc::channel();
        std::thread::spawn(move || {
            drop(guard);
            let _ = flushed.send(());
        });
        let _ = done.recv_timeout(FLUSH_TIMEOUT);
    }
}

impl DroppedLines {
    /// Dropped lines since the process started.
    pub(crate) fn count(&self) -> u64 {
        self.overflow.dropped_lines() as u64 + self.unwritten.load(Ordering::Relaxed)
    }

    /// Exports the count as a metric.
    pub(super) fn register_metric(&self) {
        let dropped = self.clone();
        opentelemetry::global::meter("weft")
            .u64_observable_counter("weft.log.dropped")
            .with_unit("{line}")
            .with_description(
                "Log lines that were not written because standard error was not read fast enough",
            )
            .with_callback(move |observer| observer.observe(dropped.count(), &[]))
            .build();
    }

    /// Warns about dropped lines until `shutdown`. If the warning itself is dropped, another one follows.
    pub(crate) async fn report(self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.cancelled() => {
                    self.warn(&mut reported);
                    return;
                }
            }
            self.warn(&mut reported);
        }
    }

    fn warn(&self, reported: &mut u64) {
        let dropped = self.count();
        if dropped > *reported {
            *reported = dropped;
            tracing::warn!(log.dropped = dropped, "log lines dropped");
        }
    }
}

/// Counts lines that could not be written, because the reader is gone.
struct Output<W> {
    output: W,
    unwritten: Arc<AtomicU64>,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.output.write_all(line).inspect_err(|_| {
            self.unwritten.fetch_add(1, Ordering::Relaxed);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{PipeReader, Read as _, pipe},
        panic::{AssertUnwindSafe, catch_unwind},
    };

    use super::*;

    fn piped() -> (LogWriter, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        (LogWriter::new(writer), reader)
    }

    #[test]
    fn lines_beyond_the_buffer_are_counted_and_do_not_block() {
        let (writer, reader) = piped();
        // A pipe takes 64 KiB.
        let line = [b'x'; 1_024];
        for _ in 0..BUFFERED_LINES + 1_000 {
            writer.lines.clone().write_all(&line).unwrap();
        }
        assert!(writer.dropped.count() > 0);
        // No reader: dropping must not block for ever.
        drop(writer);
        drop(reader);
    }

    #[test]
    fn the_last_lines_are_written_when_the_process_ends_by_a_panic() {
        let (writer, mut reader) = piped();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            for n in 0..5_000 {
                let line = format!("line {n}\n");
                writer.lines.clone().write_all(line.as_bytes()).unwrap();
            }
            panic!("at the end");
        }));
        assert!(panicked.is_err());
        assert_eq!(reading.join().unwrap().lines().last(), Some("line 4999"));
    }

    #[test]
    fn lines_without_a_reader_are_counted() {
        let (writer, reader) = piped();
        drop(reader);
        writer.lines.clone().write_all(b"lost\n").unwrap();
        let dropped = writer.dropped.clone();
        drop(writer);
        assert_eq!(dropped.count(), 1);
    }
}
