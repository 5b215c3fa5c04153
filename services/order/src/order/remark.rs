//! What an operator's intervention means for an order.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Order;

/// Something that a saga did not do for its order because of an operator's intervention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// UPPER_SNAKE.
    pub reason: String,
    pub message: String,
    /// The subject of the operator's token.
    pub actor: String,
    pub saga_id: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// What is left open: the reason and the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIssue(pub &'static str, pub String);

impl Order {
    /// Adds a remark about something that was left out of a saga.
    pub fn add_remark(&mut self, open: &OpenIssue, actor: &str, why: &str, saga_id: Uuid) {
        self.remarks.push(Remark {
            reason: open.0.to_owned(),
            message: format!("{}: {why}", open.1),
            actor: actor.to_owned(),
            saga_id,
            at: OffsetDateTime::now_utc(),
        });
        self.touch();
    }
}
