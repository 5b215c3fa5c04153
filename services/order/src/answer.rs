//! The answer to a mutating request: given once the order is at rest, stored, and the same for every repetition.

use std::sync::Arc;

use chassis::idempotency::{self, Key};
use prost::Message;
use proto::order::v1 as wire;
use sqlx::PgConnection;
use tokio::time::sleep_until;
use uuid::Uuid;

use crate::{
    desk::{Desk, Request},
    error::Error,
    grpc::encode,
    order::{Line, Order},
    refund::{Refund, RefundState},
    saga::Run,
    store,
};

/// What is to be answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub key: Key,
    pub lines: Arc<[Line]>,
}

/// An encoded response.
#[derive(Clone, Debug)]
pub struct Answered {
    pub bytes: Vec<u8>,
    /// It was given before.
    pub replayed: bool,
}

/// What an answer waits for.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// The order is at rest.
    Rest { order_id: Uuid },
    /// The refund has gone through or failed.
    Refunded { order_id: Uuid, refund_id: Uuid },
}

impl Reply {
    /// Stores the answer that tells the order as it is; gives back what is stored, which may be an earlier answer.
    pub async fn store(&self, conn: &mut PgConnection, order: &Order) -> Result<Vec<u8>, Error> {
        let answer = self.unfinished(conn, order).await?;
        let stored = idempotency::answer_all(conn, &[(&order.facility, &self.key, answer)]).await?;
        Ok(stored.into_iter().next().unwrap_or_default())
    }

    /// The response that tells the order as it is, not stored: the last word is still to come.
    async fn unfinished(&self, conn: &mut PgConnection, order: &Order) -> Result<Vec<u8>, Error> {
        let refunds = match order.refund_count {
            0 => Vec::new(),
            _ => store::refunds::of(conn, order.id).await?,
        };
        Ok(self.encode(order, &refunds))
    }

    /// The response that tells the order. All of the responses that this answers hold an order as their first field.
    pub fn encode(&self, order: &Order, refunds: &[Refund]) -> Vec<u8> {
        let order = Some(encode::order(order, &self.lines, refunds));
        wire::PlaceOrderResponse { order }.encode_to_vec()
    }
}

impl Answered {
    /// An answer that is given for the first time.
    pub fn first(bytes: Vec<u8>) -> Answered {
        Answered {
            bytes,
            replayed: false,
        }
    }

    /// An answer that was given before.
    pub fn again(bytes: Vec<u8>) -> Answered {
        Answered {
            bytes,
            replayed: true,
        }
    }
}

impl Desk {
    /// The answer of the request that has begun a saga and driven it: in the final state if the time allows, else as
    /// the order is now.
    pub async fn conclude(
        &self,
        request: &Request,
        reply: &Reply,
        until: Until,
        driven: Result<Run, Error>,
    ) -> Result<Answered, Error> {
        match driven {
            Ok(Run {
                answer: Some(bytes), ..
            }) => return Ok(Answered::first(bytes)),
            // Another process goes on with it, or this one's worker will.
            Ok(_) | Err(Error::LostLease) => self.engine.wake(),
            Err(error) => return Err(error),
        }
        if let Some(bytes) = self.wait(request, reply, until).await? {
            return Ok(Answered::first(bytes));
        }
        let mut tx = self.database.begin(&request.facility).await?;
        let order = store::orders::get(&mut tx, until.order_id()).await?;
        let order = order.ok_or_else(|| Error::NoOrder(until.order_id().to_string()))?;
        let bytes = reply.unfinished(&mut tx, &order).await?;
        tx.commit().await?;
        Ok(Answered::first(bytes))
    }

    /// The answer to a request whose first sending has begun and not been answered: it runs, or was cut short and is
    /// resumed.
    pub async fn conclude_again(
        &self,
        request: &Request,
        reply: &Reply,
        until: Until,
    ) -> Result<Answered, Error> {
        let bytes = self.wait(request, reply, until).await?;
        bytes.map(Answered::again).ok_or(Error::InProgress)
    }

    /// Waits for the end and stores the answer; `None` when the request's time is over first.
    async fn wait(&self, request: &Request, reply: &Reply, until: Until) -> Result<Option<Vec<u8>>, Error> {
        let give_up = request.answer_by;
        let mut changes = self.changes.subscribe(&request.facility, until.order_id());
        loop {
            let mut tx = self.database.begin(&request.facility).await?;
            let order = store::orders::get(&mut tx, until.order_id()).await?;
            let order = order.ok_or_else(|| Error::NoOrder(until.order_id().to_string()))?;
            if until.is_reached(&mut tx, &order).await? {
                let bytes = reply.store(&mut tx, &order).await?;
                tx.commit().await?;
                idempotency::announce(&self.database, &request.facility, &reply.key);
                return Ok(Some(bytes));
            }
            tx.commit().await?;
            tokio::select! {
                () = changes.changed() => {}
                () = sleep_until(give_up) => return Ok(None),
            }
        }
    }
}

impl Until {
    fn order_id(self) -> Uuid {
        match self {
            Until::Rest { order_id } | Until::Refunded { order_id, .. } => order_id,
        }
    }

    async fn is_reached(self, conn: &mut PgConnection, order: &Order) -> Result<bool, Error> {
        match self {
            Until::Rest { .. } => Ok(order.is_at_rest()),
            Until::Refunded { order_id, refund_id } => {
                let refunds = store::refunds::of(conn, order_id).await?;
                let refund = refunds.iter().find(|refund| refund.id == refund_id);
                Ok(refund.is_none_or(|refund| refund.state != RefundState::Pending))
            }
        }
    }
}
