//! All SQL. Everything takes a connection, so that the use case owns the transaction; the transaction names the
//! facility, and row-level security does the rest.

pub mod lines;
mod order_row;
pub mod orders;
pub mod refunds;
pub mod resolutions;
pub mod saga_actions;
mod saga_row;
pub mod saga_steps;
pub mod sagas;

/// Rows to be written, a column each.
struct Column<'a, R>(&'a [R]);

impl<R: Copy> Column<'_, R> {
    fn map<T>(&self, value: impl Fn(R) -> T) -> Vec<T> {
        self.0.iter().copied().map(value).collect()
    }
}

/// What a row holds that the domain does not know: a newer release wrote it, or a person did.
pub(crate) fn corrupt(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("unreadable {what}").into())
}
