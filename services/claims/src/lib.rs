//! The claims service: submits claims to the post office and imports remittances from payers.

pub mod config;
pub mod service;

pub mod grpc;
pub mod subscriptions;

pub mod get_claim;
pub mod get_claim_attachment;
pub mod import_remittance;
pub mod list_claims;
pub mod list_parked_lines;
pub mod prepare_claim;
pub mod resolve_parked_line;
pub mod resubmit_claim;
pub mod submit_claim;
pub mod withdraw_claim;

pub mod worker;

pub mod app;
pub mod apply_withdrawals;
pub mod book_remittance;
pub mod booking;
pub mod events;
pub mod import_report;
pub mod insert_drafts;
pub mod matching;
pub mod request;
pub mod response;
pub mod submission;
pub mod upload;

pub mod balance;
pub mod claim;
pub mod remittance;
pub mod rules;

pub mod post_office;

pub mod store;

pub mod error;

pub use service::Claims;
