use std::{future::Future, panic::AssertUnwindSafe, pin::Pin, time::Duration};

use futures_util::FutureExt as _;
use sqlx::PgConnection;

use crate::{HandlerError, delivery::Delivery};

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
