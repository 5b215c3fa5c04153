//! Errors of building channels and policies.

use std::path::PathBuf;

/// Why a channel or its policies could not be built. Calls themselves fail with a [`tonic::Status`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The contract's policies cannot be used.
    #[error(transparent)]
    Contract(#[from] weft_policy::Error),
    /// The target is not of the form `static:<uri>,…`, `dns:<uri>`, `k8s:<uri>` or `unix:<path>`.
    #[error("target `{target}`: {reason}")]
    Target {
        /// The configured target.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is invalid.
    #[error("setting `{setting}`: {reason}")]
    Setting {
        /// The setting's path.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The service config is invalid.
    #[error("service config, at `{path}`: {reason}")]
    ServiceConfig {
        /// The path of the error: `methodConfig[0].timeout`.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with the service config cannot be read.
    #[error("{file} cannot be read")]
    ServiceConfigFile {
        /// The configured path.
        file: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// A channel runs background tasks, so it can only be created inside a tokio runtime.
    #[error("a channel can only be created inside a tokio runtime")]
    NoRuntime,
}
