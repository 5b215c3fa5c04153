//! The progress bar of an import.

use std::{
    io::IsTerminal as _,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over the file's bytes on standard error; hidden if that is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    count: AtomicU64,
}

impl Progress {
    pub(crate) fn new(path: &Path) -> Progress {
        let bytes = std::fs::metadata(path)
            .map(|metadata| metadata.len())
            .unwrap_or(0);
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(bytes)
        } else {
            ProgressBar::hidden()
        };
        let template = "{bar:32} {percent:>3} %  {msg}  {elapsed} (about {eta} left)";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress {
            bar,
            count: AtomicU64::new(0),
        }
    }

    /// Counts one more document, which ends at byte `position` of the file.
    pub(crate) fn advance(&self, position: u64, noun: &str) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.bar.set_position(position);
        self.bar.set_message(format!("{count} {noun}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
