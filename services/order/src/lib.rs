//! The order service: accepts orders and takes them through payment, claim and settlement with sagas.

pub mod config;
pub mod service;

pub mod grpc;
pub mod subscriptions;

pub mod cancel_order;
pub mod fulfil_order;
pub mod operators;
pub mod place_order;
pub mod read_orders;
pub mod refund_order;
pub mod resolve_order_balance;
pub mod watch_order;

pub mod accept_orders;
pub mod app;
pub mod events;
pub mod order_notifier;
pub mod request;
pub mod response;

pub mod saga;

pub mod order;
pub mod refund;
pub mod settlement;

pub mod store;

pub mod error;

pub use service::Orders;
