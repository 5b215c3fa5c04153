//! All SQL. Every function takes a connection, so that the use case owns the transaction. The transaction sets the
//! facility, and row-level security restricts all statements to it.

pub mod lines;
mod order_row;
pub mod orders;
pub mod refunds;
pub mod resolutions;
pub mod saga_actions;
mod saga_row;
pub mod saga_steps;
pub mod sagas;

/// Rows to be written, which become one array for each column.
struct Column<'a, R>(&'a [R]);

impl<R: Copy> Column<'_, R> {
    fn map<T>(&self, value: impl Fn(R) -> T) -> Vec<T> {
        self.0.iter().copied().map(value).collect()
    }
}

/// A number of attempts as a column holds it.
fn attempts(made: u32) -> i32 {
    i32::try_from(made).unwrap_or(i32::MAX)
}

/// The error for a column that the domain cannot represent: it was written by a newer release or manually.
pub(crate) fn corrupt(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("unreadable {what}").into())
}
