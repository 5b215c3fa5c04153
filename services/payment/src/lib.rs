//! The payment service: authorizes, captures, voids and refunds the patient's payments, and keeps the ledger of
//! all money.

pub mod config;
pub mod service;

pub mod grpc;
pub mod subscriptions;

pub mod authorize_payment;
pub mod capture_payment;
pub mod pay_order;
pub mod refund_payment;
pub mod void_payment;

pub mod read_ledger;
pub mod read_payments;

pub mod worker;

pub mod app;
pub mod request;
pub mod response;

pub mod begin_operations;
pub mod call_processor;
pub mod command;
pub mod execute;
pub mod operation_result;
pub mod record_outcomes;
pub mod release_lease;

pub mod apply_outcome;
pub mod changes;
pub mod events;

pub mod ledger;
pub mod operation;
pub mod payment;

pub mod processor;
pub mod sandbox;

pub mod store;

pub mod error;

pub use service::Payment;
