//! What can be wrong before any call is made.

/// Why a channel or its policies could not be built. Calls themselves fail with a [`tonic::Status`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are no descriptor set.
    #[error("the descriptor set cannot be read")]
    Descriptors(#[source] prost_reflect::DescriptorError),
    /// The contract leaves out, or contradicts, what the mesh must know. One line for each fault, each naming its method.
    #[error("the contract is incomplete:\n  {}", .0.join("\n  "))]
    Contract(Vec<String>),
    /// The target is not of the form `static:<uri>,…`, `dns:<uri>` or `k8s:<uri>`.
    #[error("target `{target}`: {reason}")]
    Target {
        /// What was given.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting is out of its bounds.
    #[error("setting `{setting}`: {reason}")]
    Setting {
        /// The setting's path.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The service config has a fault.
    #[error("service config, at `{path}`: {reason}")]
    ServiceConfig {
        /// Where: `methodConfig[0].timeout`.
        path: String,
        /// What is wrong there.
        reason: String,
    },
    /// A channel runs background work, so that it can only be made inside a tokio runtime.
    #[error("a channel can only be made inside a tokio runtime")]
    NoRuntime,
}
