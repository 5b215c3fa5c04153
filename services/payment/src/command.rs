//! A mutating request as a decision: which payments it works on, and what it changes in them.

use std::{fmt, sync::Arc, time::Duration};

use chassis::audit::Origin;
use time::OffsetDateTime;
use tracing::Span;
use uuid::Uuid;

use crate::{
    changes::Changes,
    desk::Request,
    error::Error,
    payment::Payment,
    store::locks::{Standing, Target},
};

/// What a mutating request is decided by. Nothing here asks the database: a decision may be taken more than once.
pub trait Command: fmt::Debug + Send + Sync + 'static {
    /// The payments that it works on.
    fn target(&self) -> Target;

    /// The payment that it makes where there is none.
    fn new_payment(&self) -> Result<Option<Payment>, Error> {
        Ok(None)
    }

    /// What it changes around the payment that it has made.
    fn created(&self, payment: Payment, intent: &Intent) -> Changes {
        Changes::none(&intent.request.facility, payment)
    }

    /// What it changes around the payments that are there: one of them. Without any, why it cannot.
    fn decide(&self, found: Vec<Found>, intent: &Intent) -> Result<Changes, Error>;
}

/// A locked payment with what is known beside it.
#[derive(Clone, Debug)]
pub struct Found {
    pub(crate) payment: Payment,
    pub(crate) standing: Standing,
    /// The time of the transaction.
    pub(crate) now: OffsetDateTime,
}

/// A request that is to be carried out.
#[derive(Clone, Debug)]
pub struct Intent {
    pub(crate) request: Request,
    pub(crate) command: Arc<dyn Command>,
    /// The id of the operation that it may open.
    pub(crate) operation_id: Uuid,
    /// How long that belongs to the one who carries the request out.
    pub(crate) lease: Duration,
    pub(crate) origin: Origin,
    /// The caller's: what happens, happens in its trace.
    pub(crate) span: Span,
}

impl Intent {
    /// The request of the call that runs.
    pub(crate) fn new(request: &Request, command: &Arc<dyn Command>, lease: Duration) -> Self {
        Self {
            request: request.clone(),
            command: command.clone(),
            operation_id: Uuid::now_v7(),
            lease,
            origin: Origin::current(),
            span: Span::current(),
        }
    }

    /// The request's id.
    pub(crate) fn request_id(&self) -> Uuid {
        self.request.key.request_id()
    }

    /// Opens `operation` as what this request begins with.
    pub(crate) fn open(&self, changes: &mut Changes, operation: crate::operation::Operation) {
        changes.open(operation, self.lease, Some(&self.request.key));
    }
}

impl Found {
    /// Refuses while the processor is asked for something else.
    pub(crate) fn idle(&self) -> Result<(), Error> {
        match self.standing.open {
            Some(_) => Err(Error::Busy),
            None => Ok(()),
        }
    }
}
