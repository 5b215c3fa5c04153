use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, time::Duration};

use chassis::postgres::Fault;
use futures_util::FutureExt as _;
use sqlx::PgConnection;

use crate::{delivery::Delivery, envelope::storable};

/// The code of a handler that exceeded its timeout.
pub(crate) const TIMED_OUT: &str = "HANDLER_TIMED_OUT";

/// Handles the events of a consumer.
///
/// It runs inside the transaction that holds the inbox mark, with `weft.facility` set to the event's facility:
/// what it writes through `tx` takes effect exactly once. It must not commit, must not call the network, and must
/// not have effects other than through `tx`, since a failed attempt is rolled back and repeated.
pub trait Handler: Send + Sync + 'static {
    /// # Errors
    /// The attempt is rolled back. The error's variant decides what follows: see [`HandlerError`].
    fn handle(
        &self,
        tx: &mut PgConnection,
        delivery: &Delivery,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Handles events of one facility and of different aggregates together, in fewer statements. False: it does
    /// not handle these together and has done nothing. Then they are handled one after the other, which is the
    /// default.
    ///
    /// # Errors
    /// Everything is rolled back, and the events are handled one by one.
    fn handle_all(
        &self,
        _tx: &mut PgConnection,
        _deliveries: &[Delivery],
    ) -> impl Future<Output = Result<bool, HandlerError>> + Send {
        std::future::ready(Ok(false))
    }
}

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

/// Runs a handler with a timeout. A panic becomes a transient error.
pub(crate) async fn run<T>(handling: HandlerFuture<'_, T>, limit: Duration) -> Result<T, HandlerError> {
    let handled = AssertUnwindSafe(handling).catch_unwind();
    match tokio::time::timeout(limit, handled).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            Err(HandlerError::transient("HANDLER_PANICKED", text))
        }
        Err(_) => Err(HandlerError::transient(
            TIMED_OUT,
            format!("no end after {limit:?}"),
        )),
    }
}

/// [`Handler`] as a trait object.
pub(crate) trait DynHandler: Send + Sync {
    fn handle<'a>(&'a self, tx: &'a mut PgConnection, delivery: &'a Delivery) -> HandlerFuture<'a, ()>;

    fn handle_all<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        deliveries: &'a [Delivery],
    ) -> HandlerFuture<'a, bool>;
}

pub(crate) type HandlerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, HandlerError>> + Send + 'a>>;

impl<H: Handler> DynHandler for H {
    fn handle<'a>(&'a self, tx: &'a mut PgConnection, delivery: &'a Delivery) -> HandlerFuture<'a, ()> {
        Box::pin(Handler::handle(self, tx, delivery))
    }

    fn handle_all<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        deliveries: &'a [Delivery],
    ) -> HandlerFuture<'a, bool> {
        Box::pin(Handler::handle_all(self, tx, deliveries))
    }
}
