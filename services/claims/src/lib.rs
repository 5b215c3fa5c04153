//! The claims service: files claims with the post office and reads what payers answer.

pub mod config;
pub mod service;

pub mod grpc;
pub mod subscriptions;

pub mod get_claim;
pub mod import_remittance;
pub mod list_claims;
pub mod list_parked;
pub mod prepare_claim;
pub mod resolve_parked;
pub mod resubmit_claim;
pub mod submit_claim;
pub mod withdraw_claim;

pub mod follow_up;

pub mod announce;
pub mod book_remittance;
pub mod booking;
pub mod desk;
pub mod filing;
pub mod matching;
pub mod report;
pub mod spool;
pub mod view;

pub mod balance;
pub mod claim;
pub mod remittance;
pub mod rules;

pub mod post_office;

pub mod store;

pub mod error;

pub use service::Claims;
