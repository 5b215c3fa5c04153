//! The built-in processor. It imitates a card network's test mode: the payment method's token says what happens
//! (docs/sandbox-cards.md lists them).
//!
//! It stands in for an outside party. What it has done is kept in its own schema, written in transactions of its own
//! on connections of its own, so that it survives a kill of the payment service and knows nothing of that service's
//! transactions. Everything is kept by the caller's key, and a repetition changes nothing. Calls that come at the same time
//! are written by one statement; what a card makes its call wait for, that call waits for alone.

mod authorizing;
mod book;
mod cards;
mod following;

use std::{future::Future, time::Duration};

use chassis::Tasks;
use sqlx::PgPool;
use uuid::Uuid;

pub use cards::Card;

use crate::{
    config,
    processor::{Answering, Authorize, Capture, NoAnswer, Outcome, Processor, Refund, Sent, Standing, Void},
};
use book::Book;
use following::{Kind, Wanted};

/// See the module.
#[derive(Clone)]
pub struct Sandbox {
    book: Book,
    slow: Duration,
    hang: Duration,
}

impl Sandbox {
    /// A sandbox that keeps its records through `pool`. The drain waits for what it has begun.
    pub fn new(pool: PgPool, settings: &config::Sandbox, tasks: &Tasks) -> Self {
        Self {
            book: Book::new(pool, tasks),
            slow: Duration::from_millis(settings.slow_ms),
            hang: Duration::from_millis(settings.hang_ms),
        }
    }

    async fn authorizing(&self, call: &Authorize, sent: &Sent) -> Result<Outcome, NoAnswer> {
        let card = Card::of(&call.token);
        let delay = if card == Card::Slow {
            self.slow
        } else {
            Duration::ZERO
        };
        let authorization = self.book.authorize(call, card, delay, sent).await?;
        tokio::time::sleep(authorization.ready_in).await;
        if card.hangs_on_authorization() && !authorization.closed() {
            return self.hang().await;
        }
        authorization
            .outcome()
            .ok_or_else(|| NoAnswer::Timeout(self.hang))
    }

    async fn following(&self, wanted: Wanted, sent: &Sent) -> Result<Outcome, NoAnswer> {
        let kind = wanted.kind;
        let (outcome, card) = self.book.follow(wanted, sent).await?;
        if card.is_some_and(|card| card.hangs_on(kind)) && matches!(outcome, Outcome::Approved { .. }) {
            return self.hang().await;
        }
        Ok(outcome)
    }

    /// The line stays open and nothing comes.
    async fn hang(&self) -> Result<Outcome, NoAnswer> {
        tokio::time::sleep(self.hang).await;
        Err(NoAnswer::Timeout(self.hang))
    }

    fn boxed<'a, T>(
        &'a self,
        answer: impl Future<Output = Result<T, NoAnswer>> + Send + 'a,
    ) -> Answering<'a, T> {
        Box::pin(answer)
    }
}

impl Processor for Sandbox {
    fn authorize<'a>(&'a self, call: &'a Authorize, sent: &'a Sent) -> Answering<'a, Outcome> {
        self.boxed(self.authorizing(call, sent))
    }

    fn capture<'a>(&'a self, call: &'a Capture, sent: &'a Sent) -> Answering<'a, Outcome> {
        let wanted = Wanted {
            kind: Kind::Capture,
            key: call.key,
            authorization: call.authorization,
            amount: call.amount.minor(),
        };
        self.boxed(self.following(wanted, sent))
    }

    fn void<'a>(&'a self, call: &'a Void, sent: &'a Sent) -> Answering<'a, Outcome> {
        let wanted = Wanted {
            kind: Kind::Void,
            key: call.key,
            authorization: call.authorization,
            amount: 0,
        };
        self.boxed(self.following(wanted, sent))
    }

    fn refund<'a>(&'a self, call: &'a Refund, sent: &'a Sent) -> Answering<'a, Outcome> {
        let wanted = Wanted {
            kind: Kind::Refund,
            key: call.key,
            authorization: call.authorization,
            amount: call.amount.minor(),
        };
        self.boxed(self.following(wanted, sent))
    }

    fn query(&self, key: Uuid) -> Answering<'_, Standing> {
        self.boxed(self.book.standing(key))
    }
}

impl From<sqlx::Error> for NoAnswer {
    fn from(error: sqlx::Error) -> Self {
        Self::Unreachable(Box::new(error))
    }
}
