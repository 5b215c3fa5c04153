//! The card processor, an external party.
//!
//! Every call carries an idempotency key. The processor executes a call once per key and answers a repetition with
//! the first outcome. A call without an answer can therefore be sent again and never charges twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use money::Money;
use uuid::Uuid;

/// A card processor. The caller bounds the time of a call by dropping its future; the outcome is then unknown. A
/// call that the caller cancels through its [`Dispatch`] before it was sent has no effect.
pub trait Processor: Send + Sync + 'static {
    /// Authorizes an amount on a payment method.
    fn authorize<'a>(&'a self, call: &'a Authorize, sent: &'a Dispatch) -> CallFuture<'a, Outcome>;

    /// Captures an authorized amount or a part of it; the rest is released.
    fn capture<'a>(&'a self, call: &'a Capture, sent: &'a Dispatch) -> CallFuture<'a, Outcome>;

    /// Voids an authorization. If it has not arrived yet, it is refused when it arrives later.
    fn void<'a>(&'a self, call: &'a Void, sent: &'a Dispatch) -> CallFuture<'a, Outcome>;

    /// Refunds a captured amount.
    fn refund<'a>(&'a self, call: &'a Refund, sent: &'a Dispatch) -> CallFuture<'a, Outcome>;

    /// Returns the status of the call with this key. Never moves money.
    fn query(&self, key: Uuid) -> CallFuture<'_, CallStatus>;
}

/// The future of a call.
pub type CallFuture<'a, T> = BoxFuture<'a, Result<T, CallError>>;

/// Whether a call was sent to the processor. The processor's client marks the call directly before it is sent. A
/// call that its caller has cancelled before is not sent. Clones refer to the same call.
#[derive(Clone, Debug, Default)]
pub struct Dispatch(Arc<AtomicU8>);

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;

impl Dispatch {
    /// Marks the call as sent. False if its caller has cancelled it: the call must not be sent then.
    #[must_use]
    pub fn mark_sent(&self) -> bool {
        self.set(SENT)
    }

    /// Cancels the call. False if it was sent already.
    pub fn cancel(&self) -> bool {
        self.set(CANCELLED)
    }

    fn set(&self, state: u8) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self.0.compare_exchange(QUEUED, state, success, failure) {
            Ok(_) => true,
            Err(before) => before == state,
        }
    }
}

/// Authorizes `amount` on the payment method of `token`.
#[derive(Clone, Debug)]
pub struct Authorize {
    pub key: Uuid,
    pub token: String,
    pub amount: Money,
    /// The merchant's own reference of the charge.
    pub merchant_reference: String,
}

/// Captures `amount` of the authorization with the key `authorization`.
#[derive(Clone, Debug)]
pub struct Capture {
    pub key: Uuid,
    pub authorization: Uuid,
    pub amount: Money,
}

/// Voids the authorization with the key `authorization`.
#[derive(Clone, Debug)]
pub struct Void {
    pub key: Uuid,
    pub authorization: Uuid,
}

/// Refunds `amount` of the captured amount of the authorization with the key `authorization`.
#[derive(Clone, Debug)]
pub struct Refund {
    pub key: Uuid,
    pub authorization: Uuid,
    pub amount: Money,
}

/// The final outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Approved {
        /// The processor's own reference.
        reference: String,
    },
    Refused {
        /// UPPER_SNAKE.
        reason: String,
    },
}

/// The status of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallStatus {
    /// The processor has not received the call, or has lost it.
    NotFound,
    /// The processor has not finished it yet.
    Processing,
    Completed(Outcome),
}

/// The processor has not answered. After `Timeout` the outcome of the call is unknown; `Unreachable`: it was not sent.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("the processor has not answered within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the processor cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
