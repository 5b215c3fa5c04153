//! The payment service: takes, releases and gives back the patient's money, and keeps the ledger of all money.

pub mod config;
pub mod service;

pub mod grpc;
pub mod subscriptions;

pub mod authorize_payment;
pub mod capture_payment;
pub mod pay_order;
pub mod refund_payment;
pub mod void_payment;

pub mod expire_authorizations;
pub mod fold_ledger;
pub mod resolve_unknown;

pub mod read_ledger;
pub mod read_payments;

pub mod changes;
pub mod command;
pub mod conduct;
pub mod desk;
pub mod exchange;
pub mod finishing;
pub mod let_go;
pub mod publish;
pub mod settle;
pub mod starting;

pub mod ledger;
pub mod operation;
pub mod payment;

pub mod processor;
pub mod sandbox;

pub mod store;
pub mod wire;

pub mod error;

pub use service::Payment;
