//! The dependencies that all request handlers share.

use std::sync::Arc;

use chassis::{Tasks, postgres::Database};

use crate::{begin_operations::BeginBatcher, config, processor::Processor, record_outcomes::RecordBatcher};

/// Shared dependencies of all request handlers. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub tasks: Tasks,
    pub database: Database,
    pub processor: Arc<dyn Processor>,
    pub outbox: ::events::Outbox,
    /// Batches the transactions before the processor is called.
    pub begin_batcher: BeginBatcher,
    /// Batches the transactions after the processor was called.
    pub record_batcher: RecordBatcher,
    pub processor_settings: config::Processor,
    pub authorization_settings: config::Authorization,
}
