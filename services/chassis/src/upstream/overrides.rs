//! Watches the file with an upstream's service config.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use super::Error;

/// Interval of the check. A mounted ConfigMap takes longer to arrive.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The content of the file at the last read.
pub(super) struct File {
    path: PathBuf,
    content: String,
    modified: Option<SystemTime>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<File, Error> {
        let (content, modified) = load(path).map_err(|source| Error::Read {
            file: path.to_owned(),
            source,
        })?;
        Ok(File {
            path: path.to_owned(),
            content,
            modified,
        })
    }

    pub(super) fn content(&self) -> &str {
        &self.content
    }

    /// Applies each change of the file to the channel, until `shutdown`.
    pub(super) async fn watch(
        mut self,
        channel: mesh::Channel,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            // Reading the modification time is cheap; the content is read only when that has changed.
            let modified = tokio::fs::metadata(&self.path)
                .await
                .and_then(|file| file.modified());
            if modified.as_ref().ok() == self.modified.as_ref() {
                continue;
            }
            self.modified = modified.ok();
            match tokio::fs::read_to_string(&self.path).await {
                Ok(content) if content == self.content => {}
                Ok(content) => self.apply(&channel, content),
                Err(error) => self.log_unusable(&error),
            }
        }
    }

    fn apply(&mut self, channel: &mesh::Channel, content: String) {
        match channel.reconfigure(&content) {
            Ok(()) => {
                tracing::info!(file.path = %self.path.display(), "the service config has changed");
                self.content = content;
            }
            Err(error) => self.log_unusable(&error),
        }
    }

    fn log_unusable(&self, error: &dyn std::error::Error) {
        tracing::error!(
            file.path = %self.path.display(),
            error.message = %error,
            "the service config cannot be used: the last good one stays"
        );
    }
}

fn load(path: &Path) -> io::Result<(String, Option<SystemTime>)> {
    // The modification time first, so that a change in between is noticed at the next check.
    let modified = std::fs::metadata(path)?.modified().ok();
    Ok((std::fs::read_to_string(path)?, modified))
}

#[cfg(test)]
mod tests;
