/// Errors of this crate's own operations. A handler's failure is a [`crate::HandlerError`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the event store cannot be used: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the broker cannot be used: {0}")]
    Broker(String),
    /// It is unknown whether the broker syncs before it acknowledges.
    #[error("the broker's monitoring page cannot be read: {0}")]
    Monitoring(String),
    /// The broker acknowledges messages before it has synced them to disk.
    #[error(
        "the broker at {url} runs with a relaxed sync_interval and may lose acknowledged events; set `sync_interval: \
         always` on the server, or `allow_relaxed_sync = true` here"
    )]
    RelaxedSync { url: String },
    /// The broker does not support atomic batches: it stores their messages one by one without an error.
    #[error("NATS 2.12 or newer is needed; the broker is {version}: upgrade it")]
    TooOld { version: String },
    /// The message's contract lacks the option `(events.v1.event)`.
    #[error("{0} is not declared as an event in the contract")]
    NotAnEvent(String),
    #[error("the body of {type_name} has {size} bytes; at most {limit} can be published")]
    TooLarge {
        type_name: String,
        size: usize,
        limit: usize,
    },
    #[error("{0}")]
    Envelope(String),
}

impl Error {
    /// Whether a retry cannot help, because the broker or the settings must be changed.
    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::RelaxedSync { .. } | Self::TooOld { .. })
    }

    pub(crate) fn broker(error: impl std::fmt::Display) -> Self {
        Self::Broker(error.to_string())
    }
}
