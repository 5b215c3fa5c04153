//! The operators' API for sagas.

pub mod intervene;
pub mod retry;
pub mod show;
