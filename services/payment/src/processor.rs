//! The card processor, an outside party.
//!
//! Every call carries a key. However often a call is repeated under its key, the processor carries it out once and
//! gives the first answer again; so a call without an answer may be sent again, and never charges twice.

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

/// What a card processor can do. Calls are bounded by the caller: a future that is dropped is a call without an answer.
/// Nothing can come of it when the caller has given it up before it was marked as sent.
pub trait Processor: Send + Sync + 'static {
    /// Sets money aside on a payment method.
    fn authorize<'a>(&'a self, call: &'a Authorize, sent: &'a Sent) -> Answering<'a, Outcome>;

    /// Takes an authorized amount or a part of it; the rest is released.
    fn capture<'a>(&'a self, call: &'a Capture, sent: &'a Sent) -> Answering<'a, Outcome>;

    /// Lets an authorization go. One that has not arrived is closed: should it arrive late, it is refused.
    fn void<'a>(&'a self, call: &'a Void, sent: &'a Sent) -> Answering<'a, Outcome>;

    /// Gives captured money back.
    fn refund<'a>(&'a self, call: &'a Refund, sent: &'a Sent) -> Answering<'a, Outcome>;

    /// Tells what became of the call with this key. Never moves money.
    fn query(&self, key: Uuid) -> Answering<'_, Standing>;
}

/// An answer on its way.
pub type Answering<'a, T> = BoxFuture<'a, Result<T, NoAnswer>>;

/// Whether a call has left for the processor. The processor marks it as the last thing before the call does; a call that its
/// caller has given up before does not leave any more. Clones are of one call.
#[derive(Clone, Debug, Default)]
pub struct Sent(Arc<AtomicU8>);

const WAITING: u8 = 0;
const LEFT: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Sent {
    /// The call leaves now, unless its caller has given it up.
    #[must_use]
    pub fn mark(&self) -> bool {
        self.becomes(LEFT)
    }

    /// The caller waits no longer: the call does not leave, unless it has left already.
    pub fn give_up(&self) -> bool {
        self.becomes(GIVEN_UP)
    }

    fn becomes(&self, state: u8) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self.0.compare_exchange(WAITING, state, success, failure) {
            Ok(_) => true,
            Err(before) => before == state,
        }
    }
}

/// Sets `amount` aside on the payment method behind `token`.
#[derive(Clone, Debug)]
pub struct Authorize {
    pub key: Uuid,
    pub token: String,
    pub amount: Money,
    /// What the merchant names the charge by.
    pub merchant_reference: String,
}

/// Takes `amount` of the authorization that was asked for under `authorization`.
#[derive(Clone, Debug)]
pub struct Capture {
    pub key: Uuid,
    pub authorization: Uuid,
    pub amount: Money,
}

/// Lets the authorization go that was asked for under `authorization`.
#[derive(Clone, Debug)]
pub struct Void {
    pub key: Uuid,
    pub authorization: Uuid,
}

/// Gives `amount` back of what was captured of the authorization that was asked for under `authorization`.
#[derive(Clone, Debug)]
pub struct Refund {
    pub key: Uuid,
    pub authorization: Uuid,
    pub amount: Money,
}

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Approved {
        /// The processor's own number.
        reference: String,
    },
    Refused {
        /// UPPER_SNAKE.
        reason: String,
    },
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The processor has never seen it, or has lost it.
    Absent,
    /// It is being worked on.
    Processing,
    Settled(Outcome),
}

/// The processor has not answered: what it did is not known.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    #[error("the processor has not answered within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the processor cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}
