//! The order service: takes orders and sees them through payment, claim and settlement, by sagas.

pub mod config;
pub mod service;

pub mod grpc;
pub mod subscriptions;

pub mod cancel_order;
pub mod fulfil_order;
pub mod help_saga;
pub mod operate_sagas;
pub mod place_order;
pub mod read_orders;
pub mod refund_order;
pub mod resolve_balance;
pub mod watch_order;

pub mod answer;
pub mod changes;
pub mod desk;
pub mod told;

pub mod saga;

pub mod order;
pub mod refund;
pub mod settlement;

pub mod store;

pub mod error;

pub use service::Orders;
