//! A mutating request as a decision: which payments it selects, and what it changes in them.

use std::{fmt, sync::Arc, time::Duration};

use chassis::audit::Origin;
use time::OffsetDateTime;
use tracing::Span;
use uuid::Uuid;

use crate::{
    changes::Changes,
    error::Error,
    operation::Operation,
    payment::Payment,
    request::Request,
    store::locks::{OperationSummary, Target},
};

/// The decisions of a mutating request. They do not access the database, because a decision may be taken more than
/// once.
pub trait Command: fmt::Debug + Send + Sync + 'static {
    /// Selects the payments that the command works on.
    fn target(&self) -> Target;

    /// The payment to create if there is none.
    fn new_payment(&self) -> Result<Option<Payment>, Error> {
        Ok(None)
    }

    /// The changes after the payment was created.
    fn created(&self, payment: Payment, pending: &PendingCommand) -> Changes {
        Changes::new(&pending.request.facility, payment)
    }

    /// The changes to one of the existing payments, or why there cannot be any. `found` may be empty.
    fn decide(&self, found: Vec<PaymentSnapshot>, pending: &PendingCommand) -> Result<Changes, Error>;
}

/// A locked payment with a summary of its operations.
#[derive(Clone, Debug)]
pub struct PaymentSnapshot {
    pub(crate) payment: Payment,
    pub(crate) operations: OperationSummary,
    /// The time of the transaction.
    pub(crate) now: OffsetDateTime,
}

/// A command that waits to be executed, with its request.
#[derive(Clone, Debug)]
pub struct PendingCommand {
    pub(crate) request: Request,
    pub(crate) command: Arc<dyn Command>,
    /// The id of the operation that it may open.
    pub(crate) operation_id: Uuid,
    /// How long the operation is leased to this process.
    pub(crate) lease: Duration,
    pub(crate) origin: Origin,
    /// The caller's span: the decision belongs to its trace.
    pub(crate) span: Span,
}

impl PendingCommand {
    /// The command of the current call.
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

    /// Opens `operation` as the first one of this request.
    pub(crate) fn open(&self, changes: &mut Changes, operation: Operation) {
        changes.open(operation, self.lease, Some(&self.request.key));
    }
}

impl PaymentSnapshot {
    /// Fails with [`Error::Busy`] while another operation on the payment is open.
    pub(crate) fn ensure_idle(&self) -> Result<(), Error> {
        match self.operations.open {
            Some(_) => Err(Error::Busy),
            None => Ok(()),
        }
    }
}
