//! The built-in processor. It imitates a card network's test mode: the payment method's token determines the
//! outcome (docs/sandbox-cards.md lists the tokens).
//!
//! It imitates an external party. It keeps its records in its own schema and writes them in its own transactions
//! on its own connections, so that they survive a kill of the payment service and are independent of that
//! service's transactions. Records are kept by the caller's key, and a repeated call changes nothing. Concurrent
//! calls are written by one statement; a card's delay applies only to its own call.

mod authorizations;
mod cards;
mod operations;
mod records;

use std::{future::Future, time::Duration};

use chassis::Tasks;
use sqlx::PgPool;
use uuid::Uuid;

pub use cards::Card;

use crate::{
    config,
    processor::{
        Authorize, CallError, CallFuture, CallStatus, Capture, Dispatch, Outcome, Processor, Refund, Void,
    },
};
use operations::{CardOperation, Kind};
use records::Records;

/// The sandbox processor. Cheap to clone.
#[derive(Clone)]
pub struct Sandbox {
    records: Records,
    slow: Duration,
    hang: Duration,
}

impl Sandbox {
    /// A sandbox that keeps its records through `pool`. The drain waits for its statements in progress.
    pub fn new(pool: PgPool, settings: &config::Sandbox, tasks: &Tasks) -> Self {
        Self {
            records: Records::new(pool, tasks),
            slow: Duration::from_millis(settings.slow_ms),
            hang: Duration::from_millis(settings.hang_ms),
        }
    }

    async fn execute_authorization(
        &self,
        call: &Authorize,
        dispatch: &Dispatch,
    ) -> Result<Outcome, CallError> {
        let card = Card::from_token(&call.token);
        let delay = if card == Card::Slow {
            self.slow
        } else {
            Duration::ZERO
        };
        let authorization = self.records.authorize(call, card, delay, dispatch).await?;
        tokio::time::sleep(authorization.ready_in).await;
        if card.hangs_on_authorization() && !authorization.is_closed() {
            return self.hang().await;
        }
        authorization
            .outcome()
            .ok_or_else(|| CallError::Timeout(self.hang))
    }

    async fn execute_operation(
        &self,
        operation: CardOperation,
        dispatch: &Dispatch,
    ) -> Result<Outcome, CallError> {
        let kind = operation.kind;
        let (outcome, card) = self.records.execute(operation, dispatch).await?;
        if card.is_some_and(|card| card.hangs_on(kind)) && matches!(outcome, Outcome::Approved { .. }) {
            return self.hang().await;
        }
        Ok(outcome)
    }

    /// Keeps the connection open without an answer.
    async fn hang(&self) -> Result<Outcome, CallError> {
        tokio::time::sleep(self.hang).await;
        Err(CallError::Timeout(self.hang))
    }

    fn boxed<'a, T>(
        &'a self,
        call: impl Future<Output = Result<T, CallError>> + Send + 'a,
    ) -> CallFuture<'a, T> {
        Box::pin(call)
    }
}

impl Processor for Sandbox {
    fn authorize<'a>(&'a self, call: &'a Authorize, dispatch: &'a Dispatch) -> CallFuture<'a, Outcome> {
        self.boxed(self.execute_authorization(call, dispatch))
    }

    fn capture<'a>(&'a self, call: &'a Capture, dispatch: &'a Dispatch) -> CallFuture<'a, Outcome> {
        let operation = CardOperation {
            kind: Kind::Capture,
            key: call.key,
            authorization: call.authorization,
            amount: call.amount.minor(),
        };
        self.boxed(self.execute_operation(operation, dispatch))
    }

    fn void<'a>(&'a self, call: &'a Void, dispatch: &'a Dispatch) -> CallFuture<'a, Outcome> {
        let operation = CardOperation {
            kind: Kind::Void,
            key: call.key,
            authorization: call.authorization,
            amount: 0,
        };
        self.boxed(self.execute_operation(operation, dispatch))
    }

    fn refund<'a>(&'a self, call: &'a Refund, dispatch: &'a Dispatch) -> CallFuture<'a, Outcome> {
        let operation = CardOperation {
            kind: Kind::Refund,
            key: call.key,
            authorization: call.authorization,
            amount: call.amount.minor(),
        };
        self.boxed(self.execute_operation(operation, dispatch))
    }

    fn query(&self, key: Uuid) -> CallFuture<'_, CallStatus> {
        self.boxed(self.records.call_status(key))
    }
}

impl From<sqlx::Error> for CallError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unreachable(Box::new(error))
    }
}
