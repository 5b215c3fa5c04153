//! Events: a use case's transaction writes its events to the outbox, the pending part of the log. A relay
//! publishes them to JetStream. Consumers apply each of them once, in order within its aggregate. An event that a
//! consumer cannot handle becomes a dead letter, which operators can see, replay and discard.
//!
//! PostgreSQL is the source of truth; the stream is a copy of the log and can be rebuilt from it.

mod settings;

mod contract;
mod envelope;
mod error;
mod event;
mod outbox;
mod registration;
mod trace;

mod bus;
mod comparison;
mod durability_check;
mod lease;
mod limits;
mod rebuild;
mod relay;
mod stored_message;
mod streams;
mod topology;

mod consumer;
mod delivery;
mod failure;
mod handler;
mod handler_error;
mod lag;
mod maintenance;
mod metrics;
mod operators;
mod replay_notice;
mod store;

mod backbone;

mod asyncapi;

pub use asyncapi::asyncapi;
pub use bus::Bus;
pub use consumer::Consumer;
pub use delivery::Delivery;
pub use error::Error;
pub use event::{Event, Meta};
pub use handler::Handler;
pub use handler_error::HandlerError;
pub use maintenance::Maintenance;
pub use operators::{DeadLetters, EventOperations, Operator};
pub use outbox::{Outbox, append};
pub use rebuild::{Audit, Report};
pub use relay::Relay;
pub use settings::{ConsumerSettings, RelaySettings, Settings, Violation};
