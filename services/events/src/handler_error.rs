use chassis::postgres::Fault;

use crate::envelope::storable;

/// Why an attempt failed. The code is UPPER_SNAKE and names the kind of failure; the message describes it.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// The database was not available: an outage, a lock or a timeout. The event is not at fault: it is retried
    /// for as long as this lasts, no failure is counted, and it does not become a dead letter.
    #[error("DATABASE_UNAVAILABLE: {0}")]
    Unavailable(String, #[source] sqlx::Error),
    /// May succeed later: retried with backoff, and a dead letter when the attempts are used up.
    #[error("{0}: {1}")]
    Transient(String, String),
    /// Cannot succeed later: a dead letter at once.
    #[error("{0}: {1}")]
    Permanent(String, String),
    /// The event does not match its type: a dead letter at once.
    #[error("{0}: {1}")]
    Schema(String, String),
}

impl HandlerError {
    pub fn transient(code: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self::Transient(code.into(), storable(message.as_ref()))
    }

    pub fn permanent(code: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self::Permanent(code.into(), storable(message.as_ref()))
    }

    pub fn schema(code: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self::Schema(code.into(), storable(message.as_ref()))
    }

    /// A field that must be a UUID and is not. The message has its name and its quoted value, since the value may
    /// be empty.
    pub fn not_a_uuid(code: impl Into<String>, field: &str, value: &str) -> Self {
        Self::schema(code, format!("{field}: {value:?} is not a UUID"))
    }

    pub fn code(&self) -> &str {
        match self {
            Self::Unavailable(..) => "DATABASE_UNAVAILABLE",
            Self::Transient(code, _) | Self::Permanent(code, _) | Self::Schema(code, _) => code,
        }
    }

    pub fn message(&self) -> &str {
        let (Self::Unavailable(message, _)
        | Self::Transient(_, message)
        | Self::Permanent(_, message)
        | Self::Schema(_, message)) = self;
        message
    }
}

/// Maps by the meaning of the error: see [`Fault`].
impl From<sqlx::Error> for HandlerError {
    fn from(error: sqlx::Error) -> Self {
        match Fault::classify(&error) {
            Fault::Outage | Fault::Contention | Fault::Timeout | Fault::StalePlan => {
                Self::Unavailable(storable(&error.to_string()), error)
            }
            Fault::Refused => Self::permanent("CONSTRAINT_VIOLATED", error.to_string()),
            Fault::Bug => Self::transient("DATABASE_FAILED", error.to_string()),
        }
    }
}

impl From<crate::Error> for HandlerError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Database(error) => error.into(),
            crate::Error::NotAnEvent(_) | crate::Error::TooLarge { .. } | crate::Error::Envelope(_) => {
                Self::permanent("EVENT_REFUSED", error.to_string())
            }
            crate::Error::Broker(_)
            | crate::Error::Monitoring(_)
            | crate::Error::RelaxedSync { .. }
            | crate::Error::TooOld { .. } => Self::transient("BROKER_FAILED", error.to_string()),
        }
    }
}
