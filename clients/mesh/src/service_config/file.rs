//! A file with a service config, which is read again when it changes.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

use crate::Error;

/// Interval of the check. A mounted ConfigMap takes longer to arrive.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The content of the file at the last read.
pub(crate) struct File {
    path: PathBuf,
    content: String,
    modified: Option<SystemTime>,
    /// The last failure that was logged.
    failure: Option<String>,
}

impl File {
    pub(crate) fn read(path: &Path) -> Result<File, Error> {
        // The modification time first, so that a change in between is noticed at the next check.
        let modified = std::fs::metadata(path).and_then(|file| file.modified()).ok();
        let content = std::fs::read_to_string(path).map_err(|source| Error::ServiceConfigFile {
            file: path.to_owned(),
            source,
        })?;
        Ok(File {
            path: path.to_owned(),
            content,
            modified,
            failure: None,
        })
    }

    pub(crate) fn content(&self) -> &str {
        &self.content
    }

    /// Applies each change of the file, until `apply` returns `None`.
    pub(crate) async fn watch(mut self, apply: impl Fn(&str) -> Option<Result<(), Error>>) {
        loop {
            sleep(POLL_INTERVAL).await;
            // Reading the modification time is cheap; the content is read only when that has changed.
            let file = tokio::fs::metadata(&self.path).await;
            let modified = file.and_then(|file| file.modified());
            if modified.as_ref().ok() == self.modified.as_ref() {
                continue;
            }
            self.modified = modified.ok();
            match tokio::fs::read_to_string(&self.path).await {
                Ok(content) if content == self.content => {}
                Ok(content) => match apply(&content) {
                    Some(Ok(())) => {
                        tracing::info!(file.path = %self.path.display(), "the service config has changed");
                        self.content = content;
                        self.failure = None;
                    }
                    Some(Err(error)) => self.log_unusable(&error),
                    None => return,
                },
                Err(error) => self.log_unusable(&error),
            }
        }
    }

    /// Each failure is logged once, and the file is read again at the next check: its permissions may change without its
    /// modification time, and so may the rest of a file that is being written.
    fn log_unusable(&mut self, error: &dyn std::error::Error) {
        self.modified = None;
        let failure = error.to_string();
        if self.failure.as_ref() == Some(&failure) {
            return;
        }
        tracing::error!(
            file.path = %self.path.display(),
            error.message = failure,
            "the service config cannot be used: the last good one stays"
        );
        self.failure = Some(failure);
    }
}

#[cfg(test)]
mod tests;
