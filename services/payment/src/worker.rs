//! Background work.

pub mod expire_authorizations;
pub mod fold_ledger;
pub mod resolve_unknown;
