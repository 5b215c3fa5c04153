//! The dependencies that all request handlers share.

use std::sync::Arc;

use chassis::{PageTokens, batch::Batcher, postgres::Database};
use time::OffsetDateTime;

use crate::{
    accept_orders::AcceptOrders,
    config,
    order_notifier::OrderNotifier,
    saga::{Engine, Participants},
    settlement::DenialPolicy,
};

/// Shared dependencies of all request handlers. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub database: Database,
    /// Inserts new orders in batches.
    pub accept_orders: Batcher<AcceptOrders>,
    pub engine: Engine,
    pub participants: Participants,
    pub order_notifier: OrderNotifier,
    pub outbox: ::events::Outbox,
    pub page_tokens: PageTokens,
    pub denial_policy: Arc<DenialPolicy>,
    pub orders: config::Orders,
    /// How long a saga may take before it counts as stuck.
    pub stuck_after: time::Duration,
}

impl App {
    /// The time after which a saga that begins now counts as stuck, by the database's clock.
    pub fn saga_deadline(&self) -> OffsetDateTime {
        self.database.clock().now() + self.stuck_after
    }
}
