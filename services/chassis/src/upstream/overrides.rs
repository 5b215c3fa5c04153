//! The file with an upstream's service config, followed while the process runs.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;

use super::Error;

/// How soon a change is noticed, at the latest. A mounted ConfigMap takes longer to arrive.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a file held when it was read last.
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

    /// Gives the channel what the file says, whenever it says something else, until `shutdown`.
    pub(super) async fn follow(
        mut self,
        channel: mesh::Channel,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            // The file's own time is cheap to ask for; it is read only when that has changed.
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
                Err(error) => self.keep(&error),
            }
        }
    }

    fn apply(&mut self, channel: &mesh::Channel, content: String) {
        match channel.reconfigure(&content) {
            Ok(()) => {
                tracing::info!(file.path = %self.path.display(), "the service config has changed");
                self.content = content;
            }
            Err(error) => self.keep(&error),
        }
    }

    fn keep(&self, error: &dyn std::error::Error) {
        tracing::error!(
            file.path = %self.path.display(),
            error.message = %error,
            "the service config cannot be used: the last good one stays"
        );
    }
}

fn load(path: &Path) -> io::Result<(String, Option<SystemTime>)> {
    // The time first: a change in between is then noticed at the next look.
    let modified = std::fs::metadata(path)?.modified().ok();
    Ok((std::fs::read_to_string(path)?, modified))
}

#[cfg(test)]
mod tests;
