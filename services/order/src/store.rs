//! All SQL. Everything takes a connection, so that the use case owns the transaction; the transaction names the
//! facility, and row-level security does the rest.

pub mod lines;
pub mod orders;
pub mod refunds;
pub mod resolutions;
pub mod saga_actions;
pub mod saga_steps;
pub mod sagas;

/// What a row holds that the domain does not know: a newer release wrote it, or a person did.
pub(crate) fn corrupt(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("unreadable {what}").into())
}
