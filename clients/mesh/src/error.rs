//! Errors of building channels and policies.

/// Why a channel or its policies could not be built. Calls themselves fail with a [`tonic::Status`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a descriptor set.
    #[error("the descriptor set cannot be read")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// Required parts of the contract are missing or contradictory. One line for each error, with its method.
    #[error("the contract is incomplete:\n  {}", .0.join("\n  "))]
    Contract(Vec<String>),
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
    /// A channel runs background tasks, so it can only be created inside a tokio runtime.
    #[error("a channel can only be created inside a tokio runtime")]
    NoRuntime,
}
